"""Reads a party's own files through DuckDB, out of core: CSV and Parquet, never a whole file.

The one doorway to DuckDB. A reader learns nothing from the data: types are declared (every text
column is text), so the same file is read the same way whatever rows stand in it.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from models.tasks import text_literal
from party_client.source_settings import SourceFile, TextFormat
from party_client.text_lines import LineFile, LineGrammar, line_file
from privacy.errors import ConfigError, DataError

Connection = Any  # duckdb.DuckDBPyConnection: the package ships no usable annotations
FILE = "fedtags_file"
MALFORMED = "fedtags_malformed"
CSV_REJECTS = "csv_rejects"
LINE_REJECTS = "line_rejects"
_KEEP_REJECTS = (
    f"ignore_errors=true, store_rejects=true, rejects_table='{CSV_REJECTS}', rejects_limit=0"
)
_NUMBERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UINTEGER", "FLOAT", "DOUBLE", "DECIMAL"}


@dataclass(frozen=True)
class Relation:
    """A SELECT over the party's files and the declared DuckDB type of each of its own columns.

    The SELECT yields these columns plus `FILE` (index into `files`) and `MALFORMED` (boolean).
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
            f"{what} cannot be read ({type(error).__name__}): check that the file is whole, is "
            "CSV or Parquet as its name says, and that delimiter, quote and encoding are right"
        ) from None


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def read_files(
    connection: Connection,
    files: Sequence[SourceFile],
    text: TextFormat,
    home: Path,
    scratch: Path,
) -> Relation:
    """Open the files named in settings, relative to `home`; text is rewritten into `scratch`.

    Lines of text that are no row by themselves go to table `LINE_REJECTS` now, those with too few
    or too many fields to `CSV_REJECTS` when the relation is read.
    Raises ConfigError for a path that names no file, DataError for a file that is empty or whose
    header cannot be read.
    """
    opened: list[tuple[str, Mapping[str, str]]] = []
    expanded: list[SourceFile] = []
    for wanted in files:
        for path in _expand(wanted.path, home):
            if path.suffix.lower() in (".parquet", ".pq"):
                opened.append(_open_parquet(connection, path))
            else:
                opened.append(_open_text(connection, path, text, scratch))
            expanded.append(wanted.model_copy(update={"path": str(path)}))
    types: dict[str, str] = {}
    for _, own in opened:
        for name, kind in own.items():
            types[name] = _common_type(types.get(name, kind), kind)
    selects = []
    for number, (sql, own) in enumerate(opened):
        columns = ", ".join(
            f"CAST({identifier(name) if name in own else 'NULL'} AS {kind}) AS {identifier(name)}"
            for name, kind in types.items()
        )
        malformed = MALFORMED if MALFORMED in sql else "false"
        selects.append(
            f"SELECT {number} AS {FILE}, {malformed} AS {MALFORMED}, {columns} FROM ({sql})"
        )
    return Relation("\nUNION ALL\n".join(selects), types, tuple(expanded))


def file_stamps(files: Sequence[SourceFile], home: Path) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of change of every file that `files` name now.

    Raises ConfigError for a path that names no file.
    """
    stamps = []
    for wanted in files:
        for path in _expand(wanted.path, home):
            status = path.stat()
            stamps.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(stamps)


def _common_type(first: str, second: str) -> str:
    """The type that holds both: 13085 in one file and 13085.0 in another are one customer."""
    if first == second:
        return first
    kinds = {first.split("(")[0], second.split("(")[0]}
    if kinds <= _NUMBERS:
        return "DOUBLE"
    return "TIMESTAMP" if kinds <= {"DATE", "TIMESTAMP", "TIMESTAMP_NS"} else "VARCHAR"


def _expand(pattern: str, home: Path) -> list[Path]:
    full = str(home / pattern)
    found = (
        [Path(name) for name in sorted(glob.glob(full))] if glob.has_magic(full) else [Path(full)]
    )
    found = [path for path in found if path.is_file()]
    if not found:
        raise ConfigError(
            f"source file {pattern} does not exist: check source.path in party.toml (it is "
            "relative to the party's folder)"
        )
    return found


def _open_parquet(connection: Connection, path: Path) -> tuple[str, dict[str, str]]:
    sql = f"SELECT * FROM read_parquet({text_literal(str(path))})"
    with data_errors(f"source file {path.name}"):
        described = connection.execute(f"DESCRIBE {sql}").fetchall()
    return sql, {row[0]: row[1] for row in described}


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
    names = []
    if not lines.header_lost:
        names = _split_header(first.strip("\r\n"), text)
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
    return names, number + 1


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


def plain_column(values: Any) -> NDArray[Any]:
    """A column as DuckDB gives it, without the mask: NaN for a missing number, None for a text."""
    if not isinstance(values, np.ma.MaskedArray):
        return np.asarray(values)
    if values.dtype == object:
        return np.asarray(values.filled(None))
    numbers: Any = values.astype(np.float64)
    return np.asarray(numbers.filled(np.nan))
