"""Counts the journal lines that were set aside."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    with op.batch_alter_table("journal_offset") as table:
        table.add_column(sa.Column("num_quarantined", integer, nullable=False, server_default="0"))
