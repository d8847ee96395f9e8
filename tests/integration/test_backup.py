"""Backup and restore of a party: whole or not at all, readable with the passphrase only."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import pytest

from party_client.backup import make_backup, restore_backup
from party_client.durable_file import replace_durably
from party_client.settings import PartySettings, load_settings
from privacy.errors import CohortError, ConfigError, FedtagsError, LedgerError, StoreError
from privacy.hosting.sealed_file import CHUNK_BYTES, MAGIC, SALT_BYTES, SealedReader, SealedWriter
from privacy.ledger import Ledger
from simulations.homes import Federation
from tests.unit.test_egress_log import full_disk

from .conftest import LocalRun

PASSPHRASE = b"correct horse battery staple"
SQLITE_OWN = ("-wal", "-shm")
SOURCE = ("events.parquet", "consent.csv")


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    replace_durably(path, PASSPHRASE + b"\n")
    return path


@pytest.fixture(scope="module")
def ran(
    market_template: tuple[Path, Federation], tmp_path_factory: pytest.TempPathFactory
) -> PartySettings:
    """A party that has taken part in a run, and holds every kind of file."""
    template, made = market_template
    folder = tmp_path_factory.mktemp("ran") / "m"
    shutil.copytree(template, folder)
    homes = {party: folder / party for party in made.homes}
    local = LocalRun(Federation(homes, made.coordinator, made.requester, made.members))
    try:
        local.run()
    finally:
        local.close()
    settings = load_settings(homes["bank"])
    for name, content in {
        "plans/a-plan/plan.toml": b"a plan",
        "quality/report.json": b"{}",
        "catalogue.toml": b"# nothing of our own\n",
        "local_tags.json": b"{}",
        "access-000001.jsonl": b"an earlier file of the access log",
        "logs/service.log": b"a log",
        "own-notes.txt": b"a note",
    }.items():
        path = settings.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return settings


@pytest.fixture
def bank(ran: PartySettings, tmp_path: Path) -> PartySettings:
    """A copy of it."""
    shutil.copytree(ran.home, tmp_path / "bank")
    return load_settings(tmp_path / "bank")


@pytest.fixture(scope="module")
def sealed(ran: PartySettings, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A backup of it."""
    folder = tmp_path_factory.mktemp("sealed")
    replace_durably(folder / "passphrase", PASSPHRASE)
    make_backup(ran, folder / "file", passphrase_file=folder / "passphrase")
    return (folder / "file").read_bytes()


def contents(home: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and not path.name.endswith(SQLITE_OWN)
    }


def lose_and_restore(local: LocalRun, party: str, file: Path, passphrase: Path) -> None:
    """The home is gone, but for the source, which has a backup of its own."""
    home = local.federation.homes[party]
    local.services.pop(party).close()
    away = home.with_name("away")
    home.rename(away)
    restore_backup(home, file, passphrase_file=passphrase)
    for name in SOURCE:
        shutil.copyfile(away / name, home / name)


