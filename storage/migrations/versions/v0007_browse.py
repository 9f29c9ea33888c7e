"""The dashboard readers' annotations, and an index for a study's new trials."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("study", sa.Column("archived", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("trial", sa.Column("note", sa.Text(), nullable=True))
    op.create_index("trial_by_id", "trial", ["study_id", "id"])
