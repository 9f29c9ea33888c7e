"""Reports of a user's function have no learning rate, and their traffic is not counted."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    with op.batch_alter_table("progress") as table:
        for column in ("learning_rate", "wire_bytes"):
            table.alter_column(column, existing_type=sa.Float(), nullable=True)
