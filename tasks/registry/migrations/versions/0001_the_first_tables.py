"""the first tables"""

import sqlalchemy as sa
from alembic import op

from tasks.registry.models import UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "backup_run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("target", sa.String(length=120), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("started_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("finished_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("path", sa.String(), nullable=True),
        sa.Column("raw_bytes", sa.BigInteger(), nullable=True),
        sa.Column("file_bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("server_version", sa.String(), nullable=True),
        sa.Column("row_counts", sa.JSON(), nullable=True),
        sa.Column("delivery", sa.String(length=20), nullable=False),
        sa.Column("delivery_error", sa.String(), nullable=True),
        sa.Column("recipients", sa.String(), nullable=True),
        sa.Column("message_id", sa.String(), nullable=True),
        sa.Column("verified_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("verified", sa.Boolean(), nullable=True),
        sa.Column("verify_note", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("backup_run", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_backup_run_started_at"), ["started_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_backup_run_target"), ["target"], unique=False)

    op.create_table(
        "client",
        sa.Column("slug", sa.String(length=40), nullable=False),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("slug"),
    )
    op.create_table(
        "gmail_profile",
        sa.Column("user", sa.String(length=200), nullable=False),
        sa.Column("login_email", sa.String(), nullable=True),
        sa.Column("sub", sa.String(), nullable=True),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("given_name", sa.String(), nullable=True),
        sa.Column("family_name", sa.String(), nullable=True),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("picture", sa.String(), nullable=True),
        sa.Column("locale", sa.String(), nullable=True),
        sa.Column("language", sa.String(), nullable=True),
        sa.Column("messages_total", sa.BigInteger(), nullable=True),
        sa.Column("threads_total", sa.BigInteger(), nullable=True),
        sa.Column("granted_scopes", sa.String(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("connected_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("refreshed_at", UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("user"),
    )
    with op.batch_alter_table("gmail_profile", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_gmail_profile_refreshed_at"), ["refreshed_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_gmail_profile_sub"), ["sub"], unique=False)

    op.create_table(
        "health_transition",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("client", sa.String(length=40), nullable=False),
        sa.Column("at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("old", sa.String(length=20), nullable=False),
        sa.Column("new", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("health_transition", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_health_transition_at"), ["at"], unique=False)
        batch_op.create_index(batch_op.f("ix_health_transition_client"), ["client"], unique=False)

    op.create_table(
        "hold",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("since", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "step_journal",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("client", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("started_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("ended_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("outside_seconds", sa.Float(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("step_journal", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_step_journal_client"), ["client"], unique=False)
        batch_op.create_index(batch_op.f("ix_step_journal_run_id"), ["run_id"], unique=False)

    op.create_table(
        "zero_instance",
        sa.Column("client", sa.String(length=40), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("docker_host", sa.String(length=100), nullable=False),
        sa.Column("host_port", sa.Integer(), nullable=True),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("container_id", sa.String(), nullable=True),
        sa.Column("image", sa.String(), nullable=True),
        sa.Column("image_id", sa.String(), nullable=True),
        sa.Column("spec_hash", sa.String(), nullable=True),
        sa.Column("redirect_uri", sa.String(), nullable=True),
        sa.Column("updated_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("checked_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("successes", sa.Integer(), nullable=False),
        sa.Column("restart_count", sa.Integer(), nullable=False),
        sa.Column("latency_ms", sa.Float(), nullable=True),
        sa.Column("maintenance_until", UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["client"],
            ["client.slug"],
        ),
        sa.PrimaryKeyConstraint("client"),
        sa.UniqueConstraint("docker_host", "host_port", name="uq_zero_instance_port"),
    )


def downgrade() -> None:
    op.drop_table("zero_instance")
    with op.batch_alter_table("step_journal", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_step_journal_run_id"))
        batch_op.drop_index(batch_op.f("ix_step_journal_client"))

    op.drop_table("step_journal")
    op.drop_table("hold")
    with op.batch_alter_table("health_transition", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_health_transition_client"))
        batch_op.drop_index(batch_op.f("ix_health_transition_at"))

    op.drop_table("health_transition")
    with op.batch_alter_table("gmail_profile", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_gmail_profile_sub"))
        batch_op.drop_index(batch_op.f("ix_gmail_profile_refreshed_at"))

    op.drop_table("gmail_profile")
    op.drop_table("client")
    with op.batch_alter_table("backup_run", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_backup_run_target"))
        batch_op.drop_index(batch_op.f("ix_backup_run_started_at"))

    op.drop_table("backup_run")
