"""Several objectives, the origin of trials, and the number of infeasible proposals."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("study", sa.Column("objectives", sa.JSON(), nullable=True))
    op.add_column("study", sa.Column("curve_metric", sa.String(length=100), nullable=True))
    op.add_column("study", sa.Column("num_refused", INTEGER, nullable=False, server_default="0"))
    op.add_column("trial", sa.Column("objectives", sa.JSON(), nullable=True))
    op.add_column("trial", sa.Column("proposal", sa.JSON(), nullable=True))