def rows(database: Path) -> list[str]:
    connection = sqlite3.connect(database)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_a_restored_home_is_the_one_that_was_backed_up(
    bank: PartySettings, passphrase: Path, tmp_path: Path
) -> None:
    before = contents(bank.home)
    file, home = tmp_path / "bank.backup", tmp_path / "restored"
    made = make_backup(bank, file, passphrase_file=passphrase)
    assert contents(bank.home) == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    restored = restore_backup(home, file, passphrase_file=passphrase)
    assert (restored.files, restored.ledger_head) == (made.files, made.ledger_head)
    after = contents(home)
    assert set(after) <= set(before)
    # The source, rows set aside, and what is nobody's: named, so that it is no surprise.
    assert set(made.left_out) == {"consent.csv", "events.parquet", "own-notes.txt", "rejected"}
    gone = {name.split("/")[0] for name in set(before) - set(after)}
    assert gone == {*made.left_out, "logs"}
    databases = {"profile.db", "access.db"}
    for name in set(after) - databases:
        assert after[name] == before[name], name
    assert rows(home / "profile.db") == rows(bank.home / "profile.db")
    for path in [home, *home.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert Ledger(load_settings(home).ledger).verify() == Ledger(bank.ledger).verify()


def test_a_restored_party_goes_on_and_its_peers_accept_it(
    local: LocalRun, passphrase: Path, tmp_path: Path
) -> None:
    local.run()
    home = local.federation.homes["bank"]
    make_backup(load_settings(home), tmp_path / "file", passphrase_file=passphrase)
    lose_and_restore(local, "bank", tmp_path / "file", passphrase)
    assert local.run(run_id="run-2").parties == ("bank", "ecommerce", "retailer")


def test_a_restored_older_ledger_is_noticed_and_charged_before_the_next_run(
    local: LocalRun, passphrase: Path, tmp_path: Path
) -> None:
    local.run()
    home = local.federation.homes["bank"]
    make_backup(load_settings(home), tmp_path / "file", passphrase_file=passphrase)
    local.run(run_id="run-2")
    spent = local.services["bank"].node.ledger.spent()
    lose_and_restore(local, "bank", tmp_path / "file", passphrase)
    assert Ledger(load_settings(home).ledger).spent() < spent
    with pytest.raises(CohortError):
        local.run(run_id="run-3")
    assert Ledger(load_settings(home).ledger).spent() >= spent * 0.99
    assert local.run(run_id="run-4").parties == ("bank", "ecommerce", "retailer")


def test_a_backup_while_runs_write_is_of_one_moment(
    local: LocalRun, passphrase: Path, tmp_path: Path
) -> None:
    made: list[Path] = []
    stop = threading.Event()
    settings = load_settings(local.federation.homes["bank"])
    local.service("bank")

    def keep_backing_up() -> None:
        while not stop.wait(0.2) and len(made) < 4:
            file = tmp_path / f"backup-{len(made)}"
            make_backup(settings, file, passphrase_file=passphrase)
            made.append(file)

    thread = threading.Thread(target=keep_backing_up)
    thread.start()
    try:
        outcome = local.run()
    finally:
        stop.set()
        thread.join()
    assert "bank" in outcome.parties
    assert len(made) >= 2
    for number, file in enumerate(made):
        home = tmp_path / f"home-{number}"
        restore_backup(home, file, passphrase_file=passphrase)
        restored = load_settings(home)
        entries = Ledger(restored.ledger).entries()
        assert Ledger(settings.ledger).entries()[: len(entries)] == entries
        assert rows(home / "profile.db")


# What does not open ----------------------------------------------------------------------------


def refused(home: Path, file: Path, passphrase: Path, error: type[FedtagsError]) -> str:
    with pytest.raises(error) as caught:
        restore_backup(home, file, passphrase_file=passphrase)
    assert not home.exists() or list(home.iterdir()) == []
    return str(caught.value)


def test_a_wrong_passphrase_writes_nothing(sealed: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(sealed)
    wrong = tmp_path / "wrong"
    replace_durably(wrong, PASSPHRASE + b"!\n")
    assert "does not open" in refused(tmp_path / "home", tmp_path / "file", wrong, ConfigError)


@pytest.mark.parametrize("where", [0, 5, 20, 40, 5000, -5000, -1])
def test_one_flipped_bit_anywhere_is_noticed_before_anything_is_written(
    sealed: bytes, passphrase: Path, tmp_path: Path, where: int
) -> None:
    data = bytearray(sealed)
    data[where] ^= 1
    (tmp_path / "file").write_bytes(data)
    refused(tmp_path / "home", tmp_path / "file", passphrase, ConfigError)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data[: len(MAGIC) + SALT_BYTES],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data + b"more",
        lambda data: b"PK\x03\x04" + data,
    ],
)
def test_a_file_that_was_cut_or_added_to_is_refused(
    sealed: bytes, passphrase: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "file").write_bytes(change(sealed))
    refused(tmp_path / "home", tmp_path / "file", passphrase, ConfigError)


