"""Alembic's environment: run by `privacy.hosting.migrations` with an open connection."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
