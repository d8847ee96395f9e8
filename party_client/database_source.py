"""A party's own database as a source: one SELECT, streamed into DuckDB, never held in memory.

PostgreSQL and MySQL or MariaDB through a cursor on the server, in a read-only transaction with one
snapshot; SQLite from a file opened read-only. Types are those that the cursor declares, so a column
is read the same way whatever rows stand in it: every value arrives as text and is cast in DuckDB,
where a value that a type cannot hold spoils its own row only. SQLite declares none: all is text.

No error shows the database's own text: it quotes values, and may quote a password.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from party_client.duckdb_source import copy_duckdb, describe_duckdb
from party_client.readers import Connection as DuckDB
from party_client.readers import Relation, data_errors, database_relation, identifier, take_in
from party_client.source_settings import DatabaseFormat
from privacy.errors import ConfigError, DataError
from privacy.hosting.credentials import resolve_secret

BATCH = 20_000  # rows
CONNECT_SECONDS = 15
SILENCE_SECONDS = 3600  # after which a MySQL server that says nothing counts as gone
DECIMAL = "DECIMAL"  # kept as text, exactly as the database has it, without zeros at its end
INSTANT = "TIMESTAMP WITH TIME ZONE"  # servers are told to send them in UTC
_POSTGRESQL = {16: "BOOLEAN", 20: "BIGINT", 21: "BIGINT", 23: "BIGINT", 26: "BIGINT"} | {
    700: "DOUBLE",
    701: "DOUBLE",
    1700: DECIMAL,
    1082: "DATE",
    1114: "TIMESTAMP",
    1184: INSTANT,
}
_MYSQL = {1: "BIGINT", 2: "BIGINT", 3: "BIGINT", 9: "BIGINT", 13: "BIGINT"} | {
    8: "HUGEINT",  # unsigned, perhaps
    4: "DOUBLE",
    5: "DOUBLE",
    0: DECIMAL,
    246: DECIMAL,
    10: "DATE",
    7: INSTANT,
    12: "TIMESTAMP",
}


@dataclass(frozen=True)
class Place:
    """Where rows are read: a database and one table or query in it. Its repr hides the password.

    where: the settings' section, for messages. spill: a folder for what does not fit in memory.
    """

    url: URL
    table: str | None
    query: str | None
    where: str
    home: Path
    spill: Path


def place_of(
    wanted: DatabaseFormat, source: DatabaseFormat, where: str, home: Path, spill: Path
) -> Place:
    """The place that settings name; a section without a url of its own takes the source's.

    Raises ConfigError for a password reference that cannot be resolved.
    """
    owner = wanted if wanted.url is not None else source
    assert owner.url is not None
    url = make_url(owner.url)
    if owner.password is not None:
        url = url.set(password=resolve_secret(owner.password, home))
    return Place(url, wanted.table, wanted.query, where, home, spill)


def read_database(connection: DuckDB, place: Place, table: str) -> Relation:
    """Copy the rows of `place` into DuckDB's new table `table`; the relation reads that.

    Raises ConfigError for a database that cannot be reached, DataError for a table or query that
    it refuses and for a database that goes away while it is read: nothing is kept then.
    """
    if place.url.get_backend_name() == "duckdb":
        types = copy_duckdb(connection, _file(place), _select(place, '"'), table, place)
    else:
        with _opened(place) as opened:
            types = _copy(connection, opened, place, table)
    return database_relation(table, types)


def describe_database(place: Place) -> dict[str, str]:
    """Own column -> DuckDB type, without reading a row. Raises as `read_database` does."""
    if place.url.get_backend_name() == "duckdb":
        return describe_duckdb(_file(place), _select(place, '"'), place)
    with _opened(place) as opened:
        sql = f"SELECT * FROM ({_select(place, _quote(opened))}\n) fedtags_rows WHERE 1 = 0"
        return _types(place, _execute(opened, place, sql).cursor.description)


def _copy(connection: DuckDB, opened: Connection, place: Place, table: str) -> dict[str, str]:
    result = _execute(opened, place, _select(place, _quote(opened)))
    types = _types(place, result.cursor.description)
    schema = pa.schema([(name, pa.string()) for name in types])
    casts = ", ".join(f"{_cast(name, kind)} AS {identifier(name)}" for name, kind in types.items())
    with data_errors("the database's rows"):
        take_in(connection, f"CREATE TABLE {table} AS SELECT {casts}", schema.empty_table())
    batches = iter(result.partitions(BATCH))
    while True:
        with _went_away(place):
            rows = next(batches, None)
        if rows is None:
            break
        columns = [_texts(column) for column in zip(*rows, strict=True)]
        with data_errors("the database's rows"):
            batch = pa.Table.from_arrays(columns, schema=schema)
            take_in(connection, f"INSERT INTO {table} SELECT {casts}", batch)
    return {name: "VARCHAR" if kind == DECIMAL else kind for name, kind in types.items()}


def _texts(values: Sequence[object]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowException, TypeError, UnicodeError):
        return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    """A value as text: what is no UTF-8 becomes U+FFFD, by which its row is found later."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _cast(name: str, kind: str) -> str:
    text = identifier(name)
    if kind == "VARCHAR":
        return text
    if kind == DECIMAL:
        return (
            f"CASE WHEN contains({text}, '.') THEN rtrim(rtrim({text}, '0'), '.') ELSE {text} END"
        )
    if kind in ("DATE", "TIMESTAMP", INSTANT):
        # What DuckDB cannot read (0000-00-00, a year before Christ) is a time, but impossible.
        never = f"CASE WHEN {text} IS NOT NULL THEN TIMESTAMP '-infinity' END"
        time = f"coalesce(TRY_CAST({text} AS TIMESTAMP), {never})"
        return f"{time} AT TIME ZONE 'UTC'" if kind == INSTANT else f"CAST({time} AS {kind})"
    return f"TRY_CAST({text} AS {kind})"