def test_chunks_cannot_be_dropped_or_swapped() -> None:
    stream = io.BytesIO()
    writer = SealedWriter(stream, PASSPHRASE)
    content = os.urandom(3 * CHUNK_BYTES + 1000)
    writer.write(content)
    writer.finish()
    data = stream.getvalue()
    assert read_all(data) == content
    start, size = len(MAGIC) + SALT_BYTES, CHUNK_BYTES + 16
    chunks = [data[at : at + size] for at in range(start, len(data), size)]
    assert len(chunks) == 4
    for order in ([0, 1, 2], [0, 2, 1, 3], [1, 2, 3], [0, 0, 1, 2, 3], [3], []):
        with pytest.raises(ConfigError):
            read_all(data[:start] + b"".join(chunks[one] for one in order))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_what_was_sealed_comes_back_whatever_its_length(size: int) -> None:
    stream = io.BytesIO()
    writer = SealedWriter(stream, PASSPHRASE)
    content = os.urandom(size)
    writer.write(content)
    writer.finish()
    assert read_all(stream.getvalue()) == content
    assert size < 100 or content not in stream.getvalue()


def read_all(data: bytes) -> bytes:
    reader = SealedReader(io.BytesIO(data), PASSPHRASE)
    found = bytearray()
    while piece := reader.read(1 << 20):
        found += piece
    return bytes(found)


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    """What somebody who knows the passphrase could make."""
    with path.open("wb") as target:
        sealed = SealedWriter(target, PASSPHRASE)
        with tarfile.open(fileobj=cast(IO[bytes], sealed), mode="w|") as made:
            for entry, content in members:
                entry.size = len(content)
                made.addfile(entry, io.BytesIO(content))
        sealed.finish()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        member("../evil"),
        member("/tmp/evil"),
        member("keys/../../evil"),
        member("keys/.."),
        member(".ssh/authorized_keys"),
        member("keys", tarfile.SYMTYPE, "/etc"),
        member("keys/hard", tarfile.LNKTYPE, "/etc/passwd"),
        member("pipe", tarfile.FIFOTYPE),
        member("disk", tarfile.BLKTYPE),
        member("folder", tarfile.DIRTYPE),
        member("backup.json"),
    ],
    ids=lambda one: f"{one.name}:{one.type!r}",
)
def test_an_archive_that_reaches_out_of_the_home_is_refused(
    passphrase: Path, tmp_path: Path, entry: tarfile.TarInfo
) -> None:
    about = {"format": 1, "party": "bank", "made_at": "2026-01-01T00:00:00+00:00"}
    about |= {"ledger_head": "0:0", "store": True}
    first = (member("backup.json"), json.dumps(about).encode())
    archive(tmp_path / "file", first, (entry, b"evil" if entry.isreg() else b""))
    before = sorted(tmp_path.iterdir())
    said = refused(tmp_path / "home", tmp_path / "file", passphrase, ConfigError)
    assert "no backup of ours" in said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", [b"", b"not a tar archive" * 1000, bytes(10240)])
def test_a_sealed_file_of_something_else_is_refused(
    passphrase: Path, tmp_path: Path, content: bytes
) -> None:
    with (tmp_path / "file").open("wb") as target:
        sealed = SealedWriter(target, PASSPHRASE)
        sealed.write(content)
        sealed.finish()
    refused(tmp_path / "home", tmp_path / "file", passphrase, ConfigError)


# Where it may not be written --------------------------------------------------------------------


