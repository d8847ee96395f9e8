"""Backup and restore of a party's home: one file under a passphrase (`party_client.sealed_file`).

In it: settings, policy, federation, all keys, the ledger, the egress and access logs, peers' heads,
waiting plans, reports, people, and the profile store if that is SQLite in this home. Not in it: the
source, rows set aside, process logs; `Backup.left_out` names what else lies in the home. It is of
one moment: ledger and logs stand still while they and the databases are copied.

A backup is older than what it is restored for, so the ledger may lack what has been charged since.
The other members hold its newest heads, and charge the gap at the next run
(`party_client.head_exchange`). Opt-outs since then are not known to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from party_client.federation import FEDERATION_NAME
from party_client.sealed_file import SealedReader, SealedWriter, read_passphrase
from party_client.settings import CONFIG_NAME, PartySettings, load_settings
from party_client.tag_schedule import FILE_NAME as LOCAL_TAGS
from privacy.errors import ConfigError, FedtagsError, StoreError
from privacy.hosting.access_log import older_files
from privacy.hosting.homes import fresh_home
from privacy.ledger import Ledger

FORMAT = 1
ABOUT = "backup.json"
_SQLITE = "sqlite:///"
# Of no use to another machine, or made again.
_PASSING = ("run", "logs", "flower")


@dataclass(frozen=True)
class Backup:
    """What a backup holds. `store`: whether the profile store is in it; `left_out`: top-level
    entries of the home that are not, when it was made."""

    files: int
    made_at: datetime
    ledger_head: str
    store: bool
    left_out: tuple[str, ...] = ()


def make_backup(
    settings: PartySettings, file: Path, *, passphrase_file: Path, without_store: bool = False
) -> Backup:
    """Write `file` (mode 0600), whole or not at all; the party may be running.

    Raises ConfigError (passphrase, existing file, a store that is not SQLite in this home while
    `without_store` is not said), LedgerError (a damaged ledger), StoreError (no space, a damaged
    database).
    """
    passphrase = read_passphrase(passphrase_file)
    store = None if without_store else _embedded_store(settings)
    if file.exists() or file.is_symlink():
        raise ConfigError(f"{file} exists already and is never overwritten; name another")
    try:
        copy = Path(tempfile.mkdtemp(prefix=".backup-", dir=settings.home))
    except OSError as error:
        raise _unwritten(error) from error
    try:
        with _standing_still(settings):
            about = _about(settings, store=store is not None)
            _copy(settings, store, copy)
        names = sorted(path.relative_to(copy) for path in copy.rglob("*") if path.is_file())
        (copy / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        _write_archive(file, passphrase, copy, [Path(ABOUT), *names])
    except (OSError, sqlite3.Error) as error:
        raise _unwritten(error) from error
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    taken = {name.parts[0] for name in names}
    others = {one.name for one in settings.home.iterdir() if not one.name.startswith(".")}
    left_out = {one for one in others - taken - set(_PASSING) if not one.endswith(("-wal", "-shm"))}
    return _described(about, len(names), tuple(sorted(left_out)))


def restore_backup(home: Path, file: Path, *, passphrase_file: Path) -> Backup:
    """Make `home`, which must not exist or be empty, from `file`: whole or not at all.

    Everything is verified before anything is written. Raises ConfigError (passphrase, an altered or
    foreign file, a home that holds something), LedgerError, StoreError (no space).
    """
    if home.exists() and any(home.iterdir()):
        raise ConfigError(f"{home} is not empty; restore into a new one: give another --home")
    passphrase = read_passphrase(passphrase_file)
    with _opened(file) as source:
        about = _check_archive(source, passphrase)
        source.seek(0)
        try:
            with fresh_home(home) as staging:
                files = _unpack(source, passphrase, staging)
                settings = load_settings(staging)
                if _head_of(settings) != about["ledger_head"]:
                    raise ConfigError("the backup's ledger is not the one that it was made of")
        except OSError as error:
            raise StoreError(
                f"the home cannot be written ({error.strerror}); nothing was restored"
            ) from error
    return _described(about, files)


def _embedded_store(settings: PartySettings) -> Path:
    url = settings.profile_store_url.partition("?")[0]
    path = Path(url.removeprefix(_SQLITE))
    if not url.startswith(_SQLITE) or not path.is_relative_to(settings.home):
        raise ConfigError(
            "the profile store is not in this home: dump that database by its own means (pg_dump, "
            "mariadb-dump), at the same time, and say so with --without-store"
        )
    return path


@contextlib.contextmanager
def _standing_still(settings: PartySettings) -> Iterator[None]:
    """Nobody appends to ledger or logs meanwhile: an append takes the exclusive lock of its file.
    A run's step waits that long."""
    with contextlib.ExitStack() as stack:
        turning = settings.access_log.with_suffix(".lock")  # held while a new file is begun
        for path in (settings.ledger, settings.egress, turning, settings.access_log):
            if path.exists():
                file = stack.enter_context(path.open("rb"))
                fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _copy(settings: PartySettings, store: Path | None, copy: Path) -> None:
    home = settings.home
    files = [settings.policy, settings.catalogue, settings.ca_certificate, settings.manifest]
    files += [settings.peer_heads, settings.ledger, settings.egress, settings.access_log]
    files += [home / CONFIG_NAME, home / FEDERATION_NAME, home / LOCAL_TAGS]
    files += older_files(settings.access_log)
    files += [home / name for name in (settings.web.certificate, settings.web.key) if name]
    for folder in (settings.keys, settings.reports, settings.waiting_plans, settings.quality):
        files += [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in {path for path in files if path.exists() and _ours(path, home)}:
        shutil.copyfile(path, _made(copy / path.relative_to(home)))
    access = Path(settings.access_database.removeprefix(_SQLITE))
    for database in (access, store):
        if database is not None and database.exists():
            _copy_database(database, _made(copy / database.relative_to(home)))


def _ours(path: Path, home: Path) -> bool:
    """In the home, and no draft that a crash left."""
    return path.is_relative_to(home) and not any(
        part.startswith(".") for part in path.relative_to(home).parts
    )


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _copy_database(database: Path, target: Path) -> None:
    """SQLite's own online copy: of one transaction, whoever is writing."""
    with (
        contextlib.closing(sqlite3.connect(database, timeout=60)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)


def _about(settings: PartySettings, *, store: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "party": settings.party,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "ledger_head": _head_of(settings),
        "store": store,
    }


def _head_of(settings: PartySettings) -> str:
    head = Ledger(settings.ledger).position()  # as `ledger verify` prints it
    return f"{head.position}:{head.hash}"


def _described(about: dict[str, Any], files: int, left_out: tuple[str, ...] = ()) -> Backup:
    made_at = datetime.fromisoformat(about["made_at"])
    return Backup(files, made_at, about["ledger_head"], about["store"], left_out)


def _write_archive(file: Path, passphrase: bytes, folder: Path, names: list[Path]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".backup-", dir=file.parent)  # mode 0600
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as target:
            sealed = SealedWriter(target, passphrase)
            stream = cast(IO[bytes], sealed)  # tarfile writes to it, and no more
            with tarfile.open(fileobj=stream, mode="w|") as archive:
                for one in names:
                    archive.add(folder / one, one.as_posix(), recursive=False, filter=_plain)
            sealed.finish()
            target.flush()
            os.fsync(target.fileno())
        os.link(draft, file)  # unlike a rename, it fails where a file is already
    finally:
        draft.unlink(missing_ok=True)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of this machine's users."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o600
    return entry


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[io.BufferedReader]:
    try:
        with file.open("rb") as source:
            yield source
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})") from error


def _members(source: io.BufferedReader, passphrase: bytes) -> Iterator[tuple[Path, Any]]:
    """Each file of a verified archive with its content, read to the last byte of the last chunk.

    Raises ConfigError for whatever `_write_archive` would not have written.
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


def _check_archive(source: io.BufferedReader, passphrase: bytes) -> dict[str, Any]:
    """Read all of it, writing nothing. Returns what it says of itself."""
    about: dict[str, Any] = {}
    for path, content in _members(source, passphrase):
        if path == Path(ABOUT):
            about = json.loads(content.read())
    if about.get("format") != FORMAT:
        raise ConfigError("this is no backup of this version: fedtags-party backup makes one")
    return about


def _unpack(source: io.BufferedReader, passphrase: bytes, folder: Path) -> int:
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


def _unwritten(error: OSError | sqlite3.Error) -> FedtagsError:
    why = error.strerror if isinstance(error, OSError) else "a database cannot be copied"
    return StoreError(
        f"the backup could not be written ({why}); nothing is left of it. Check free disk space, "
        "here and in the home, which holds a copy for a moment"
    )