def _types(place: Place, description: Sequence[Sequence[Any]]) -> dict[str, str]:
    declared: Mapping[int, str] = {}
    if place.url.get_backend_name() != "sqlite":
        declared = _POSTGRESQL if place.url.get_backend_name() == "postgresql" else _MYSQL
    names = [str(column[0]) for column in description]
    require_distinct(names, place.where)
    return {str(column[0]): declared.get(column[1], "VARCHAR") for column in description}


def require_distinct(names: Sequence[str], where: str) -> None:
    """Raise DataError unless every column has a name of its own."""
    if len(set(names)) != len(names) or not all(names):
        raise DataError(
            f"{where}.query gives two columns one name, or a column none: name each with AS"
        )


def _file(place: Place) -> Path:
    assert place.url.database is not None
    path = place.home / place.url.database
    if not path.is_file():
        raise ConfigError(
            f"the database file of {place.where}.url does not exist: it is relative to the "
            "party's folder"
        )
    return path


def _select(place: Place, mark: str) -> str:
    if place.query is not None:
        # As a subquery, so that it can be nothing but a SELECT; on lines of its own, because it
        # may end with a comment.
        return f"SELECT * FROM (\n{place.query.strip().rstrip(';')}\n) fedtags_query"
    assert place.table is not None
    parts = place.table.split(".")
    return "SELECT * FROM " + ".".join(
        f"{mark}{part.replace(mark, mark * 2)}{mark}" for part in parts
    )


def _quote(opened: Connection) -> str:
    return str(opened.dialect.identifier_preparer.initial_quote)


def _engine(place: Place) -> Engine:
    backend = place.url.get_backend_name()
    if backend == "sqlite":
        path = quote(str(_file(place)))

        def connect() -> sqlite3.Connection:
            opened = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
            opened.text_factory = lambda raw: raw.decode("utf-8", "replace")
            return opened

        return create_engine("sqlite://", creator=connect, poolclass=NullPool)
    arguments: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS}
    if backend in ("mysql", "mariadb"):
        from pymysql.converters import encoders

        # Without decoders every value stays the text that the server sent.
        arguments |= {"conv": encoders, "charset": "utf8mb4", "read_timeout": SILENCE_SECONDS}
    return create_engine(
        place.url, connect_args=arguments, poolclass=NullPool, hide_parameters=True
    )


@contextmanager
def _opened(place: Place) -> Iterator[Connection]:
    """A connection in a read-only transaction; thrown away, not closed politely, on an error."""
    try:
        opened = _engine(place).connect()
    except (SQLAlchemyError, ImportError, OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the database of {place.where}.url cannot be reached, or refuses this user "
            f"({_code(error)}): check host, port, name, user and {place.where}.password, and that "
            "the server runs"
        ) from None
    driver = opened.connection.driver_connection
    try:
        with _refused(place, "a read-only transaction cannot be opened"):
            _begin(opened)
        yield opened
    except BaseException:
        _forget_rows(driver)
        opened.invalidate()  # the rows that are still to come are not waited for
        raise
    finally:
        opened.close()


def _forget_rows(driver: Any) -> None:
    """PyMySQL would read the rest of an unfinished result when that is collected, from a connection
    that is closed by then."""
    result: Any = getattr(driver, "_result", None)
    if getattr(result, "unbuffered_active", False):
        result.unbuffered_active = False


def _begin(opened: Connection) -> None:
    backend = opened.dialect.name
    if backend == "postgresql":
        driver: Any = opened.connection.driver_connection
        from psycopg.types.string import TextLoader

        for known in driver.adapters.types:
            for oid in (known.oid, known.array_oid):
                if oid:
                    driver.adapters.register_loader(oid, TextLoader)
        opened.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        opened.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")
        opened.exec_driver_sql("SET LOCAL datestyle = 'ISO, YMD'")
    elif backend in ("mysql", "mariadb"):
        opened.exec_driver_sql("SET SESSION time_zone = '+00:00'")
        opened.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        opened.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")


def _execute(opened: Connection, place: Place, sql: str) -> Any:
    asked = f"{place.where}.query is refused by the database"
    if place.table is not None:
        asked = (
            f"table '{place.table}' ({place.where}.table) is not in the database, or this user may "
            "not read it"
        )
    with _refused(place, asked):
        return opened.execution_options(
            stream_results=True, yield_per=BATCH, no_parameters=True
        ).exec_driver_sql(sql)


@contextmanager
def _refused(place: Place, what: str) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, UnicodeError) as error:
        raise DataError(
            f"{what} ({_code(error)}): try it with the database's own client as the same user"
        ) from None


@contextmanager
def _went_away(place: Place) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, UnicodeError, OSError) as error:
        raise DataError(
            f"the database of {place.where} went away or broke off while it was read "
            f"({_code(error)}): nothing of it is kept; see that it runs, then try again"
        ) from None


def _code(error: BaseException) -> str:
    """The error's class and the database's number for it: neither holds a value."""
    if not isinstance(error, DBAPIError):
        return type(error).__name__
    driver: Any = error.orig
    number = getattr(driver, "sqlstate", None) or getattr(driver, "sqlite_errorname", None)
    if number is None and driver.args and isinstance(driver.args[0], int):
        number = driver.args[0]
    return f"{type(driver).__name__} {number}" if number else type(driver).__name__
