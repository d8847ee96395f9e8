"""Bringing a service's database to its newest schema, with Alembic, from the first table on.

A service keeps its revisions in one folder of its own package; the environment that Alembic runs
them in is shared (`alembic_env/`).
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine

from privacy.errors import StoreError
from privacy.hosting.database import reading, store_errors

_ENVIRONMENT = Path(__file__).parent / "alembic_env"


def upgrade_engine(engine: Engine, script_location: Path) -> None:
    """Run the revisions in `script_location` that the database has not seen yet.

    All of them run in one transaction, so a failure leaves the database as it was, and of two
    processes that start together one waits for the other. Raises StoreError, also for a database
    that a newer fedtags wrote.
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
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            "the database has a schema that this version of fedtags does not know; it was "
            "written by a newer version: install that version or restore a backup"
        ) from error


def _escape(path: Path) -> str:
    return str(path).replace("%", "%%")
