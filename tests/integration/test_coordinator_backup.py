"""Backup and restore of a coordinator: rows, keys and audit log, on SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import MetaData, create_engine, make_url, select, text
from typer.testing import CliRunner

from coordinator import backup
from coordinator.backup import make_backup, restore_backup
from coordinator.backup_rows import dump_rows, restore_rows
from coordinator.checkpoints import Answered, Measured
from coordinator.cli import app
from coordinator.member_store import MemberStore
from coordinator.run_store import MIGRATIONS, RunStore
from coordinator.settings import CONFIG_NAME, CoordinatorSettings, load_settings
from coordinator.setup import initialise
from party_client.backup import make_backup as make_party_backup
from party_client.setup import initialise as initialise_party
from party_client.supernode import free_port
from privacy.errors import ConfigError, FedtagsError, LedgerError, StoreError
from privacy.framing import Attached
from privacy.hosting.access import Principal
from privacy.hosting.access_log import AccessLog, verify_log
from privacy.hosting.database import open_engine
from privacy.hosting.migrations import upgrade_engine
from privacy.identity import SigningKey, read_secret, sign_plan

from .conftest import PLAN

SOMEONE = Principal("ann", "admin", "person", "192.0.2.1")


@dataclass(frozen=True)
class Home:
    """A coordinator's home with parties, runs and an audit log in it."""

    settings: CoordinatorSettings
    passphrase: Path

    def backup(self, name: str = "c.backup") -> Path:
        file = self.passphrase.parent / name
        make_backup(self.settings, file, passphrase_file=self.passphrase)
        return file

    def restore(self, file: Path, to: str = "r", url: str | None = None) -> CoordinatorSettings:
        home = self.passphrase.parent / to
        restore_backup(home, file, passphrase_file=self.passphrase, database_url=url)
        return load_settings(home)


def filled(folder: Path, url: str | None = None) -> Home:
    home = folder / "c"
    initialise(home, "demo", "data-science", control_port=free_port(), superlink_port=free_port())
    if url is not None:
        config = home / CONFIG_NAME
        config.write_text(config.read_text().replace("sqlite:///coordinator.db", url))
        (home / "coordinator.db").unlink()
    settings = load_settings(home)
    members = MemberStore(settings.database_url, read_secret(settings.token_key))
    requester = SigningKey.load(settings.requester_key)
    members.add_requester("data-science", requester.public)
    token = members.invite("bank", timedelta(hours=1)).token
    members.enrol(token, "bank", b"\x00\xff" * 16, "ecdsa-sha2-nistp384 AAAA", lambda: None)
    members.invite("shop", timedelta(hours=1))
    members.close()
    runs = RunStore(settings.database_url)
    for run in ("run-1", "run-2"):
        runs.create_run(run, PLAN, requester.public, sign_plan(requester, run, PLAN))
        if run == "run-1":
            runs.fail(run, FedtagsError("a reason with 未知 and 'quotes'"))
    runs.close()
    log = AccessLog(settings.audit_log)
    for number in range(5):
        log.record(SOMEONE, "see runs", allowed=True, detail=str(number))
    log.close()
    (home / "evidence").mkdir(mode=0o700)
    (home / "evidence" / "run-1.zip").write_bytes(b"a pack")
    passphrase = folder / "passphrase"
    passphrase.write_text("a long enough passphrase\n")
    passphrase.chmod(0o600)
    return Home(settings, passphrase)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return filled(tmp_path)


