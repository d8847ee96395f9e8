"""Backup and restore of a party's home: one file under a passphrase (`privacy.hosting.archives`).

In it: settings, policy, federation, all keys, the ledger, the egress and access logs, peers' heads,
waiting plans, reports, kept models, people, and the profile store if that is SQLite in this home.
Not in it: the source, rows set aside, process logs; `Backup.left_out` names what else lies in the
home. It is of one moment: ledger and logs stand still while they and the databases are copied.

A backup is older than what it is restored for, so the ledger may lack what has been charged since.
The other members hold its newest heads, and charge the gap at the next run
(`party_client.head_exchange`). Opt-outs since then are not known to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from party_client.federation import FEDERATION_NAME
from party_client.settings import CONFIG_NAME, PartySettings, load_settings
from party_client.tag_schedule import FILE_NAME as LOCAL_TAGS
from privacy.errors import ConfigError, StoreError
from privacy.hosting.access_log import older_files
from privacy.hosting.archives import (
    FORMAT,
    check_archive,
    copy_database,
    made_folder,
    opened,
    unpack,
    unwritten,
    write_archive,
)
from privacy.hosting.homes import fresh_home
from privacy.hosting.sealed_file import read_passphrase
from privacy.ledger import Ledger

SERVICE = "party"
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
        raise unwritten(error) from error
    try:
        with _standing_still(settings):
            about = _about(settings, store=store is not None)
            _copy(settings, store, copy)
        names = write_archive(file, passphrase, copy, about)
    except (OSError, sqlite3.Error) as error:
        raise unwritten(error) from error
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
    with opened(file) as source:
        about = check_archive(source, passphrase, SERVICE)
        source.seek(0)
        try:
            with fresh_home(home) as staging:
                files = unpack(source, passphrase, staging)
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
    folders = (settings.keys, settings.reports, settings.waiting_plans, settings.quality)
    for folder in (*folders, settings.kept_models):
        files += [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in {path for path in files if path.exists() and _ours(path, home)}:
        shutil.copyfile(path, made_folder(copy / path.relative_to(home)))
    access = Path(settings.access_database.removeprefix(_SQLITE))
    for database in (access, store):
        if database is not None and database.exists():
            copy_database(database, made_folder(copy / database.relative_to(home)))


def _ours(path: Path, home: Path) -> bool:
    """In the home, and no draft that a crash left."""
    return path.is_relative_to(home) and not any(
        part.startswith(".") for part in path.relative_to(home).parts
    )


def _about(settings: PartySettings, *, store: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "service": SERVICE,
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
