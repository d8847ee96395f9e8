"""Bringing a service's database to its newest schema, with Alembic, from the first table on.

A service keeps its revisions in one folder of its own package; the environment that Alembic runs
them in is shared (`alembic_env/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
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
# Of MySQL's lock, which takes a name of 64 characters, as long as a database's own.
_NAME = "CONCAT('fedtags ', MD5(DATABASE()))"


def upgrade_engine(
    engine: Engine,
    script_location: Path,
    given: Mapping[str, Any] | None = None,
    revision: str = "head",
) -> None:
    """Run the revisions in `script_location` that the database has not seen yet, up to `revision`.

    All of them run in one transaction, so a failure leaves the database as it was (MariaDB and
    MySQL cannot undo a change of tables), and of two processes that start together one waits for
    the other. `given`: what a revision finds in `context.config.attributes` besides the
    connection. Raises StoreError, also for a database that a newer fedtags wrote.
    """
    try:
        wanted = _newest(script_location) if revision == "head" else revision
        if current_revision(engine) == wanted:
            return
        config = _config(script_location)
        with (
            store_errors(),
            engine.connect() as connection,
            _alone(connection),
            connection.begin(),
        ):
            if connection.dialect.name == "postgresql":  # this lock ends with the transaction
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4029871)")
            config.attributes.update({**(given or {}), "connection": connection})
            command.upgrade(config, revision)
    except CommandError as error:
        raise StoreError(
            "the database has a schema that this version of fedtags does not know; it was "
            "written by a newer version: install that version or restore a backup"
        ) from error


@lru_cache
def _newest(script_location: Path) -> str | None:
    """The newest revision of a folder. A service opens several stores over one database, and
    reading every revision's file for each would take most of its start."""
    return ScriptDirectory.from_config(_config(script_location)).get_current_head()


def _config(script_location: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", _escape(_ENVIRONMENT))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", _escape(script_location))
    return config


def current_revision(engine: Engine) -> str | None:
    """The newest revision that the database has seen; None for one without any."""
    with store_errors(), reading(engine) as connection:
        return MigrationContext.configure(connection).get_current_revision()


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """On MariaDB and MySQL no other process upgrades this database until the block ends.

    The lock is the connection's, and is held until what was changed is committed: the next one must
    see it. SQLite's and PostgreSQL's locks belong to the transaction itself.
    """
    if connection.dialect.name not in ("mysql", "mariadb"):
        yield
        return
    got = connection.exec_driver_sql(f"SELECT GET_LOCK({_NAME}, 600)").scalar_one()
    connection.commit()
    if got != 1:
        raise StoreError("another process has been changing the database's tables for ten minutes")
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):
            connection.exec_driver_sql(f"SELECT RELEASE_LOCK({_NAME})")
            connection.commit()


def _escape(path: Path) -> str:
    return str(path).replace("%", "%%")
