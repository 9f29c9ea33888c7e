"""What was searched and measured: the versions of a study's provenance, and the version of each trial."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "provenance",
        sa.Column("study_id", big, sa.ForeignKey("study.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("version", big, primary_key=True),
        sa.Column("time", sa.Float(53), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
    )
    op.add_column("trial", sa.Column("provenance", big, nullable=True))
