"""Real servers that tests talk to where one answers; where none does, a test says so and skips.

FEDTAGS_REQUIRE (comma separated: data, postgresql, mariadb, chromium, nginx, node) turns such a
skip into a failure. FEDTAGS_POSTGRESQL and FEDTAGS_MARIADB name other servers than the loopback
ones.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator

import pytest
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

POSTGRESQL = "postgresql+psycopg://postgres@127.0.0.1:5432/test"
MARIADB = "mysql+pymysql://root@127.0.0.1:3306/test"


def require_or_skip(name: str, reachable: bool) -> None:
    """Skip aloud unless `reachable`; fail where FEDTAGS_REQUIRE lists `name`."""
    if reachable:
        return
    if name in os.environ.get("FEDTAGS_REQUIRE", "").split(","):
        pytest.fail(f"FEDTAGS_REQUIRE demands {name}, but it is not there")
    pytest.skip(f"no {name} is there")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the distribution's Chromium."""
    path = shutil.which("chromium")
    require_or_skip("chromium", path is not None)
    assert path is not None
    return path


@pytest.fixture
def postgresql_url() -> Iterator[str]:
    """A database of its own on a real PostgreSQL, dropped afterwards."""
    server = make_url(os.environ.get("FEDTAGS_POSTGRESQL", POSTGRESQL))
    yield from _own_database("postgresql", server)


@pytest.fixture
def mariadb_url() -> Iterator[str]:
    """A database of its own on a real MariaDB or MySQL, dropped afterwards."""
    server = make_url(os.environ.get("FEDTAGS_MARIADB", MARIADB))
    yield from _own_database("mariadb", server)


def _own_database(name: str, server: URL) -> Iterator[str]:
    own = f"fedtags_test_{secrets.token_hex(6)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {own}"))
    except SQLAlchemyError:
        engine.dispose()
        require_or_skip(name, reachable=False)
    try:
        yield server.set(database=own).render_as_string(hide_password=False)
    finally:
        force = " WITH (FORCE)" if name == "postgresql" else ""
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {own}{force}"))
        engine.dispose()
