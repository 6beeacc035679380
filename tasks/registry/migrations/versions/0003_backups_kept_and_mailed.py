"""dated backups, safety backups, and each mail of a backup"""

import sqlalchemy as sa
from alembic import op

from tasks.registry.models import BackupKind, MailState, UtcDateTime, Word

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("backup_run") as batch_op:
        batch_op.add_column(sa.Column("kind", Word(BackupKind), nullable=False, server_default="regular"))
        batch_op.add_column(sa.Column("taken_at", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("seconds", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("dated_path", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("pruned_at", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("database_bytes", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("delivery_attempts", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("deliver_after", UtcDateTime(), nullable=True))
    op.create_index("ix_backup_run_figures", "backup_run", ["target", "kind", "status", "verified"])
    op.create_table(
        "backup_mail",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("backup_id", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.String(length=300), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("state", Word(MailState), nullable=False),
        sa.Column("accepted", sa.JSON(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_backup_mail_backup_id", "backup_mail", ["backup_id"])


def downgrade() -> None:
    op.drop_table("backup_mail")
    op.drop_index("ix_backup_run_figures", "backup_run")
    with op.batch_alter_table("backup_run") as batch_op:
        for column in (
            "deliver_after",
            "delivery_attempts",
            "database_bytes",
            "pruned_at",
            "dated_path",
            "seconds",
            "taken_at",
            "kind",
        ):
            batch_op.drop_column(column)
