"""The first schema: studies, trials, progress, ledger, migrations, hosts and journal offsets."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "study",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("workload", sa.String(length=200), nullable=False),
        sa.Column("method", sa.String(length=200), nullable=False),
        sa.Column("metric", sa.String(length=100), nullable=False),
        sa.Column("direction", sa.String(length=10), nullable=False),
        sa.Column("target", sa.Float(precision=53), nullable=True),
        sa.Column("num_trials", INTEGER, nullable=True),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("started", sa.Float(precision=53), nullable=False),
        sa.Column("finished", sa.Float(precision=53), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "host",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("study_id", INTEGER, nullable=False),
        sa.Column("time", sa.Float(precision=53), nullable=False),
        sa.Column("world_rank", INTEGER, nullable=False),
        sa.Column("island", INTEGER, nullable=False),
        sa.Column("worker", INTEGER, nullable=False),
        sa.Column("rank", INTEGER, nullable=False),
        sa.Column("node", INTEGER, nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("process", INTEGER, nullable=False),
        sa.Column("device", sa.String(length=20), nullable=False),
        sa.Column("threads", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_host_study_id", "host", ["study_id"], unique=False)
    op.create_table(
        "journal_offset",
        sa.Column("study_id", INTEGER, nullable=False),
        sa.Column("file", sa.String(length=200), nullable=False),
        sa.Column("offset", INTEGER, nullable=False),
        sa.Column("num_skipped", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study_id", "file"),
    )
    op.create_table(
        "migration",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("study_id", INTEGER, nullable=False),
        sa.Column("time", sa.Float(precision=53), nullable=False),
        sa.Column("number", INTEGER, nullable=False),
        sa.Column("from_island", INTEGER, nullable=False),
        sa.Column("to_island", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_migration_study_id", "migration", ["study_id"], unique=False)
    op.create_table(
        "trial",
        sa.Column("id", INTEGER, nullable=False),
        sa.Column("study_id", INTEGER, nullable=False),
        sa.Column("number", INTEGER, nullable=False),
        sa.Column("attempt", INTEGER, nullable=False),
        sa.Column("island", INTEGER, nullable=False),
        sa.Column("worker", INTEGER, nullable=False),
        sa.Column("generation", INTEGER, nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("seed", INTEGER, nullable=False),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("configuration", sa.JSON(), nullable=False),
        sa.Column("objective", sa.Float(precision=53), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=True),
        sa.Column("seconds", sa.Float(precision=53), nullable=True),
        sa.Column("wire_bytes", sa.Float(precision=53), nullable=True),
        sa.Column("peak_memory", sa.Float(precision=53), nullable=True),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("started", sa.Float(precision=53), nullable=False),
        sa.Column("finished", sa.Float(precision=53), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("study_id", "number", "attempt"),
    )
    op.create_index("trial_by_objective", "trial", ["study_id", "state", "objective"], unique=False)
    op.create_table(
        "ledger",
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("operation", sa.String(length=20), nullable=False),
        sa.Column("scope", sa.String(length=10), nullable=False),
        sa.Column("payload_bytes", INTEGER, nullable=False),
        sa.Column("overlapped", sa.Boolean(), nullable=False),
        sa.Column("count", INTEGER, nullable=False),
        sa.Column("wire_bytes", sa.Float(precision=53), nullable=False),
        sa.Column("seconds_waited", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("trial_id", "operation", "scope", "payload_bytes", "overlapped"),
    )
    op.create_table(
        "progress",
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("step", INTEGER, nullable=False),
        sa.Column("epoch", INTEGER, nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("train_loss", sa.Float(precision=53), nullable=True),
        sa.Column("validation_loss", sa.Float(precision=53), nullable=True),
        sa.Column("metric", sa.Float(precision=53), nullable=True),
        sa.Column("learning_rate", sa.Float(precision=53), nullable=False),
        sa.Column("wire_bytes", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("trial_id", "step"),
    )
