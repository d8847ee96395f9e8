"""Backup and restore of a coordinator's home: one file under a passphrase.

In it: settings, all keys, the certificates, the audit log, evidence packs, the rows of the
database (SQLite in the home, or a server), and the SuperLink's own database, which knows the
parties' nodes. Not in it: process logs, the proxy's folder, which `proxy write` makes again, and
what the active run has heard (its checkpoints). Database and audit log are each of one moment, the
audit log of the later one.

What was going on when the backup was made cannot go on from it: the parties are further by now. A
restored active run has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import make_url

from coordinator.backup_rows import dump_rows, restore_rows
from coordinator.run_store import RunStore
from coordinator.settings import CONFIG_NAME, CoordinatorSettings, load_settings
from privacy.errors import ConfigError, RunError, StoreError
from privacy.hosting.access_log import older_files, verify_log
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
from privacy.identity import SigningKey, fingerprint

SERVICE: Final = "coordinator"
ROWS: Final = "database.cbor"
SUPERLINK_DATABASE: Final = "superlink.db"
_SQLITE = "sqlite"
# Of no use to another machine, or made again.
_PASSING = ("run", "logs", "flower", "proxy")


@dataclass(frozen=True)
class Backup:
    """What a backup holds. `rows`: of the database; `audit`: the audit log's length and head, as
    `audit verify` prints them; `left_out`: top-level entries of the home that are not in it."""

    federation: str
    coordinator_fingerprint: str
    files: int
    rows: int
    made_at: datetime
    audit: str | None
    left_out: tuple[str, ...] = ()


def make_backup(settings: CoordinatorSettings, file: Path, *, passphrase_file: Path) -> Backup:
    """Write `file` (mode 0600), whole or not at all; the coordinator may be running.

    Raises ConfigError (passphrase, existing file), LedgerError (a damaged audit log), StoreError
    (no space, a database that cannot be read).
    """
    passphrase = read_passphrase(passphrase_file)
    if file.exists() or file.is_symlink():
        raise ConfigError(f"{file} exists already and is never overwritten; name another")
    try:
        copy = Path(tempfile.mkdtemp(prefix=".backup-", dir=settings.home))
    except OSError as error:
        raise unwritten(error) from error
    try:
        rows = _copy_rows(settings, copy)
        superlink = settings.home / SUPERLINK_DATABASE
        if superlink.exists():
            copy_database(superlink, copy / SUPERLINK_DATABASE)
        with _standing_still(settings):
            about = _about(settings, rows)
            _copy_files(settings, copy)
        names = write_archive(file, passphrase, copy, about)
    except (OSError, sqlite3.Error) as error:
        raise unwritten(error) from error
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    database = _own_database(settings)
    known = {name.parts[0] for name in names} | ({database.name} if database else set())
    others = {one.name for one in settings.home.iterdir() if not one.name.startswith(".")}
    left_out = {
        one for one in others - known - set(_PASSING) if not one.endswith(("-wal", "-shm", ".lock"))
    }
    return _described(about, len(names), tuple(sorted(left_out)))


def restore_backup(
    home: Path, file: Path, *, passphrase_file: Path, database_url: str | None = None
) -> Backup:
    """Make `home`, which must not exist or be empty, from `file`: whole or not at all.

    The rows go into the database that the settings name, which must be empty; `database_url` names
    another, and is written into the settings. Raises ConfigError (passphrase, an altered or foreign
    file, a home or database that holds something), LedgerError, StoreError.
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
                if database_url is not None:
                    _change_database(staging, database_url)
                settings = load_settings(staging)
                _check(settings, about)
                restore_rows(settings.database_url, staging / ROWS)
                (staging / ROWS).unlink()
                _end_active_run(settings, about)
                for database in staging.glob("*.db*"):
                    database.chmod(0o600)
        except OSError as error:
            raise StoreError(
                f"the home cannot be written ({error.strerror}); nothing was restored"
            ) from error
    return _described(about, files - 1)


def _own_database(settings: CoordinatorSettings) -> Path | None:
    """The SQLite file, None where the database is on a server."""
    url = make_url(settings.database_url)
    return Path(url.database) if url.get_backend_name() == _SQLITE and url.database else None


