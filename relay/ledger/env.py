"""How Alembic runs a version: on the connection, and inside the transaction, that relay gives
it."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
