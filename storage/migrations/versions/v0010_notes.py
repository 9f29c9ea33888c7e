"""What the method remarks about a trial, and what the trial has changed in its process."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("trial", sa.Column("notes", sa.JSON(), nullable=True))
