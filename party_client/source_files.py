"""The files that a party's settings name: single ones, globs, folders of Parquet."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from party_client.source_settings import SourceFile
from privacy.errors import ConfigError

PARQUET = (".parquet", ".pq")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class FoundFile:
    """A file, and what the folders above it say of all its rows: column -> text, None for none."""

    path: Path
    partitions: Mapping[str, str | None] = field(default_factory=dict)


def find_files(pattern: str, home: Path) -> list[FoundFile]:
    """The files that `pattern`, relative to `home`, names now, in the order of their names.

    A folder means every Parquet file in it and below, folders named `column=value` included: their
    columns are text. Names that begin with `_` or `.` are other programs' own and left out.
    Raises ConfigError where nothing is found.
    """
    full = str(home / pattern)
    named = [Path(name) for name in sorted(glob.glob(full))] if glob.has_magic(full) else []
    if not named:
        named = [Path(full)]  # a name may hold [ or *
    found: list[FoundFile] = []
    for path in named:
        found += _below(path) if path.is_dir() else [FoundFile(path)] if path.is_file() else []
    if not found:
        raise ConfigError(
            f"source file {pattern} does not exist: check source.path in party.toml (it is "
            "relative to the party's folder; a folder must hold Parquet files)"
        )
    return found


def file_stamps(files: Sequence[SourceFile], home: Path) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of change of every file that `files` name now.

    Raises ConfigError for a path that names no file.
    """
    stamps = []
    for wanted in files:
        for found in find_files(wanted.path, home):
            status = found.path.stat()
            stamps.append((str(found.path), status.st_size, status.st_mtime_ns))
    return tuple(stamps)


def _below(folder: Path) -> Iterator[FoundFile]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in PARQUET or not path.is_file():
            continue
        if any(part.startswith(("_", ".")) for part in parts):
            continue
        pairs = [part.partition("=") for part in parts[:-1] if "=" in part]
        yield FoundFile(
            path,
            {
                unquote(name): None if value == _NO_VALUE else unquote(value)
                for name, _, value in pairs
            },
        )
