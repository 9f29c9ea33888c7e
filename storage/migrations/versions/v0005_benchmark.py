"""Benchmarks and their studies, oversubscribed trials, and the ranks' processors."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "benchmark",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("uid", sa.String(length=40), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("num_studies", INTEGER, nullable=False),
        sa.Column("started", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    # Inline, as SQLite cannot add a constraint later, and copying the table would delete the rows that refer to it.
    key = sa.ForeignKey("benchmark.id", ondelete="CASCADE")
    op.add_column("study", sa.Column("benchmark_id", INTEGER, key, nullable=True), inline_references=True)
    op.create_index("ix_study_benchmark_id", "study", ["benchmark_id"])
    op.add_column("study", sa.Column("stage", sa.String(length=20), nullable=True))
    op.add_column("study", sa.Column("repeat", INTEGER, nullable=True))
    op.add_column("study", sa.Column("method_label", sa.String(length=100), nullable=True))
    op.add_column("study", sa.Column("workload_label", sa.String(length=100), nullable=True))
    op.add_column("trial", sa.Column("oversubscribed", sa.Boolean(), nullable=True))
    op.add_column("host", sa.Column("processor", sa.String(length=200), nullable=True))
    op.add_column("host", sa.Column("cores", INTEGER, nullable=True))
