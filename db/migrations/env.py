"""Run by alembic for each command, in the transaction of the connection that db.migrate hands over."""

from alembic import context

from db.models import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
