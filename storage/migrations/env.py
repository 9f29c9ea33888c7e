"""Alembic's entry: runs the versions on the connection that the store passes."""

from alembic import context

from atoll.storage.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
