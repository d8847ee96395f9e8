"""Opening the profile store's database: private, at its newest schema, under the right key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, make_url, select
from sqlalchemy.exc import ArgumentError

from party_client.profile_tables import customers, key_checks, opt_outs
from party_client.settings import PartySettings
from privacy.errors import ConfigError, StoreError
from privacy.hosting.credentials import resolve_secret
from privacy.hosting.database import create_private_file, open_engine, reading, store_errors
from privacy.hosting.migrations import upgrade_engine
from privacy.hosting.sealing import Sealing

MIGRATIONS = Path(__file__).parent / "migrations"
KEY_CHECK = "store.key"
# A change waits this long for another one: a refresh of many tags takes minutes.
BUSY_SECONDS = 600
_TURN = select(key_checks.c.value).where(key_checks.c.name == KEY_CHECK).with_for_update()


def open_database(url: str, sealing: Sealing) -> Engine:
    """An engine on the upgraded database; a new SQLite file is its owner's only.

    Raises StoreError, also where the secret is not the one that the database was sealed with.
    """
    engine = open_engine(url, BUSY_SECONDS)
    create_private_file(
        url,
        "the profile store's file",
        "profile_store.url in party.toml and the permissions of its folder",
    )
    upgrade_engine(engine, MIGRATIONS, {"sealing": sealing})
    found = _stored_check(engine)
    if found is None:
        # Another process that starts now may be first; what it wrote is compared then.
        with suppress(StoreError), store_errors(), engine.begin() as connection:
            connection.execute(insert(key_checks).values(name=KEY_CHECK, value=sealing.check))
        found = _stored_check(engine)
    if found != sealing.check:
        engine.dispose()
        raise StoreError(
            "keys/store.key is not the key that the profile store was sealed with: restore key "
            "and database from the same backup"
        )
    return engine


def _stored_check(engine: Engine) -> bytes | None:
    query = select(key_checks.c.value).where(key_checks.c.name == KEY_CHECK)
    with store_errors(), reading(engine) as connection:
        found = connection.execute(query).scalar_one_or_none()
    return None if found is None else bytes(found)


@contextmanager
def taking_turns(engine: Engine) -> Iterator[Connection]:
    """A transaction beside which no other one of these runs; it sees all that they wrote.

    SQLite lets in one writer at a time anyway. The others lock one row, before anything is read:
    what MariaDB shows a transaction is as old as its first read.
    """
    with store_errors(), engine.begin() as connection:
        connection.execute(_TURN)
        yield connection


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection on which all that is read is of one moment, and many rows need not be held.

    Nobody who writes waits for it.
    """
    if engine.dialect.name == "sqlite":  # where the engine's own transactions lock writers out
        with reading(engine) as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                connection.exec_driver_sql("ROLLBACK")
        return
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


def store_url(settings: PartySettings) -> str:
    """The profile store's URL, with its password. Raises ConfigError."""
    url = settings.profile_store_url
    if settings.profile_store.password is None:
        return url
    return with_password(url, resolve_secret(settings.profile_store.password, settings.home))


def with_password(url: str, password: str) -> str:
    """`url` with a password put in. Raises ConfigError for what is no URL."""
    try:
        return make_url(url).set(password=password).render_as_string(hide_password=False)
    except ArgumentError as error:
        raise ConfigError("profile_store.url is not a database's URL") from error


def was_sealed(url: str) -> bool:
    """Whether a database is there that holds sealed values already."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return False
    engine = open_engine(url)
    try:
        with store_errors(), reading(engine) as connection:
            return any(
                connection.execute(select(table.c.customer_key).limit(1)).first() is not None
                for table in (customers, opt_outs)
                if engine.dialect.has_table(connection, table.name)
            )
    finally:
        engine.dispose()
