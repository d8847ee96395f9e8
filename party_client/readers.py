"""Reads a party's own files through DuckDB, out of core: CSV and Parquet, never a whole file.

With `duckdb_source` the one doorway to DuckDB. A reader learns nothing from the data: types are
declared (every text column is text), so the same file is read the same way whatever rows stand in
it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from models.tasks import text_literal
from party_client.source_files import PARQUET, FoundFile, find_files
from party_client.source_settings import SourceFile, TextFormat
from party_client.text_lines import LineFile, LineGrammar, first_line, line_file
from privacy.errors import ConfigError, DataError

Connection = Any  # duckdb.DuckDBPyConnection: the package ships no usable annotations
FILE = "fedtags_file"
MALFORMED = "fedtags_malformed"
CSV_REJECTS = "csv_rejects"
LINE_REJECTS = "line_rejects"
_KEEP_REJECTS = (
    f"ignore_errors=true, store_rejects=true, rejects_table='{CSV_REJECTS}', rejects_limit=0"
)
_SMALL = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_INTEGERS = _SMALL | {"UBIGINT", "HUGEINT"}
_NUMBERS = _INTEGERS | {"FLOAT", "DOUBLE", "DECIMAL"}


@dataclass(frozen=True)
class Relation:
    """A SELECT over the party's records and the declared DuckDB type of each of its own columns.

    The SELECT yields these columns plus `FILE` (index into `files`, which is empty for a database)
    and `MALFORMED` (boolean).
    """

    sql: str
    types: Mapping[str, str]
    files: tuple[SourceFile, ...]


def connect(memory_limit: str, threads: int, spill: Path) -> Connection:
    """An empty DuckDB that spills to `spill` beyond `memory_limit` and loads no extension.

    `spill` is made here, for this user only: DuckDB would make it, and the customers' rows in it,
    readable by everybody. Table `LINE_REJECTS` takes the lines that never reach the CSV reader.
    """
    try:
        spill.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"folder {spill.parent} cannot be written ({error.strerror}): make the party's folder "
            "writable"
        ) from error
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": str(spill),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "preserve_insertion_order": "false",
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"CREATE TABLE {LINE_REJECTS} (file VARCHAR, line VARCHAR)")
    return connection


@contextmanager
def data_errors(what: str) -> Iterator[None]:
    """Turn DuckDB's errors into DataError, without DuckDB's text: it quotes rows."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise DataError(
            f"{what} needs more memory than source.memory_limit, or more room in the party's "
            "folder to spill to: raise the limit or free some space"
        ) from None
    except duckdb.Error as error:
        raise DataError(
            f"{what} cannot be read ({type(error).__name__}): check that a file is whole, is "
            "CSV or Parquet as its name says, and that delimiter, quote and encoding are right"
        ) from None


def take_in(connection: Connection, statement: str, batch: Any) -> None:
    """Run `statement`, which ends before its FROM, over an Arrow table or a reader of batches.

    Temporary tables are out of its reach.
    """
    with connection.cursor() as own:
        own.register("fedtags_batch", batch)
        own.execute(f"{statement} FROM fedtags_batch")


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def read_files(
    connection: Connection,
    files: Sequence[SourceFile],
    text: TextFormat,
    home: Path,
    scratch: Path,
    customer: str,
) -> Relation:
    """Open the files named in settings, relative to `home`; text is rewritten into `scratch`.

    `customer` is the own column of the customer ids: no id is rounded where files differ in type.
    A row with a value that does not fit the type of its column is marked `MALFORMED`.
    Lines of text that are no row by themselves go to table `LINE_REJECTS` now, those with too few
    or too many fields to `CSV_REJECTS` when the relation is read.
    Raises ConfigError for a path that names no file, DataError for a file that is empty or whose
    header cannot be read.
    """
    opened: list[tuple[str, Mapping[str, str]]] = []
    expanded: list[SourceFile] = []
    for wanted in files:
        for found in find_files(wanted.path, home):
            if found.path.suffix.lower() in PARQUET:
                opened.append(_open_parquet(connection, found))
            else:
                opened.append(_open_text(connection, found.path, text, scratch))
            expanded.append(wanted.model_copy(update={"path": str(found.path)}))
    types = _common_types([own for _, own in opened], customer)
    selects = []
    for number, (sql, own) in enumerate(opened):
        columns = ", ".join(
            f"{_as_type(name, own.get(name), kind)} AS {identifier(name)}"
            for name, kind in types.items()
        )
        malformed = MALFORMED if MALFORMED in sql else "false"
        for name, kind in own.items():
            if kind not in (types[name], "VARCHAR"):
                lost = f"{_as_type(name, kind, types[name])} IS NULL"
                malformed += f" OR ({identifier(name)} IS NOT NULL AND {lost})"
        selects.append(
            f"SELECT {number} AS {FILE}, {malformed} AS {MALFORMED}, {columns} FROM ({sql})"
        )
    return Relation("\nUNION ALL\n".join(selects), types, tuple(expanded))


