"""A backup file: many files of one folder in one archive under a passphrase (`sealed_file`).

Its first entry says what it is of (`about`); what a service's backup holds is the service's matter.
A backup is written whole or not at all, and read to its last byte before anything is made of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from privacy.errors import ConfigError, FedtagsError, StoreError
from privacy.hosting.sealed_file import SealedReader, SealedWriter

FORMAT = 1
ABOUT = "backup.json"


def write_archive(
    file: Path, passphrase: bytes, folder: Path, about: Mapping[str, Any]
) -> Sequence[Path]:
    """Write every file of `folder`, after `about`, into `file` (mode 0600), which must not exist.

    Returns the files, relative to `folder`. Raises OSError; then there is no `file`.
    """
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    (folder / ABOUT).write_text(json.dumps(dict(about)), encoding="utf-8")
    descriptor, name = tempfile.mkstemp(prefix=".backup-", dir=file.parent)  # mode 0600
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as target:
            sealed = SealedWriter(target, passphrase)
            stream = cast(IO[bytes], sealed)  # tarfile writes to it, and no more
            with tarfile.open(fileobj=stream, mode="w|") as archive:
                for one in [Path(ABOUT), *names]:
                    archive.add(folder / one, one.as_posix(), recursive=False, filter=_plain)
            sealed.finish()
            target.flush()
            os.fsync(target.fileno())
        os.link(draft, file)  # unlike a rename, it fails where a file is already
    finally:
        draft.unlink(missing_ok=True)
    return names


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of this machine's users."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o600
    return entry


@contextlib.contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader]:
    """A backup file, open for reading. Raises ConfigError if it cannot be read."""
    try:
        with file.open("rb") as source:
            yield source
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})") from error


def _members(source: IO[bytes], passphrase: bytes) -> Iterator[tuple[Path, Any]]:
    """Each file of a verified archive with its content, read to the last byte of the last chunk.

    Raises ConfigError for whatever `write_archive` would not have written.
    """
    reader = SealedReader(source, passphrase)
    seen = set()
    try:
        with tarfile.open(fileobj=reader, mode="r|") as archive:
            for entry in archive:
                path = PurePosixPath(entry.name)
                if (
                    not entry.isreg()
                    or path.is_absolute()
                    or not path.parts
                    or any(part == ".." or part.startswith(".") for part in path.parts)
                    or path in seen
                ):
                    raise ConfigError("the backup holds something that no backup of ours holds")
                seen.add(path)
                content = archive.extractfile(entry)
                assert content is not None  # a regular file
                yield Path(path), content
    except tarfile.TarError as error:
        raise ConfigError("the backup does not hold what a backup holds") from error
    while reader.read(1 << 20):
        pass


def check_archive(source: IO[bytes], passphrase: bytes, service: str) -> dict[str, Any]:
    """Read all of it, writing nothing. Returns what it says of itself.

    Raises ConfigError for a wrong passphrase, an altered file and another service's backup. One
    that names no service is a party's.
    """
    about: dict[str, Any] = {}
    for path, content in _members(source, passphrase):
        if path == Path(ABOUT):
            about = json.loads(content.read())
    if about.get("format") != FORMAT:
        raise ConfigError("this is no backup of this version; the command `backup` makes one")
    if about.get("service", "party") != service:
        raise ConfigError(f"this is the backup of a {about['service']}, not of a {service}")
    return about


def unpack(source: IO[bytes], passphrase: bytes, folder: Path) -> int:
    """Write its files (mode 0600) into `folder`; returns how many. Raises ConfigError as
    `check_archive`, and OSError."""
    count = 0
    for path, content in _members(source, passphrase):
        if path == Path(ABOUT):
            continue
        target = folder / path
        for parent in reversed(path.parents):  # each by itself: `parents=True` goes by the umask
            (folder / parent).mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        count += 1
    return count


def made_folder(path: Path) -> Path:
    """`path`, whose folder is there afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def copy_database(database: Path, target: Path) -> None:
    """SQLite's own online copy: of one transaction, whoever is writing."""
    with (
        contextlib.closing(sqlite3.connect(database, timeout=60)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)


def unwritten(error: OSError | sqlite3.Error) -> FedtagsError:
    """What to raise when a backup could not be made."""
    why = error.strerror if isinstance(error, OSError) else "a database cannot be copied"
    return StoreError(
        f"the backup could not be written ({why}); nothing is left of it. Check free disk space, "
        "here and in the home, which holds a copy for a moment"
    )