def everything(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of a database by table."""
    engine = create_engine(url)
    metadata = MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        found = {
            table.name: sorted(map(tuple, connection.execute(select(table)).all()), key=repr)
            for table in metadata.sorted_tables
        }
    engine.dispose()
    return found


def without_the_active_run(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, Any]:
    return {
        name: [row for row in found if name != "runs" or row[0] != "run-2"]
        for name, found in rows.items()
    }


def test_a_restored_home_has_the_same_rows_keys_and_audit_log(home: Home) -> None:
    before = everything(home.settings.database_url)
    restored = home.restore(home.backup())
    after = everything(restored.database_url)
    assert len(before["runs"]) == 2
    assert without_the_active_run(after) == without_the_active_run(before)
    for path in sorted(home.settings.keys.iterdir()):
        copy = restored.keys / path.name
        assert copy.read_bytes() == path.read_bytes()
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert verify_log(restored.audit_log) == verify_log(home.settings.audit_log)
    assert stat.S_IMODE((restored.home / "coordinator.db").stat().st_mode) == 0o600
    assert not list(restored.home.rglob("database.cbor"))
    assert (restored.home / "evidence" / "run-1.zip").read_bytes() == b"a pack"


def test_an_active_run_has_ended_in_what_is_restored(home: Home) -> None:
    restored = home.restore(home.backup())
    store = RunStore(restored.database_url)
    assert store.active_run() is None
    run = store.get("run-2")
    store.close()
    assert run.state == "failed"
    assert "restored from a backup" in str(run.message)


def test_what_the_active_run_has_heard_is_not_in_the_backup(home: Home, tmp_path: Path) -> None:
    store = RunStore(home.settings.database_url)
    recorder = store.recorder("run-2")
    kept = b"a sum that is sealed"
    digest = hashlib.sha256(kept).digest()
    heard = Answered(b"a" * 32, Attached(0, b""), {"bank": b"its word"}, (), (), digest, (digest,))
    recorder.answered(heard, kept, Measured("round", 1, 1.0, {}, {}))
    store.close()
    dump_rows(home.settings.database_url, tmp_path / "rows")
    assert b"its word" not in (tmp_path / "rows").read_bytes()
    assert kept not in (tmp_path / "rows").read_bytes()
    restored = RunStore(home.restore(home.backup()).database_url)
    assert restored.get("run-2").state == "failed"
    assert len(restored.exchanges_of("run-2")) == 1
    restored.close()


def test_a_database_on_a_server_is_in_the_backup(
    tmp_path: Path, postgresql_url: str, other_postgresql_url: str
) -> None:
    home = filled(tmp_path, postgresql_url)
    before = everything(postgresql_url)
    file = home.backup()
    with pytest.raises(ConfigError, match="is not empty"):
        home.restore(file, "first")
    assert not (tmp_path / "first" / CONFIG_NAME).exists()
    restored = home.restore(file, "second", other_postgresql_url)
    assert restored.database_url == other_postgresql_url
    assert without_the_active_run(everything(other_postgresql_url)) == (
        without_the_active_run(before)
    )
    number_new_rows(restored)


@pytest.fixture
def other_postgresql_url(postgresql_url: str) -> Iterator[str]:
    """Another empty database on the same server, dropped afterwards."""
    server = make_url(postgresql_url)
    name = f"{server.database}_other"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def number_new_rows(settings: CoordinatorSettings) -> None:
    """New rows get numbers that no restored row has."""
    requester = SigningKey.load(settings.requester_key)
    store = RunStore(settings.database_url)
    store.create_run("run-3", PLAN, requester.public, sign_plan(requester, "run-3", PLAN))
    store.close()


def test_a_database_in_a_file_can_move_to_a_server(home: Home, postgresql_url: str) -> None:
    before = everything(home.settings.database_url)
    restored = home.restore(home.backup(), "r", postgresql_url)
    assert restored.database_url == postgresql_url
    assert without_the_active_run(everything(postgresql_url)) == without_the_active_run(before)
    number_new_rows(restored)


def test_rows_of_an_older_schema_are_brought_to_the_newest(tmp_path: Path) -> None:
    old, new = f"sqlite:///{tmp_path / 'old.db'}", f"sqlite:///{tmp_path / 'new.db'}"
    engine = open_engine(old)
    upgrade_engine(engine, MIGRATIONS, revision="0002")
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO api_tokens (token_hash, name, role, created_at) "
                "VALUES ('ab', 'admin', 'admin', '2026-01-02 03:04:05.000006')"
            )
        )
    engine.dispose()
    assert dump_rows(old, tmp_path / "rows") == 1
    restore_rows(new, tmp_path / "rows")
    store = RunStore(new)  # its schema is the newest
    assert store.list_runs() == []
    store.close()
    assert any("ab" in map(str, row) for rows in everything(new).values() for row in rows)


def test_it_is_whole_while_others_write(home: Home) -> None:
    """Rows and audit log of a moment each, whoever writes at the time."""
    done = threading.Event()
    log = AccessLog(home.settings.audit_log)
    store = RunStore(home.settings.database_url)

    def write() -> None:
        recorder = store.recorder("run-2")
        number = 0
        while not done.is_set():
            recorder.metric("auc", float(number))
            log.record(SOMEONE, "see runs", allowed=True)
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        file = home.backup()
    finally:
        done.set()
        thread.join()
        log.close()
        store.close()
    restored = home.restore(file)
    entries, _ = verify_log(restored.audit_log)
    assert 5 < entries < verify_log(home.settings.audit_log)[0]


def flipped(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(raw)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [flipped, cut])
def test_an_altered_backup_restores_nothing(home: Home, harm: Callable[[Path], None]) -> None:
    file = home.backup()
    harm(file)
    with pytest.raises(ConfigError):
        home.restore(file)
    assert not (home.passphrase.parent / "r").exists()


def test_another_passphrase_opens_nothing(home: Home) -> None:
    file = home.backup()
    home.passphrase.write_text("another long passphrase\n")
    with pytest.raises(ConfigError, match="passphrase is another"):
        home.restore(file)


def test_a_partys_backup_is_no_coordinators(home: Home, tmp_path: Path) -> None:
    party = initialise_party(tmp_path / "p", "bank", 6000)
    make_party_backup(party, tmp_path / "p.backup", passphrase_file=home.passphrase)
    with pytest.raises(ConfigError, match="the backup of a party, not of a coordinator"):
        home.restore(tmp_path / "p.backup")


def test_nothing_is_overwritten(home: Home) -> None:
    file = home.backup()
    with pytest.raises(ConfigError, match="never overwritten"):
        home.backup()
    with pytest.raises(ConfigError, match="not empty"):
        home.restore(file, "c")


def test_a_damaged_audit_log_is_not_backed_up_as_if_it_were_whole(home: Home) -> None:
    log = home.settings.audit_log
    log.write_bytes(log.read_bytes().replace(b"192.0.2.1", b"192.0.2.2", 1))
    with pytest.raises(LedgerError):
        home.backup()
    assert not (home.passphrase.parent / "c.backup").exists()


def test_a_full_disk_leaves_nothing_behind(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "write_archive", full)
    with pytest.raises(StoreError, match="No space left"):
        home.backup()
    assert not list(home.settings.home.glob(".backup-*"))


def command(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(home), *arguments])


def test_the_commands_say_what_was_done(home: Home, tmp_path: Path) -> None:
    given = ["--passphrase-file", str(home.passphrase)]
    file, restored = tmp_path / "b", tmp_path / "r"
    made = command(home.settings.home, "backup", str(file), *given)
    assert made.exit_code == 0, made.output
    assert "rows of the database" in made.output
    back = command(restored, "restore", str(file), *given)
    assert back.exit_code == 0, back.output
    written = command(restored, "proxy", "write", "--format", "json")
    assert Path(json.loads(written.output)["file"]) == restored / "proxy" / "nginx.conf"
    assert json.loads(command(restored, "alerts", "list", "--format", "json").output) == []
    ready = command(restored, "ready", "--format", "json")
    assert ready.exit_code == 25
    assert "no control plane answers" in json.loads(ready.output)["missing"][0]


def test_it_names_what_it_leaves_out(home: Home) -> None:
    (home.settings.home / "notes.txt").write_text("mine")
    made = make_backup(home.settings, home.passphrase.parent / "b", passphrase_file=home.passphrase)
    assert made.left_out == ("notes.txt",)
    assert made.rows == sum(
        len(rows)
        for name, rows in everything(home.settings.database_url).items()
        if name != "alembic_version"
    )