def _copy_rows(settings: CoordinatorSettings, copy: Path) -> int:
    database = _own_database(settings)
    if database is None:
        return dump_rows(settings.database_url, copy / ROWS)
    still = copy / ".rows.db"
    copy_database(database, still)
    count = dump_rows(f"sqlite:///{still}", copy / ROWS)
    for one in copy.glob(".rows.db*"):
        one.unlink()
    return count


@contextlib.contextmanager
def _standing_still(settings: CoordinatorSettings) -> Iterator[None]:
    """Nobody appends to the audit log meanwhile, so nothing is answered for that long."""
    with contextlib.ExitStack() as stack:
        for path in (settings.audit_log.with_suffix(".lock"), settings.audit_log):
            if path.exists():
                file = stack.enter_context(path.open("rb"))
                fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _copy_files(settings: CoordinatorSettings, copy: Path) -> None:
    home = settings.home
    files = [home / CONFIG_NAME, settings.ca_certificate, settings.server_certificate]
    files += [home / "evidence-key.json", settings.audit_log, *older_files(settings.audit_log)]
    named = (
        settings.proxy.people_certificate,
        settings.proxy.people_key,
        settings.proxy.partners_ca,
        settings.oidc.ca_certificate if settings.oidc else None,
    )
    files += [home / name for name in named if name]
    for folder in (settings.keys, home / "evidence"):
        files += [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in {path for path in files if path.exists() and _ours(path, home)}:
        shutil.copyfile(path, made_folder(copy / path.relative_to(home)))


def _ours(path: Path, home: Path) -> bool:
    """In the home, and no draft that a crash left."""
    return path.is_relative_to(home) and not any(
        part.startswith(".") for part in path.relative_to(home).parts
    )


def _about(settings: CoordinatorSettings, rows: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "service": SERVICE,
        "federation": settings.federation,
        "coordinator": fingerprint(SigningKey.load(settings.coordinator_key).public),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "audit": _audit_head(settings),
    }


def _audit_head(settings: CoordinatorSettings) -> str | None:
    if not settings.audit_log.exists():
        return None
    entries, head = verify_log(settings.audit_log)
    return f"{entries}:{head.hash}"


def _check(settings: CoordinatorSettings, about: dict[str, Any]) -> None:
    """The restored files are those that the backup speaks of."""
    key = fingerprint(SigningKey.load(settings.coordinator_key).public)
    if (settings.federation, key) != (about["federation"], about["coordinator"]):
        raise ConfigError("the backup's settings or keys are not those that it was made of")
    if _audit_head(settings) != about["audit"]:
        raise ConfigError("the backup's audit log is not the one that it was made of")


def _change_database(staging: Path, url: str) -> None:
    config = staging / CONFIG_NAME
    text = config.read_text(encoding="utf-8")
    old = load_settings(staging).database.url
    changed = text.replace(f"url = {json.dumps(old)}", f"url = {json.dumps(url)}")
    config.write_text(changed, encoding="utf-8")
    if load_settings(staging).database.url != url:
        raise ConfigError(
            "[database] url in the backup's coordinator.toml is not written as init writes it, so "
            "it cannot be changed; restore without --database-url"
        )


def _end_active_run(settings: CoordinatorSettings, about: dict[str, Any]) -> None:
    store = RunStore(settings.database_url)
    try:
        active = store.active_run()
        if active is not None:
            error = RunError(
                f"run {active.run_id} ended because the coordinator was restored from a backup of "
                f"{about['made_at']}; rounds that had begun stay spent at the parties. Submit the "
                "plan again"
            )
            store.fail(active.run_id, error)
    finally:
        store.close()


def _described(about: dict[str, Any], files: int, left_out: tuple[str, ...] = ()) -> Backup:
    return Backup(
        federation=about["federation"],
        coordinator_fingerprint=about["coordinator"],
        files=files,
        rows=about["rows"],
        made_at=datetime.fromisoformat(about["made_at"]),
        audit=about["audit"],
        left_out=left_out,
    )
