"""Many rows into one table, each database by its fastest way: the only SQL here that differs.

PostgreSQL takes a binary COPY, the others an executemany of plain tuples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from sqlalchemy import Column, Connection, Table, text

from privacy.errors import StoreError

CHUNK = 20_000
KEYS_AT_ONCE = 5_000  # in one statement; below every database's limit of bound values
Rows = Iterable[Sequence[bytes | str | float | int | bool | None]]


class DuplicateRow(StoreError):
    """Two rows with one key were offered."""


def bulk_load(connection: Connection, table: Table, rows: Rows) -> None:
    """Insert `rows`, each with a value for every column of `table` in its order.

    Raises DuplicateRow, and StoreError for whatever else the database refuses; neither shows a
    value. The transaction is then of no more use.
    """
    dialect = connection.dialect
    driver = dialect.loaded_dbapi
    try:
        if dialect.name == "postgresql":
            _copy(connection, table, rows)
        else:
            _many(connection, table, rows)
    except driver.IntegrityError:
        raise DuplicateRow("two rows with one key; nothing is written") from None
    except driver.Error as error:
        raise StoreError(
            f"the database cannot be written ({type(error).__name__}); nothing of this "
            "publication is kept: check that it runs, its free space and its url in the settings, "
            "then repeat"
        ) from None


def known_keys(connection: Connection, column: Column[bytes], keys: Sequence[bytes]) -> set[bytes]:
    """Those of `keys` that stand in `column`."""
    mark = _mark(connection)
    query = f"SELECT {column.name} FROM {column.table.name} WHERE {column.name} "
    found: set[bytes] = set()
    for start in range(0, len(keys), KEYS_AT_ONCE):
        part = tuple(keys[start : start + KEYS_AT_ONCE])
        # Not by SQLAlchemy's IN, which takes seven times as long to put so many values in.
        if connection.dialect.name == "postgresql":
            rows = connection.exec_driver_sql(f"{query} = ANY({mark})", (list(part),))
        else:
            marks = ", ".join([mark] * len(part))
            rows = connection.exec_driver_sql(f"{query} IN ({marks})", part)
        found.update(bytes(key) for (key,) in rows)
    return found


def prepare(connection: Connection) -> None:
    """Give a connection that is about to write much the memory that it needs for it."""
    name = connection.dialect.name
    if name == "sqlite":
        connection.exec_driver_sql("PRAGMA cache_size = -65536")  # KiB
        connection.exec_driver_sql("PRAGMA temp.cache_size = -65536")
    elif name == "postgresql":
        connection.execute(text("SET LOCAL work_mem = '128MB'"))


@contextmanager
def temporary(connection: Connection, table: Table) -> Iterator[None]:
    """`table` as a temporary one of this connection, empty, until the block ends."""
    # MariaDB's rollback keeps temporary tables, and its plain DROP TABLE would commit.
    kind, place = {
        "postgresql": ("TABLE", "pg_temp."),
        "sqlite": ("TABLE", "temp."),
    }.get(connection.dialect.name, ("TEMPORARY TABLE", ""))
    drop = f"DROP {kind} IF EXISTS {place}{table.name}"
    connection.exec_driver_sql(drop)
    table.create(connection, checkfirst=False)
    yield
    connection.exec_driver_sql(drop)


def settle(connection: Connection, table: Table) -> None:
    """Tell PostgreSQL's planner what a temporary table holds; the others look themselves."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"ANALYZE {table.name}")


def _copy(connection: Connection, table: Table, rows: Rows) -> None:
    cursor = connection.connection.cursor()
    try:
        types = [column.type.compile(connection.dialect) for column in table.columns]
        names = ", ".join(column.name for column in table.columns)
        with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types([_COPY_TYPES.get(one.split("(")[0], one.lower()) for one in types])
            write = copy.write_row
            for row in rows:
                write(row)
    finally:
        cursor.close()


def _mark(connection: Connection) -> str:
    return "?" if connection.dialect.paramstyle == "qmark" else "%s"


_COPY_TYPES = {
    "VARCHAR": "varchar",
    "INTEGER": "int4",
    "BIGINT": "int8",
    "FLOAT": "float8",
    "BYTEA": "bytea",
    "BOOLEAN": "bool",
}


def _many(connection: Connection, table: Table, rows: Rows) -> None:
    mark = _mark(connection)
    names = ", ".join(column.name for column in table.columns)
    marks = ", ".join([mark] * len(table.columns))
    cursor: Any = connection.connection.cursor()
    try:
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
        iterator = iter(rows)
        while chunk := list(islice(iterator, CHUNK)):
            cursor.executemany(statement, chunk)
    finally:
        cursor.close()
