"""The access log: one chain, written in groups, that fails closed and names no customer."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from privacy.errors import LedgerError, StoreError
from privacy.hash_chain import HashChain
from privacy.hosting import access_log
from privacy.hosting.access import Principal
from privacy.hosting.access_log import DOMAIN, AccessLog, find_customer, read_page, verify_log

ANNA = Principal("anna", "operator", "person", "10.0.0.9")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[AccessLog]:
    opened = AccessLog(path)
    yield opened
    opened.close()


def whats(path: Path, page: int = 1, size: int = 1000) -> list[str]:
    return [one.what for one in read_page(path, page, size)[0]]


def test_a_line_says_who_what_when_whence_and_whether(log: AccessLog, path: Path) -> None:
    log.record(ANNA, "read a customer", allowed=False, customer="c" * 32, detail="for service")
    log.flush()
    (line,) = read_page(path, 1, 50)[0]
    assert (line.who, line.role, line.kind, line.what) == (
        "anna",
        "operator",
        "person",
        "read a customer",
    )
    assert (line.customer, line.detail, line.allowed, line.address) == (
        "c" * 32,
        "for service",
        False,
        "10.0.0.9",
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_lines_are_on_the_disk_soon_without_anybody_waiting(log: AccessLog, path: Path) -> None:
    log.record(ANNA, "see the node", allowed=True)
    deadline = time.monotonic() + 10
    while not whats(path):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_group_shares_one_write(
    log: AccessLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    extend = HashChain.extend

    def counted(self: HashChain, items: list[object]) -> object:
        writes.append(len(items))
        return extend(self, items)  # type: ignore[arg-type]

    monkeypatch.setattr(HashChain, "extend", counted)
    for number in range(500):
        log.record(ANNA, f"look {number}", allowed=True)
    log.flush()
    assert sum(writes) == 500
    assert len(writes) < 50
    assert whats(path) == [f"look {number}" for number in reversed(range(500))]
    verify_log(path)


def test_threads_and_processes_write_one_chain(log: AccessLog, path: Path) -> None:
    other = AccessLog(path)  # as a command beside the web process has
    threads = [
        threading.Thread(
            target=lambda to: [to.record(ANNA, "look", allowed=True) for _ in range(50)],
            args=(to,),
        )
        for to in (log, other, log, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    log.flush()
    entries, _ = verify_log(path)
    assert entries == 201


def test_closing_writes_what_waits_and_refuses_more(path: Path) -> None:
    log = AccessLog(path)
    log.record(ANNA, "see the node", allowed=True)
    log.close()
    assert whats(path) == ["see the node"]
    with pytest.raises(StoreError):
        log.record(ANNA, "see the node", allowed=True)


def test_while_lines_cannot_be_written_nothing_is_answered(log: AccessLog, path: Path) -> None:
    log.record(ANNA, "first", allowed=True)
    log.flush()
    path.chmod(0o644)  # open to others: the chain refuses the file
    log.record(ANNA, "second", allowed=True)
    with pytest.raises(StoreError, match="cannot be written"):
        log.flush()
    assert not log.working
    with pytest.raises(StoreError, match="nothing is answered"):
        log.record(ANNA, "third", allowed=True)
    path.chmod(0o600)
    deadline = time.monotonic() + 10
    while not log.working:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    log.record(ANNA, "fourth", allowed=True)
    log.flush()
    assert whats(path) == ["fourth", "second", "first"]


@pytest.mark.parametrize("change", ["alter", "remove"])
def test_what_was_changed_is_found(path: Path, change: str) -> None:
    log = AccessLog(path)
    for number in range(5):
        log.record(ANNA, f"look {number}", allowed=True)
    log.close()
    verify_log(path)
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "alter":
        lines[2] = lines[2].replace(b"anna", b"hans")
    else:
        del lines[2]
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match="line 3"):
        verify_log(path)


def test_a_line_that_a_crash_cut_is_sealed_and_writing_goes_on(path: Path) -> None:
    first = AccessLog(path)
    first.record(ANNA, "before", allowed=True)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"body":{"who":"an')
    second = AccessLog(path)
    second.record(ANNA, "after", allowed=True)
    second.close()
    verify_log(path)
    assert whats(path) == ["after", "before"]


def test_a_line_that_another_process_left_half_is_sealed(log: AccessLog, path: Path) -> None:
    log.record(ANNA, "before", allowed=True)
    log.flush()
    with path.open("ab") as file:
        file.write(b'{"body":{"who":"an')
    log.record(ANNA, "after", allowed=True)
    log.flush()
    verify_log(path)
    assert whats(path) == ["after", "before"]


def test_a_clock_that_was_set_back_stops_nothing(path: Path) -> None:
    from datetime import UTC, datetime

    future = HashChain(path, DOMAIN, clock=lambda: datetime(2999, 1, 1, tzinfo=UTC))
    future.create("open", {"before": None, "lines": 0})
    log = AccessLog(path)
    log.record(ANNA, "look", allowed=True)
    log.close()
    verify_log(path)
    (line,) = read_page(path, 1, 50)[0]
    assert line.time.year < 2999


def test_a_large_file_is_kept_and_the_next_begins_with_its_head(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "LARGE_BYTES", 2000)
    first, second = AccessLog(path), AccessLog(path)
    for number in range(60):
        log = (first, second)[number % 2]
        log.record(ANNA, f"look {number}", allowed=True, customer="a" * 32 if number % 7 else None)
        log.flush()
    first.close()
    second.close()
    files = sorted(path.parent.glob("access*.jsonl"))
    assert len(files) > 3
    verify_log(path)
    wanted = [f"look {number}" for number in reversed(range(60))]
    assert whats(path, 1, 10**6) == wanted
    pages = read_page(path, 1, 10)[1]
    paged = [what for page in range(1, pages + 1) for what in whats(path, page, 10)]
    assert paged == wanted
    assert read_page(path, pages + 1, 10)[0] == []
    assert [one.what for one in find_customer(path, "a" * 32)] == [
        f"look {number}" for number in range(60) if number % 7
    ]
    files[1].unlink()
    with pytest.raises(LedgerError, match="does not follow"):
        verify_log(path)


def test_the_oldest_file_cannot_go_unnoticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "LARGE_BYTES", 2000)
    log = AccessLog(path)
    for number in range(40):
        log.record(ANNA, f"look {number}", allowed=True)
        log.flush()
    log.close()
    oldest = access_log.older_files(path)[0]
    oldest.unlink()
    with pytest.raises(LedgerError, match="does not follow"):
        verify_log(path)


def test_a_file_beside_the_log_stops_no_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "LARGE_BYTES", 2000)
    path.parent.mkdir(exist_ok=True)
    (path.parent / "access-backup.jsonl").write_text("somebody's copy")
    log = AccessLog(path)
    for number in range(40):
        log.record(ANNA, f"look {number}", allowed=True)
        log.flush()
    log.close()
    assert verify_log(path)[0] >= 40


def test_an_unforeseen_error_stops_answers_and_not_the_writer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AccessLog(path)
    with monkeypatch.context() as broken:
        broken.setattr(HashChain, "extend", lambda *_: 1 // 0)
        log.record(ANNA, "look", allowed=True)
        with pytest.raises(StoreError, match="ZeroDivisionError"):
            log.flush()
        with pytest.raises(StoreError):
            log.record(ANNA, "look again", allowed=True)
    deadline = time.monotonic() + 30
    while not log.working:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log.close()
    assert whats(path) == ["look"]


def test_a_crash_between_the_two_steps_of_a_new_file_is_made_good(path: Path) -> None:
    first = AccessLog(path)
    first.record(ANNA, "before", allowed=True)
    first.close()
    path.rename(path.with_name("access-000001.jsonl"))
    second = AccessLog(path)
    second.record(ANNA, "after", allowed=True)
    second.close()
    verify_log(path)
    assert whats(path) == ["after", "before"]


def test_a_log_that_is_not_there_is_an_error_and_not_an_empty_one(path: Path) -> None:
    with pytest.raises(LedgerError, match="does not exist"):
        verify_log(path)


def test_a_long_detail_is_cut(log: AccessLog, path: Path) -> None:
    log.record(ANNA, "look", allowed=True, detail="x" * 10_000)
    log.flush()
    assert len(json.loads(path.read_bytes().splitlines()[-1])["body"]["detail"]) == 200
