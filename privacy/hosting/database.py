"""Opening a service's database: SQLite by default, any SQLAlchemy URL otherwise.

On SQLite two processes of one service write to the same file. Write-ahead logging lets one read
while the other writes; every transaction takes the write lock when it begins, because a reader
that upgrades later is refused at once instead of waiting.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    InvalidatePoolError,
    NoSuchModuleError,
    SQLAlchemyError,
)
from sqlalchemy.pool import ConnectionPoolEntry

from privacy.errors import ConfigError, StoreError

BUSY_SECONDS = 15
MOST_READERS = 40  # as many as the threads that answer requests
_READERS: WeakKeyDictionary[Engine, Engine] = WeakKeyDictionary()
# Another one's lock: SQLite (by its primary code), MariaDB and MySQL, PostgreSQL.
_BUSY = {5, 6, 1205, 1213, "55P03", "40P01"}


def resolve_url(url: str, home: Path) -> str:
    """A relative SQLite path in `url` is relative to `home`; every other URL stays as it is."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            "database url is not valid; give one like sqlite:///file.db or "
            "postgresql+psycopg://user@host/name"
        ) from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return url
    if parsed.database == ":memory:":
        raise ConfigError("database url: an in-memory database would lose the runs; name a file")
    return f"sqlite:///{(home / parsed.database).resolve()}"


def open_engine(url: str, busy_seconds: int | None = None) -> Engine:
    """An engine for `url`. Read with `reading(engine)`, write with `engine.begin()`.

    `busy_seconds`: how long a write waits for another one; by default 15 on SQLite, and on a server
    what the server is set to. PostgreSQL always waits as long as it is set to.
    """
    try:
        # Errors must not show a statement's values, customers' ids among them.
        # A server may have been restarted since a connection was used; a file cannot.
        server = make_url(url).get_backend_name() != "sqlite"
        engine = create_engine(url, hide_parameters=True, pool_pre_ping=server)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(
            "database url: no driver for it is installed; check its scheme"
        ) from error
    if engine.dialect.name == "sqlite":
        seconds = BUSY_SECONDS if busy_seconds is None else busy_seconds
        event.listen(engine, "connect", partial(_prepare_sqlite, seconds))
        event.listen(engine, "begin", _begin_immediate)
        if engine.url.database not in (None, "", ":memory:"):
            _follow_file(engine)
            _add_reader(engine, seconds)
    elif engine.dialect.name in ("mysql", "mariadb") and busy_seconds is not None:
        event.listen(engine, "connect", partial(_prepare_mariadb, busy_seconds))
    return engine


def create_private_file(url: str, what: str, check: str) -> None:
    """Make the file of an SQLite database that is not there yet, for its owner alone: SQLite would
    make it by the umask, and its side files take over the mode found here.

    A file that is there is not opened. Closing a descriptor of it would drop every lock that this
    process holds on it by other connections, and another process could then delete a log of writes
    that is in use. Raises StoreError, which names `what` and says to `check`.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    try:
        os.close(os.open(parsed.database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise StoreError(f"{what} cannot be opened ({error.strerror}); check {check}") from error


def reading(engine: Engine) -> Connection:
    """A connection for single reads that takes no lock; use it in a `with` block.

    Nothing may be written through it; SQLite refuses to.
    """
    reader = _READERS.get(engine)
    if reader is not None:
        return reader.connect()
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn SQLAlchemy's errors into StoreError: their text may hold a statement's values."""
    try:
        yield
    except SQLAlchemyError as error:
        if _is_busy(getattr(error, "orig", None)):
            raise StoreError(
                "the database is busy with another change and nothing of this one was written; "
                "repeat it when that change has ended"
            ) from error
        raise StoreError(
            f"the database cannot be read or written ({type(error).__name__}); check its url in "
            "the settings, its folder's permissions and free disk space"
        ) from error


def utc_now() -> datetime:
    """The time now, with its zone (UTC)."""
    return datetime.now(UTC)


def _is_busy(cause: BaseException | None) -> bool:
    """Whether a driver's error says that another transaction held a lock for too long."""
    if cause is None:
        return False
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _BUSY
    return bool({getattr(cause, "sqlstate", None), *cause.args[:1]} & _BUSY)


def _add_reader(engine: Engine, seconds: int) -> None:
    """Give a SQLite engine another one for reading, whose connections stay as they are.

    Turning one of the engine's connections into a reading one and back takes as long as a small
    query. And a burst must not open connections that are closed again at once: that takes longer
    than what they are asked.
    """
    reader = create_engine(
        engine.url,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_size=MOST_READERS,
        max_overflow=MOST_READERS,
        pool_use_lifo=True,
    )
    event.listen(reader, "connect", partial(_prepare_sqlite, seconds))
    event.listen(reader, "connect", _refuse_writes)
    _follow_file(reader)
    event.listen(engine, "engine_disposed", lambda _engine: reader.dispose())
    _READERS[engine] = reader


def _follow_file(engine: Engine) -> None:
    """Leave connections to a SQLite file that another one has taken the place of.

    A connection would answer from the file that it opened, though a backup lies in its place. And
    opening one would make an empty database where the file is gone.
    """
    file = engine.url.database or ""
    opened = False

    def before(*_given: object) -> None:
        if opened and _identity(file) is None:
            raise StoreError(f"{file} is gone: put the database back, then repeat")

    def connected(_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        nonlocal opened
        opened = True
        record.info["file"] = _identity(file)

    def taken(_connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if record.info["file"] != _identity(file):
            raise InvalidatePoolError("the database's file is another one now")

    event.listen(engine, "do_connect", before)
    event.listen(engine, "connect", connected)
    event.listen(engine, "checkout", taken)


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _prepare_mariadb(
    seconds: int, connection: DBAPIConnection, _record: ConnectionPoolEntry
) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {seconds}")
    cursor.close()


def _prepare_sqlite(
    seconds: int, connection: DBAPIConnection, _record: ConnectionPoolEntry
) -> None:
    connection.isolation_level = None  # transactions are SQLAlchemy's
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {seconds * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _refuse_writes(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only = ON")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    # Asked of SQLAlchemy, not of SQLite, which knows no such level and would answer SERIALIZABLE.
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
