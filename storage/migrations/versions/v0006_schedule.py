"""The step traces of a trial's ranks, and the predictions made from them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "schedule",
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("rank", INTEGER, nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("trial_id", "rank"),
    )
    op.create_table(
        "projection",
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("cluster", sa.String(100), nullable=False),
        sa.Column("scaling", sa.String(10), nullable=False),
        sa.Column("num_nodes", INTEGER, nullable=False),
        sa.Column("num_ranks", INTEGER, nullable=False),
        sa.Column("grows", sa.Boolean(), nullable=False),
        sa.Column("step_seconds", sa.Float(53), nullable=False),
        sa.Column("compute_seconds", sa.Float(53), nullable=False),
        sa.Column("exposed_seconds", sa.Float(53), nullable=False),
        sa.Column("epoch_seconds", sa.Float(53), nullable=False),
        sa.Column("steps_to_target", sa.Float(53), nullable=True),
        sa.Column("seconds_to_target", sa.Float(53), nullable=True),
        sa.Column("assumptions", sa.JSON(), nullable=False),
        sa.Column("description", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("trial_id", "cluster", "scaling", "num_nodes"),
    )
