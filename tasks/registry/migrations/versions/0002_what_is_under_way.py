"""what is under way with a client, and what diagnose-client saw last"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("zero_instance") as batch_op:
        batch_op.add_column(sa.Column("pending", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("looked", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("zero_instance") as batch_op:
        batch_op.drop_column("looked")
        batch_op.drop_column("pending")