def test_a_home_that_holds_something_is_left_alone(
    bank: PartySettings, sealed: bytes, passphrase: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(sealed)
    before = contents(bank.home)
    with pytest.raises(ConfigError, match="is not empty"):
        restore_backup(bank.home, tmp_path / "file", passphrase_file=passphrase)
    assert contents(bank.home) == before


def test_a_backup_never_overwrites(bank: PartySettings, passphrase: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"something")
    with pytest.raises(ConfigError, match="never overwritten"):
        make_backup(bank, file, passphrase_file=passphrase)
    assert file.read_bytes() == b"something"


def test_a_full_disk_leaves_nothing_of_a_backup_and_the_home_as_it_was(
    bank: PartySettings, passphrase: Path, tmp_path: Path
) -> None:
    before = contents(bank.home)
    small = tmp_path / "small"
    small.write_bytes(bytes(10_000))
    names = sorted(tmp_path.iterdir())
    with full_disk(small), pytest.raises(StoreError, match="could not be written"):
        make_backup(bank, tmp_path / "file", passphrase_file=passphrase)
    assert sorted(tmp_path.iterdir()) == names
    assert contents(bank.home) == before
    assert [path.name for path in bank.home.iterdir() if path.name.startswith(".backup")] == []


def test_a_full_disk_leaves_no_half_restored_home(
    sealed: bytes, passphrase: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(sealed)
    small = tmp_path / "small"
    small.write_bytes(bytes(10_000))
    with full_disk(small):
        said = refused(tmp_path / "home", tmp_path / "file", passphrase, StoreError)
    assert "nothing was restored" in said


def test_a_damaged_ledger_is_told_and_not_backed_up(
    bank: PartySettings, passphrase: Path, tmp_path: Path
) -> None:
    bank.ledger.write_bytes(bank.ledger.read_bytes().replace(b'"reserve"', b'"refund"', 1))
    with pytest.raises(LedgerError):
        make_backup(bank, tmp_path / "file", passphrase_file=passphrase)
    assert not (tmp_path / "file").exists()


def test_a_store_elsewhere_is_not_silently_left_out(
    bank: PartySettings, passphrase: Path, tmp_path: Path
) -> None:
    config = bank.home / "party.toml"
    text = config.read_text()
    for url in ("postgresql+psycopg://postgres@127.0.0.1/test", f"sqlite:///{tmp_path}/other.db"):
        config.write_text(text.replace("sqlite:///profile.db", url))
        settings = load_settings(bank.home)
        with pytest.raises(ConfigError, match="--without-store"):
            make_backup(settings, tmp_path / "file", passphrase_file=passphrase)
    made = make_backup(settings, tmp_path / "file", passphrase_file=passphrase, without_store=True)
    assert not made.store
    assert not restore_backup(
        tmp_path / "home", tmp_path / "file", passphrase_file=passphrase
    ).store


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"short\n", 0o600, "at least 16 bytes"),
        (b"\n" + PASSPHRASE, 0o600, "at least 16 bytes"),
        (PASSPHRASE, 0o644, "open to other users"),
        (None, 0, "cannot be read"),
    ],
)
def test_a_bad_passphrase_file_is_told(
    bank: PartySettings, tmp_path: Path, content: bytes | None, mode: int, why: str
) -> None:
    path = tmp_path / "bad"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=why):
        make_backup(bank, tmp_path / "file", passphrase_file=path)


def test_the_two_commands(bank: PartySettings, passphrase: Path, tmp_path: Path) -> None:
    def party(home: Path, *arguments: object) -> str:
        program = Path(sys.executable).with_name("fedtags-party")
        ended = subprocess.run(
            [program, "--home", home, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    file, home = tmp_path / "bank.backup", tmp_path / "again"
    said = party(bank.home, "backup", file, "--passphrase-file", passphrase)
    assert "left out: consent.csv, events.parquet, own-notes.txt, rejected" in said
    head = Ledger(bank.ledger).position()
    assert f"{head.position}:{head.hash}" in said
    assert "repeat every opt-out" in party(home, "restore", file, "--passphrase-file", passphrase)
    assert "every byte" in party(home, "ledger", "verify")
    assert "every byte" in party(home, "egress", "verify")
    assert hashlib.sha256(PASSPHRASE).hexdigest() not in said
    assert PASSPHRASE.decode() not in said


def test_a_home_of_the_version_before_starts_and_gets_what_it_lacks(local: LocalRun) -> None:
    """Without the files and settings that came since: egress log, store and access keys, sections
    of party.toml."""
    local.run()
    home = local.federation.homes["bank"]
    local.services.pop("bank").close()
    settings = load_settings(home)
    for path in (settings.egress, settings.access_key, settings.access_log):
        path.unlink(missing_ok=True)
    text = settings.home.joinpath("party.toml").read_text()
    kept, _, _ = text.partition("[profile_store]")
    (home / "party.toml").write_text(f'{kept}[profile_store]\nurl = "sqlite:///profile.db"\n')
    outcome = local.run(run_id="run-2")
    assert "bank" in outcome.parties
    assert settings.egress.exists()