def database_relation(table: str, types: Mapping[str, str]) -> Relation:
    """The relation of rows that were copied from a database into DuckDB's table `table`."""
    columns = ", ".join(identifier(name) for name in types)
    sql = f"SELECT 0 AS {FILE}, false AS {MALFORMED}, {columns} FROM {table}"
    return Relation(sql, dict(types), ())


def describe_files(
    connection: Connection,
    files: Sequence[SourceFile],
    text: TextFormat,
    home: Path,
    customer: str,
) -> dict[str, str]:
    """Own column -> DuckDB type, from the files' headers alone. Raises as `read_files` does."""
    opened = []
    for wanted in files:
        for found in find_files(wanted.path, home):
            if found.path.suffix.lower() in PARQUET:
                _, own = _open_parquet(connection, found)
            else:
                own = dict.fromkeys(_header(found.path, text), "VARCHAR")
            opened.append(own)
    return _common_types(opened, customer)


def number_text(column: str, kind: str) -> str:
    """SQL for a column that is no text as text: 13085, 13085.0 and 13085.00 read '13085'."""
    text = f"CAST({column} AS VARCHAR)"
    if kind in ("DOUBLE", "FLOAT"):
        return (
            f"CASE WHEN abs({column}) < 1e15 AND {column} = floor({column}) "
            f"THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) ELSE {text} END"
        )
    if kind.startswith("DECIMAL") and not kind.endswith(",0)"):
        return f"rtrim(rtrim({text}, '0'), '.')"
    return text


def _common_types(opened: Sequence[Mapping[str, str]], customer: str) -> dict[str, str]:
    kinds: dict[str, list[str]] = {}
    for own in opened:
        for name, kind in own.items():
            kinds.setdefault(name, []).append(kind)
    return {name: _common_type(found, name == customer) for name, found in kinds.items()}


def _common_type(kinds: Sequence[str], of_customers: bool) -> str:
    """The type that holds them all; a customer's id is text rather than rounded."""
    bare = {kind.split("(")[0] for kind in kinds}
    if len(set(kinds)) == 1:
        return kinds[0]
    if bare <= _INTEGERS:
        return "BIGINT" if bare <= _SMALL else "HUGEINT"
    if bare <= _NUMBERS and not of_customers:
        return "DOUBLE"
    return "TIMESTAMP" if bare <= {"DATE", "TIMESTAMP", "TIMESTAMP_NS"} else "VARCHAR"


def _as_type(name: str, own: str | None, kind: str) -> str:
    """SQL for a column of type `own`, None where the file has none, as `kind`; NULL: no fit."""
    if own is None:
        return f"CAST(NULL AS {kind})"
    if own == kind:
        return identifier(name)
    if kind == "VARCHAR":
        return number_text(identifier(name), own)
    return f"TRY_CAST({identifier(name)} AS {kind})"


def _open_parquet(connection: Connection, found: FoundFile) -> tuple[str, dict[str, str]]:
    sql = f"SELECT * FROM read_parquet({text_literal(str(found.path))}, hive_partitioning=false)"
    with data_errors(f"source file {found.path.name}"):
        described = connection.execute(f"DESCRIBE {sql}").fetchall()
    types = {row[0]: row[1] for row in described}
    said = {name: value for name, value in found.partitions.items() if name not in types}
    if said:
        values = ", ".join(
            f"CAST({'NULL' if value is None else text_literal(value)} AS VARCHAR) "
            f"AS {identifier(name)}"
            for name, value in said.items()
        )
        sql = f"SELECT *, {values} FROM ({sql})"
    return sql, types | dict.fromkeys(said, "VARCHAR")


