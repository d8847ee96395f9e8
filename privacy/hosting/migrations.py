"""Bringing a service's database to its newest schema, with Alembic, from the first table on.

A service keeps its revisions in one folder of its own package; the environment that Alembic runs
them in is shared (`alembic_env/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from privacy.errors import StoreError
from privacy.hosting.database import reading, store_errors

_ENVIRONMENT = Path(__file__).parent / "alembic_env"


def upgrade_engine(
    engine: Engine, script_location: Path, given: Mapping[str, Any] | None = None
) -> None:
    """Run the revisions in `script_location` that the database has not seen yet.

    All of them run in one transaction, so a failure leaves the database as it was (MariaDB and
    MySQL cannot undo a change of tables), and of two processes that start together one waits for
    the other. `given`: what a revision finds in `context.config.attributes` besides the
    connection. Raises StoreError, also for a database that a newer fedtags wrote.
    """
    config = Config()
    config.set_main_option("script_location", _escape(_ENVIRONMENT))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", _escape(script_location))
    try:
        head = ScriptDirectory.from_config(config).get_current_head()
        with store_errors(), reading(engine) as connection:
            if MigrationContext.configure(connection).get_current_revision() == head:
                return
        with store_errors(), engine.begin() as connection:
            config.attributes.update({**(given or {}), "connection": connection})
            with _alone(connection):
                command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            "the database has a schema that this version of fedtags does not know; it was "
            "written by a newer version: install that version or restore a backup"
        ) from error


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Until the block ends no other process upgrades this database; SQLite's lock is there already.

    PostgreSQL's lock ends with the transaction, so the others see what was committed.
    """
    name = connection.dialect.name
    if name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4029871)")
    elif name in ("mysql", "mariadb"):
        connection.exec_driver_sql("SELECT GET_LOCK(CONCAT('fedtags ', DATABASE()), 600)")
    try:
        yield
    finally:
        if name in ("mysql", "mariadb"):  # whose lock is the connection's, and would outlast it
            with suppress(SQLAlchemyError):
                connection.exec_driver_sql("SELECT RELEASE_LOCK(CONCAT('fedtags ', DATABASE()))")


def _escape(path: Path) -> str:
    return str(path).replace("%", "%%")
