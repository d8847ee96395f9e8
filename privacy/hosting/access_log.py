"""Who asked for what, in a hash chain: access.jsonl and the older files beside it.

An answer does not wait for its line: lines are written in groups, with one fsync, at most 100 ms
after they were recorded (plus the disk's own time). A crash of the machine loses at most that
much. If lines cannot be written, nothing more is answered until they can.

A customer appears as a keyed hash: it tells the same customer from another and names nobody.
A file that has grown large is kept under a number and a new one begins with its head, so that the
files are one chain.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.errors import LedgerError, StoreError
from privacy.hash_chain import HashChain, Head
from privacy.hosting.access_values import Principal

DOMAIN = b"fedtags access log 1"
GROUP_SECONDS = 0.05
LARGE_BYTES = 32 * 1024 * 1024
MOST_WAITING = 20_000
RETRY_SECONDS = 1.0
_LONGEST_DETAIL = 200


@dataclass(frozen=True)
class AccessRecord:
    """One line. `number` counts the lines of all files from 0; `customer`: a keyed hash."""

    number: int
    time: datetime
    who: str
    role: str
    kind: str
    what: str
    customer: str | None
    detail: str
    allowed: bool
    address: str


class AccessLog:
    """The access log in `path`. Close it to write what waits. Safe between threads; several
    processes may write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _locked(path):
            _begin(path)
        self._chain, self._inode = HashChain(path, DOMAIN), 0
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._wake = threading.Condition()
        self._failure: LedgerError | None = None
        self._written = 0  # how many of all that were recorded
        self._recorded = 0
        self._closing = False
        self.head: Head | None = None  # of the newest line that this process wrote
        self._writer = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._writer.start()

    def record(
        self,
        who: Principal,
        what: str,
        *,
        allowed: bool,
        customer: str | None = None,
        detail: str = "",
    ) -> None:
        """Note one line; it is on the disk within 100 ms. Raises StoreError while lines cannot be
        written: then nothing may be answered."""
        body = {
            "who": who.name,
            "role": who.role,
            "kind": who.kind,
            "what": what,
            "customer": customer,
            "detail": detail[:_LONGEST_DETAIL],
            "allowed": allowed,
            "from": who.address,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        with self._wake:
            if self._closing or self._failure is not None or len(self._waiting) >= MOST_WAITING:
                raise StoreError(
                    "the access log cannot be written, so nothing is answered; check its file's "
                    "permissions and free disk space, and whether it verifies"
                )
            self._waiting.append(("access", body))
            self._recorded += 1
            self._wake.notify_all()

    def flush(self) -> None:
        """Return when everything recorded until now is on the disk. Raises StoreError if it
        cannot be."""
        with self._wake:
            wanted = self._recorded
            self._wake.wait_for(lambda: self._written >= wanted or self._failure is not None)
            if self._failure is not None:
                raise StoreError(f"the access log cannot be written: {self._failure}")

    def close(self) -> None:
        """Write what waits and end."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._writer.join(timeout=10)

    @property
    def working(self) -> bool:
        """Whether lines can be written."""
        return self._failure is None

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._waiting) or self._closing)
                if not self._waiting:
                    return
                closing = self._closing
            if not closing:
                time.sleep(GROUP_SECONDS)  # what comes meanwhile shares the write
            with self._wake:
                group = list(self._waiting)
            failure = self._write(group)
            with self._wake:
                self._failure = failure
                if failure is None:
                    del self._waiting[: len(group)]
                    self._written += len(group)
                self._wake.notify_all()
                if failure is not None:
                    if self._closing:
                        return
                    self._wake.wait(RETRY_SECONDS)

    def _write(self, group: Sequence[tuple[str, Mapping[str, Any]]]) -> LedgerError | None:
        try:
            with _locked(self._path):
                found = self._path.stat()
                if found.st_ino != self._inode:  # another process has begun a new file
                    self._chain, self._inode = HashChain(self._path, DOMAIN), found.st_ino
                last = self._chain.extend(group)
                self.head = Head(last.sequence, last.hash)
                if self._path.stat().st_size >= LARGE_BYTES:
                    self._path.rename(_next_older(self._path))
                    _begin(self._path)
        except LedgerError as error:
            return error
        except OSError as error:
            return LedgerError(f"{self._path.name} cannot be used ({error.strerror})")
        except Exception as error:  # noqa: BLE001  whatever it is: no line, no answer
            return LedgerError(f"{self._path.name} cannot be written ({type(error).__name__})")
        return None


def read_page(path: Path, page: int, size: int) -> tuple[list[AccessRecord], int]:
    """Page `page` (from 1) of the lines, newest first, and how many pages of `size` there are.

    Lines are shown as they stand: `verify_log` says whether they are what was written.
    """
    files = _files(path)
    newest = _lines(files[-1])
    total = _before(newest) + len(newest)
    high = total - (page - 1) * size
    low = max(0, high - size)
    found: list[AccessRecord] = []
    for file in reversed(files):
        lines = newest if file == files[-1] else _lines(file)
        before = _before(lines)
        for number in range(min(high, before + len(lines)) - 1, max(low, before) - 1, -1):
            found += _record(lines[number - before], number)
        if before <= low:
            break
    return found, max(1, -(-total // size))


def find_customer(path: Path, customer: str) -> Iterator[AccessRecord]:
    """Every line about one customer (its keyed hash), oldest first."""
    for file in _files(path):
        lines = _lines(file)
        for number, line in enumerate(lines, _before(lines)):
            yield from (one for one in _record(line, number) if one.customer == customer)


def verify_log(path: Path) -> tuple[int, Head]:
    """Verify every byte of all files and that each begins with the head of the one before.

    Returns the number of entries and the newest head. Raises LedgerError naming file and line.
    Lines cut from the end, or all files replaced, show only against a head kept elsewhere.
    """
    before: Head | None = None
    entries, lines = 0, 0
    for file in _files(path):
        chain = HashChain(file, DOMAIN).read()
        opened = chain.entries[0].body
        told = None if before is None else [before.sequence, before.hash]
        if (opened.get("before"), opened.get("lines")) != (told, lines):
            raise LedgerError(
                f"{file.name} does not follow the file before it; one was altered, removed or "
                "restored from an old copy: restore the newest"
            )
        entries += len(chain.entries)
        lines = opened["lines"] + chain.entries[-1].line
        before = chain.head
    assert before is not None  # _files finds at least one
    return entries, before


def older_files(path: Path) -> list[Path]:
    """The log's earlier files, oldest first; none of them changes any more."""
    return sorted(path.parent.glob(f"{path.stem}-{'[0-9]' * 6}{path.suffix}"))


def _begin(path: Path) -> None:
    """Make the log's newest file if it is not there, with the head of the file before it."""
    if path.exists():
        return
    older = older_files(path)
    told: dict[str, Any] = {"before": None, "lines": 0}
    if older:
        chain = HashChain(older[-1], DOMAIN).read()
        told = {
            "before": [chain.head.sequence, chain.head.hash],
            "lines": chain.entries[0].body["lines"] + chain.entries[-1].line,
        }
    HashChain(path, DOMAIN).create("open", told)


def _files(path: Path) -> list[Path]:
    """All files of the log, oldest first. Raises LedgerError if there is none."""
    files = older_files(path)
    files += [path] if path.exists() else []
    if not files:
        raise LedgerError(f"{path} does not exist; it is made when the service starts")
    return files


def _next_older(path: Path) -> Path:
    older = older_files(path)
    number = int(older[-1].stem.rpartition("-")[2]) + 1 if older else 1
    return path.with_name(f"{path.stem}-{number:06d}{path.suffix}")


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except OSError as error:
        raise LedgerError(f"{file} cannot be read ({error.strerror})") from error


def _before(lines: list[bytes]) -> int:
    """How many lines the older files have."""
    try:
        return int(json.loads(lines[0])["body"]["lines"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise LedgerError("the access log's first line is not what was written") from error


def _record(line: bytes, number: int) -> list[AccessRecord]:
    """The line's record; none if it is not one of an access."""
    try:
        content = json.loads(line)
        if content["kind"] != "access":
            return []
        body = content["body"]
        return [
            AccessRecord(
                number=number,
                time=datetime.fromisoformat(body["at"]),
                who=body["who"],
                role=body["role"],
                kind=body["kind"],
                what=body["what"],
                customer=body["customer"],
                detail=body["detail"],
                allowed=body["allowed"],
                address=body["from"],
            )
        ]
    except (ValueError, KeyError, TypeError):
        return []


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time: beginning a new file must not fall between another's two steps."""
    try:
        descriptor = os.open(
            path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise LedgerError(
            f"{path.with_suffix('.lock')} cannot be used ({error.strerror})"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
