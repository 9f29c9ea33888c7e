"""No text has a length limit, on PostgreSQL as in SQLite, which ignores the limits: paths and names may be long."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

COLUMNS = {
    "benchmark": ("name", "uid"),
    "study": (
        "name",
        "state",
        "workload",
        "method",
        "metric",
        "direction",
        "uid",
        "curve_metric",
        "stage",
        "method_label",
        "workload_label",
    ),
    "trial": ("state", "host"),
    "ledger": ("operation", "scope"),
    "projection": ("cluster", "scaling"),
    "host": ("hostname", "device", "processor"),
    "journal_offset": ("file",),
}


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return  # SQLite would copy whole tables for nothing
    for table, columns in COLUMNS.items():
        for column in columns:
            op.alter_column(table, column, type_=sa.String())
