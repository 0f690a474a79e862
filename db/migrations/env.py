"""Run by alembic for each command, over the connection that db.migrate hands over.

Each revision has a transaction of its own, unless the connection is in one: what one of them locks is free before the
next one begins.
"""

from alembic import context

from db.models import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
