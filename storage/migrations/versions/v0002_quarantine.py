"""The number of quarantined journal lines, and a unique identifier of a study."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    with op.batch_alter_table("study") as table:
        table.add_column(sa.Column("uid", sa.String(40), nullable=True))
    with op.batch_alter_table("journal_offset") as table:
        table.add_column(sa.Column("num_quarantined", integer, nullable=False, server_default="0"))
