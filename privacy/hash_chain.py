"""An append-only file of JSON lines in which every line seals all lines before it.

A line is canonical JSON of `{sequence, time, kind, body, previous, hash}`; `hash` is the SHA-256
of the rest, `previous` the hash of the line before. An append holds an exclusive flock, re-reads
the file, writes one line and returns after fsync: what it returned from is on the disk.

What the chain shows: any line altered, removed from the middle, or moved. What it cannot show by
itself: a whole file rewritten, or whole lines cut from its end. For that, a head (`Head`) must be
known elsewhere; an open `HashChain` remembers the last one it saw, receipts carry others.

A line without an end is a write that a crash interrupted, so nobody was told that it happened.
The next append seals it: it stays in the file, ended by a CAN character and followed by an entry of
kind 'torn' that holds its SHA-256; a crash in the middle of that is sealed in the same way. Nothing
is ever cut off or rewritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privacy.errors import LedgerError

START = "0" * 64
TORN = "torn"
# Ends an interrupted line when it is sealed, so that a crash in the middle of that can be told from
# a whole line that was altered: no entry holds this character (CAN).
SEALING = b"\x18"
Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Entry:
    """One sealed line. `line` is its number in the file, from 1; `sequence` counts entries."""

    sequence: int
    time: datetime
    kind: str
    body: Mapping[str, Any]
    hash: str
    line: int


@dataclass(frozen=True)
class Head:
    """A position in a chain that others may remember: whoever knows it can show a cut."""

    sequence: int
    hash: str


@dataclass(frozen=True)
class Chain:
    """A file as read. `torn` holds the bytes of an interrupted last line, if there is one.

    `unterminated`: the last entry is whole and only its line end is missing.
    """

    entries: tuple[Entry, ...]
    torn: bytes = b""
    unterminated: bool = False

    @property
    def head(self) -> Head:
        """The newest entry."""
        return Head(self.entries[-1].sequence, self.entries[-1].hash)


def utc_now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


class HashChain:
    """A chain in the file `path`. Safe between threads and processes; LedgerError on any doubt.

    `domain` separates the hashes of one kind of file from those of another.
    """

    def __init__(self, path: Path, domain: bytes, clock: Clock = utc_now) -> None:
        self._path = path
        self._domain = domain
        self._clock = clock
        self._seen: Head | None = None
        # Bytes verified before and what they hold: comparing them is a hundred times faster than
        # verifying them again, and finds as much.
        self._verified: tuple[bytes, tuple[Entry, ...]] = (b"", ())
        self._end: tuple[int, Entry] | None = None  # of `extend`: the file's size and last entry

    def create(self, kind: str, body: Mapping[str, Any]) -> None:
        """Make the file with its first entry, mode 0600. An existing file is never replaced."""
        line, _ = self._line(None, kind, body, self._clock())
        try:
            descriptor, draft = tempfile.mkstemp(dir=self._path.parent, prefix=".new-")  # mode 0600
        except OSError as error:
            raise self._unusable(error) from error
        try:
            _write_durably(descriptor, line)
            os.link(draft, self._path)  # unlike a rename, it fails where a file is already
            _sync_folder(self._path.parent)
        except FileExistsError as error:
            raise LedgerError(f"{self._path} already exists; it is never overwritten") from error
        except OSError as error:
            raise self._unusable(error) from error
        finally:
            os.close(descriptor)
            with suppress(OSError):
                os.unlink(draft)

    def read(self) -> Chain:
        """All entries, each one verified, under a shared lock."""
        with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
            return self._checked(descriptor)

    def verify(self, known: Head | None = None) -> Head:
        """Verify every byte; `known` must be in the chain. Also a torn last line is an error."""
        chain = self.read()
        if chain.torn or chain.unterminated:
            raise LedgerError(
                f"{self._path.name} line {_lines(chain) + 1}: cut off in the middle; a write was "
                "interrupted (the next append seals that), or the file was truncated: compare its "
                "head with a receipt"
            )
        if known is not None:
            self._check_contains(chain, known)
        return chain.head

    @contextmanager
    def appending(self) -> Iterator[Appender]:
        """Exclusive access: what is read stays true until the block ends.

        The clock is read once, under the lock: what a caller decides by the time holds for the
        entries that it writes.
        """
        with self._locked(os.O_RDWR | os.O_APPEND, fcntl.LOCK_EX) as descriptor:
            yield Appender(self, descriptor, self._checked(descriptor), self._clock())

    def extend(self, items: Sequence[tuple[str, Mapping[str, Any]]]) -> Entry:
        """Append all `items` (kind, body) with one write and one fsync; returns the last entry.

        For a long file with many writes: the first call verifies the file, later ones only what
        was added since, so that a line altered meanwhile shows in `verify`. An interrupted line is
        sealed. A clock set back is no error: entries get the time of the one before.
        """
        with self._locked(os.O_RDWR | os.O_APPEND, fcntl.LOCK_EX) as descriptor:
            try:
                size, last, rest = self._tail(descriptor)
            except OSError as error:
                raise self._unusable(error) from error
            data, skipped = b"", 0
            moment = max(self._clock().astimezone(UTC), last.time)
            if rest:
                data, skipped = SEALING + b"\n", rest.count(b"\n") + 1
                items = [(TORN, {"sha256": _sha256(rest)}), *items]
            for kind, body in items:
                line, last = self._line(last, kind, body, moment, skipped_lines=skipped)
                data, skipped = data + line, 0
            try:
                _write_durably(descriptor, data)
            except OSError as error:
                self._end = None
                raise self._unusable(error) from error
            self._end = (size + len(data), last)
            self._seen = Head(last.sequence, last.hash)
            return last

    def _tail(self, descriptor: int) -> tuple[int, Entry, bytes]:
        """The file's size, its last entry, and what an interrupted write left after it."""
        size = os.fstat(descriptor).st_size
        if self._end is None or size < self._end[0]:
            chain = self._checked(descriptor)
            self._verified = (b"", ())  # nothing more is compared: give the memory back
            rest = chain.torn
            if chain.unterminated:
                os.write(descriptor, b"\n")
                size += 1
            return size, chain.entries[-1], rest
        known, last = self._end
        *lines, rest = os.pread(descriptor, size - known, known).split(b"\n")
        for line in lines:
            entry = self._entry(line, last.line + 1, last)
            if entry is None or entry.kind == TORN:
                break
            last = entry
        else:
            if not rest:
                return size, last, b""
        self._end = None  # an interrupted or altered line: the whole file says which
        return self._tail(descriptor)

    def _checked(self, descriptor: int) -> Chain:
        try:
            data = _read_all(descriptor)
        except OSError as error:
            raise self._unusable(error) from error
        chain = self._parse(data)
        if self._seen is not None:
            self._check_contains(chain, self._seen)
        self._seen = chain.head
        return chain

    def _check_contains(self, chain: Chain, known: Head) -> None:
        # Sequence numbers have no gaps, so an entry's position is its sequence number.
        if known.sequence >= len(chain.entries) or (
            chain.entries[known.sequence].hash != known.hash
        ):
            raise LedgerError(
                f"{self._path.name}: entry {known.sequence} is known from elsewhere and is not in "
                "the file; it was cut, replaced or restored from an old copy: restore the newest"
            )

    @contextmanager
    def _locked(self, flags: int, lock: int) -> Iterator[int]:
        try:
            descriptor = os.open(self._path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                raise LedgerError(f"{self._path} is open to other users; run chmod 600 on it")
            fcntl.flock(descriptor, lock)
            yield descriptor
        finally:
            os.close(descriptor)

    def _unusable(self, error: OSError) -> LedgerError:
        return LedgerError(
            f"{self._path} cannot be used ({error.strerror}); check that it exists, its folder's "
            "permissions and free disk space"
        )

    def _line(
        self,
        last: Entry | None,
        kind: str,
        body: Mapping[str, Any],
        moment: datetime,
        skipped_lines: int = 0,
    ) -> tuple[bytes, Entry]:
        sequence, previous, line = (0, START, 0) if last is None else _position(last)
        moment = moment.astimezone(UTC)
        content = {
            "sequence": sequence,
            "time": moment.isoformat(timespec="microseconds"),
            "kind": kind,
            "body": dict(body),
            "previous": previous,
        }
        digest = self._digest(content)
        data = _canonical({**content, "hash": digest}) + b"\n"
        return data, Entry(sequence, moment, kind, dict(body), digest, line + 1 + skipped_lines)

    def _digest(self, content: Mapping[str, Any]) -> str:
        return hashlib.sha256(self._domain + b"\0" + _canonical(content)).hexdigest()

    def _parse(self, data: bytes) -> Chain:
        verified, before = self._verified
        if not data.startswith(verified):
            verified, before = b"", ()
        lines = data[len(verified) :].split(b"\n")
        tail = lines[-1]  # without its end; empty after a line that has one
        entries = list(before)
        first = entries[-1].line + 1 if entries else 1
        broken_off: list[bytes] = []  # what crashes left since the last entry, not sealed yet
        for number, line in enumerate(lines if tail else lines[:-1], first):
            entry = self._entry(line, number, entries[-1] if entries else None)
            if entry is not None and _accounts_for(entry, broken_off):
                entries.append(entry)
                broken_off = []
            elif entries and (line.endswith(SEALING) or number == first + len(lines) - 1):
                broken_off.append(line)
            else:  # a line that has its end was once whole: no crash explains it
                raise self._broken(number - len(broken_off))
        if not entries:
            raise self._broken(1)
        if broken_off:
            torn = b"\n".join(broken_off if tail else [*broken_off, b""])
            return Chain(tuple(entries), torn=torn)
        if tail:
            return Chain(tuple(entries), unterminated=True)
        self._verified = (data, tuple(entries))
        return Chain(tuple(entries))

    def _entry(self, line: bytes, number: int, before: Entry | None) -> Entry | None:
        """The entry that `line` is, if it is exactly the next one after `before`."""
        try:
            content = json.loads(line)
            if not isinstance(content, dict) or _canonical(content) != line:
                return None
            digest = content.pop("hash")
            entry = Entry(
                sequence=content["sequence"],
                time=datetime.fromisoformat(content["time"]),
                kind=content["kind"],
                body=content["body"],
                hash=digest,
                line=number,
            )
            place, expected, _ = (0, START, 0) if before is None else _position(before)
            sound = (
                set(content) == {"sequence", "time", "kind", "body", "previous"}
                and type(entry.sequence) is int
                and entry.sequence == place
                and content["previous"] == expected
                and isinstance(entry.body, dict)
                and isinstance(entry.kind, str)
                and entry.time.tzinfo is not None
                and (before is None or entry.time >= before.time)
                and digest == self._digest(content)
            )
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        return entry if sound else None

    def _broken(self, number: int) -> LedgerError:
        return LedgerError(
            f"{self._path.name} line {number}: altered, removed, moved or out of time; the file is "
            "not what was written: restore it from backup, nothing is spent until then"
        )


class Appender:
    """Appends under the lock of `HashChain.appending`. `chain` is what the file holds now, and
    `moment` (UTC) the time of every entry that is written."""

    def __init__(self, owner: HashChain, descriptor: int, chain: Chain, moment: datetime) -> None:
        self._owner = owner
        self._descriptor = descriptor
        self.chain = chain
        self.moment = moment.astimezone(UTC)

    def append(self, kind: str, body: Mapping[str, Any]) -> Entry:
        """Write one entry; it is on the disk when this returns. An interrupted line before it must
        have been sealed first. A clock set back is an error."""
        if self.chain.torn and kind != TORN:
            raise LedgerError("an interrupted line must be sealed before anything is appended")
        last = self.chain.entries[-1]
        skipped = self.chain.torn.count(b"\n") + 1 if self.chain.torn else 0
        line, entry = self._owner._line(last, kind, body, self.moment, skipped_lines=skipped)
        if entry.time < last.time:
            raise LedgerError(
                "the clock of this machine is behind the newest entry, which is of "
                f"{last.time:%Y-%m-%d %H:%M} UTC; if the clock was wrong then and is right now, "
                "entries can be written again from that time on"
            )
        start = b"\n" if self.chain.unterminated else b""
        if self.chain.torn:
            start = SEALING + b"\n"
        try:
            _write_durably(self._descriptor, start + line)
        except OSError as error:
            raise self._owner._unusable(error) from error
        self._owner._seen = Head(entry.sequence, entry.hash)
        self.chain = Chain((*self.chain.entries, entry))
        return entry

    def seal_torn(self, body: Mapping[str, Any]) -> Entry:
        """Account for the interrupted last line; `body` is what its reader made of it."""
        return self.append(TORN, {**body, "sha256": _sha256(self.chain.torn)})


def _lines(chain: Chain) -> int:
    last = chain.entries[-1].line
    return last - 1 if chain.unterminated else last


def _position(last: Entry) -> tuple[int, str, int]:
    return last.sequence + 1, last.hash, last.line


def _accounts_for(entry: Entry, broken_off: list[bytes]) -> bool:
    """An entry of kind 'torn' follows what crashes left, names it, and stands only there."""
    if not broken_off:
        return entry.kind != TORN
    left = b"\n".join(broken_off)
    return entry.kind == TORN and entry.body.get("sha256") == _sha256(left[: -len(SEALING)])


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return file.read()


def _write_durably(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
