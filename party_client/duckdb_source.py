"""A DuckDB file as a source: opened read-only by DuckDB itself, its rows streamed into our own.

A second instance, not an attached one: the operator's query sees that file and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import duckdb

from party_client.readers import Connection, data_errors, identifier, take_in
from privacy.errors import ConfigError, DataError

BATCH = 100_000  # rows
_KEPT = {"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT"} | {
    *("UINTEGER", "UBIGINT", "FLOAT", "DOUBLE", "DECIMAL", "VARCHAR", "DATE", "TIMESTAMP"),
}


class Asked(Protocol):
    """What of a place the messages and the instance need."""

    @property
    def where(self) -> str: ...
    @property
    def table(self) -> str | None: ...
    @property
    def spill(self) -> Path: ...


def copy_duckdb(
    connection: Connection, path: Path, select: str, table: str, place: Asked
) -> dict[str, str]:
    """Copy the rows of `select` in file `path` into the new table `table`; own column -> type.

    Raises ConfigError for a file that cannot be opened, DataError for a SELECT that is refused.
    """
    with _opened(path, place) as other:
        types, casts = _plain(other, select, place)
        with _refused(place):
            reader = other.sql(f"SELECT {casts} FROM ({select})").to_arrow_reader(BATCH)
        with data_errors("the database's rows"):
            take_in(connection, f"CREATE TABLE {table} AS SELECT *", reader)
    return types


def describe_duckdb(path: Path, select: str, place: Asked) -> dict[str, str]:
    """Own column -> type, without reading a row. Raises as `copy_duckdb` does."""
    with _opened(path, place) as other:
        return _plain(other, select, place)[0]


def _plain(other: Connection, select: str, place: Asked) -> tuple[dict[str, str], str]:
    """Each column's type after a cast to one that Arrow carries exactly, and the casts."""
    with _refused(place):
        described = other.execute(f"DESCRIBE {select}").fetchall()
    types: dict[str, str] = {}
    casts = []
    for name, kind, *_ in described:
        own = identifier(name)
        if kind == "TIMESTAMP WITH TIME ZONE":
            types[name], cast = kind, own
        elif kind.startswith("TIMESTAMP"):
            types[name], cast = "TIMESTAMP", f"CAST({own} AS TIMESTAMP)"
        else:
            types[name] = kind if kind.split("(")[0] in _KEPT else "VARCHAR"
            cast = f"CAST({own} AS {types[name]})"
        casts.append(f"{cast} AS {own}")
    return types, ", ".join(casts)


@contextmanager
def _opened(path: Path, place: Asked) -> Iterator[Any]:
    config = {
        "access_mode": "READ_ONLY",
        "enable_external_access": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "preserve_insertion_order": "false",
        "temp_directory": str(place.spill),
        "threads": 2,
        "memory_limit": "1GB",
    }
    try:
        other = duckdb.connect(str(path), config=config)
    except duckdb.Error as error:
        raise ConfigError(
            f"the DuckDB file of {place.where}.url cannot be opened ({type(error).__name__}): "
            "another program may hold it open for writing, or it was written by a newer DuckDB; "
            "close it there, or export the table to Parquet"
        ) from None
    with other:
        yield other


@contextmanager
def _refused(place: Asked) -> Iterator[None]:
    what = f"{place.where}.query is refused by DuckDB"
    if place.table is not None:
        what = f"table '{place.table}' ({place.where}.table) is not in the DuckDB file"
    try:
        yield
    except duckdb.Error as error:
        raise DataError(
            f"{what} ({type(error).__name__}): try it with DuckDB's own client"
        ) from None