def _open_text(
    connection: Connection, path: Path, text: TextFormat, scratch: Path
) -> tuple[str, dict[str, str]]:
    lines = line_file(path, text, LineGrammar(text), scratch)
    if lines.set_aside is not None:
        with data_errors(f"source file {path.name}"):
            connection.execute(
                f"INSERT INTO {LINE_REJECTS} SELECT {text_literal(path.name)}, decode(unhex(line)) "
                f"FROM read_csv({text_literal(str(lines.set_aside))}, auto_detect=false, "
                "header=false, delim=',', quote='', escape='', columns={'line': 'VARCHAR'})"
            )
    names, skip = _columns(path, text, lines)
    if text.delimiter == "space":
        return _blank_separated_sql(lines.path, names, skip), dict.fromkeys(names, "VARCHAR")
    columns = ", ".join(f"{text_literal(name)}: 'VARCHAR'" for name in names)
    # parallel: a thread that starts in the middle of a file with quotes guesses whether it is
    # inside one, from lines that are other customers'.
    quote = text.quote if lines.quoted else ""
    sql = (
        f"SELECT * FROM read_csv({text_literal(str(lines.path))}, auto_detect=false, header=false, "
        f"skip={skip}, delim={text_literal(text.delimiter)}, quote={text_literal(quote)}, "
        f"escape={text_literal(quote)}, columns={{{columns}}}, strict_mode=true, "
        f"parallel={'false' if quote else 'true'}, {_KEEP_REJECTS})"
    )
    return sql, dict.fromkeys(names, "VARCHAR")


def _columns(path: Path, text: TextFormat, lines: LineFile) -> tuple[list[str], int]:
    """The column names of a text file, and how many lines stand before its first row."""
    with lines.path.open(encoding="utf-8", newline="") as file:
        number, first = next(
            ((number, line) for number, line in enumerate(file) if line.strip()), (0, "")
        )
    if not first and lines.set_aside is None:
        raise DataError(f"source file {path.name} is empty: export it again")
    if not text.has_header:
        assert text.fields is not None
        return [f"#{position}" for position in range(1, text.fields + 1)], 0
    return _names(path, text, None if lines.header_lost else first), number + 1


def _header(path: Path, text: TextFormat) -> list[str]:
    """The column names of a text file, from its first line alone."""
    if not text.has_header:
        assert text.fields is not None
        return [f"#{position}" for position in range(1, text.fields + 1)]
    grammar = LineGrammar(text)
    first = first_line(path, text)
    if first is None:
        raise DataError(f"source file {path.name} is empty: export it again")
    return _names(path, text, first if grammar.accepts(first) else None)


def _names(path: Path, text: TextFormat, header: str | None) -> list[str]:
    names = [] if header is None else _split_header(header.strip("\r\n"), text)
    if not names:
        raise DataError(
            f"the header of source file {path.name} cannot be read: correct its quotes, or "
            "delimiter, quote and encoding in party.toml"
        )
    if len(set(names)) != len(names) or not all(names):
        raise DataError(
            f"source file {path.name} has an empty or repeated column name: correct its header, "
            "or set has_header = false and map columns by position"
        )
    return names


def _split_header(line: str, text: TextFormat) -> list[str]:
    if text.delimiter == "space":
        return line.split()
    try:
        fields = next(csv.reader([line], delimiter=text.delimiter, quotechar=text.quote or None))
    except csv.Error:
        return []
    return [field.strip() for field in fields]


def _blank_separated_sql(path: Path, names: Sequence[str], skip: int) -> str:
    columns = ", ".join(
        f"parts[{position}] AS {identifier(name)}" for position, name in enumerate(names, start=1)
    )
    return (
        f"SELECT len(parts) <> {len(names)} AS {MALFORMED}, {columns} FROM ("
        "SELECT regexp_split_to_array(trim(line, ' ' || chr(9) || chr(13)), '\\s+') AS parts "
        f"FROM read_csv({text_literal(str(path))}, auto_detect=false, header=false, skip={skip}, "
        f"delim=chr(31), quote='', escape='', columns={{'line': 'VARCHAR'}}, {_KEEP_REJECTS}) "
        "WHERE trim(line, ' ' || chr(9) || chr(13)) <> '')"
    )
