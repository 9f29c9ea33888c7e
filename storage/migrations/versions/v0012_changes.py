"""The changes of a study's definition while it is searched."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "change",
        sa.Column("study_id", big, sa.ForeignKey("study.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", big, primary_key=True),
        sa.Column("requested", sa.Float(53), nullable=False),
        sa.Column("time", sa.Float(53), nullable=False),
        sa.Column("first_trial", big, nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("outside", sa.JSON(), nullable=False),
    )
