"""Further metrics of each progress report, such as the layer observer's."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("progress") as table:
        table.add_column(sa.Column("metrics", sa.JSON(), nullable=True))
