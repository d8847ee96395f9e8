"""The rows of the coordinator's database in one file, and back into an empty database.

    file = items of CBOR: {"format": 1, "revision": R}, then for each table
           {"table": T, "columns": [C]} and its rows, each a list of that many values,
           then {"rows": N}

All but a running run's checkpoints are in it. The rows are of one moment. It does not matter which
kind of database they come from or go to: SQLite or PostgreSQL. They go into tables as they were at
revision R, which are then brought to the newest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

import cbor2
from sqlalchemy import (
    Connection,
    DateTime,
    Integer,
    MetaData,
    Table,
    func,
    insert,
    inspect,
    select,
    text,
)

from coordinator.checkpoint_tables import checkpoint_attachments, checkpoints
from coordinator.run_store import MIGRATIONS
from privacy.errors import ConfigError
from privacy.hosting.database import open_engine, store_errors
from privacy.hosting.migrations import current_revision, upgrade_engine

FORMAT: Final = 1
VERSION_TABLE: Final = "alembic_version"
# What a run under way has heard: nothing that is restored goes on from it, and it outlives no run.
_PASSING: Final = frozenset({checkpoints.name, checkpoint_attachments.name})
_AT_ONCE = 500


def dump_rows(url: str, file: Path) -> int:
    """Write the rows of the database at `url` into `file`; returns how many.

    A server is read in one transaction that sees one moment and holds nobody up. For SQLite, `url`
    is a copy's, which nobody writes to. Raises StoreError and OSError.
    """
    engine = open_engine(url)
    try:
        revision = current_revision(engine)
        if engine.dialect.name == "sqlite":
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        else:
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with store_errors(), engine.connect() as connection, file.open("xb") as target:
            cbor2.dump({"format": FORMAT, "revision": revision}, target)
            kept = [one for one in _tables(connection) if one.name not in _PASSING]
            count = sum(_dump_table(connection, table, target) for table in kept)
            cbor2.dump({"rows": count}, target)
            return count
    finally:
        engine.dispose()


def restore_rows(url: str, file: Path) -> int:
    """Put the rows of `file` into the database at `url`, whole or not at all; returns how many.

    Raises ConfigError if the database holds any table, or the file is not what was written;
    StoreError, also for a revision that this version does not know.
    """
    engine = open_engine(url)
    try:
        with store_errors():
            if inspect(engine).get_table_names():
                raise ConfigError(
                    "the database to restore into is not empty: name a new one in [database] url "
                    "(or with --database-url); nothing was restored"
                )
        with file.open("rb") as source:
            reader = cbor2.CBORDecoder(source)
            head = _mapping(reader.decode())
            if head.get("format") != FORMAT:
                raise _altered()
            upgrade_engine(engine, MIGRATIONS, revision=str(head["revision"]))
            with store_errors(), engine.begin() as connection:
                count = _restore_tables(connection, reader)
        upgrade_engine(engine, MIGRATIONS)
        return count
    except (cbor2.CBORDecodeError, KeyError, EOFError) as error:
        raise _altered() from error
    finally:
        engine.dispose()


def _tables(connection: Connection) -> list[Table]:
    """The tables as they are, a row's own before those that refer to it."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [one for one in metadata.sorted_tables if one.name != VERSION_TABLE]


def _dump_table(connection: Connection, table: Table, target: IO[bytes]) -> int:
    names = [column.name for column in table.columns]
    cbor2.dump({"table": table.name, "columns": names}, target)
    query = select(table).order_by(*table.primary_key.columns)
    rows = connection.execution_options(yield_per=_AT_ONCE).execute(query)
    count = 0
    for row in rows:
        cbor2.dump([_plain(value) for value in row], target)
        count += 1
    return count


def _plain(value: object) -> object:
    # Times are without a zone in the tables (UTC), which CBOR's own form of a time is not.
    return value.isoformat() if isinstance(value, datetime) else value


def _restore_tables(connection: Connection, reader: cbor2.CBORDecoder) -> int:
    known = {table.name: table for table in _tables(connection)}
    # What a revision put there by itself is in the dump as well.
    for one in reversed(_tables(connection)):
        connection.execute(one.delete())
    count = 0
    item = reader.decode()
    while "rows" not in _mapping(item):
        table = known.get(_mapping(item)["table"])
        if table is None or set(item["columns"]) != {column.name for column in table.columns}:
            raise _altered()
        batch: list[dict[str, Any]] = []
        names: Sequence[str] = item["columns"]
        for row in _rows(reader):
            if isinstance(row, dict):
                item = row
                break
            if len(row) != len(names):
                raise _altered()
            batch.append(_values(table, names, row))
            count += 1
            if len(batch) >= _AT_ONCE:
                connection.execute(insert(table), batch)
                batch.clear()
        if batch:
            connection.execute(insert(table), batch)
        _continue_numbers(connection, table)
    if item["rows"] != count:
        raise _altered()
    return count


def _rows(reader: cbor2.CBORDecoder) -> Iterator[Any]:
    while True:
        yield reader.decode()


def _values(table: Table, names: Sequence[str], row: Sequence[object]) -> dict[str, Any]:
    times = {column.name for column in table.columns if isinstance(column.type, DateTime)}
    return {
        name: datetime.fromisoformat(value) if name in times and isinstance(value, str) else value
        for name, value in zip(names, row, strict=True)
    }


def _continue_numbers(connection: Connection, table: Table) -> None:
    """PostgreSQL numbers new rows by a sequence, which knows nothing of rows that have theirs."""
    if connection.dialect.name != "postgresql":
        return
    keys = [one for one in table.primary_key.columns if isinstance(one.type, Integer)]
    for column in keys:
        sequence = connection.execute(
            select(func.pg_get_serial_sequence(table.name, column.name))
        ).scalar_one()
        newest = connection.execute(select(func.max(column))).scalar_one()
        if sequence is not None and newest is not None:
            connection.execute(
                text("SELECT setval(:sequence, :newest)"),
                {"sequence": sequence, "newest": newest},
            )


def _mapping(item: object) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise _altered()
    return item


def _altered() -> ConfigError:
    return ConfigError("the backup's database is not what was written; nothing was restored")
