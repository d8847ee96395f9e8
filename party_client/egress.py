"""The egress log: one line for every message that leaves this party, on the disk before it leaves.

HOME/egress.jsonl is a hash chain (`privacy.hash_chain`). It stands where bytes leave, after all
else: the service hands it each frame (`record_frame`), and each request to the coordinator is
handed to it (`record_request`). What is no message of the protocol signed by this party, and not
the one constant refusal, does not leave; nor does anything while the log cannot be written.

It holds no customer's data: hashes, lengths, names of fields and public constants of plans. What
Flower's SuperNode sends by itself (registration, heartbeats, requests for work) is not in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx

from party_client.settings import PartySettings
from privacy import disclosure
from privacy.ciphertexts import CIPHERTEXT_BYTES
from privacy.errors import ConfigError, LedgerError
from privacy.framing import read
from privacy.hash_chain import Clock, Entry, HashChain, Head, utc_now
from privacy.messages import PARTY_MESSAGES, REFUSAL, Body, Treatment

FORMAT = 1
REFUSED = "refusal"
ENROLMENT = "enrolment"
DISCLOSURE = "disclosure"
COORDINATOR = "coordinator"
_DOMAIN = b"fedtags egress 1"
_OPENED = "open"
_SENT = "sent"
_CIPHERTEXTS = "ciphertexts"
_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True)
class EgressEntry:
    """One message that left, or was about to when a crash came.

    `bytes` and `sha256` are of exactly what left: a frame, or the body of a request. `shape`
    says each field's length and `treatment` why it may leave (`privacy.messages`). `epsilon`: what
    the ledger charged for this message by itself, at its delta; 0 for what is sent again, and for
    what carries no release. The sum of these is no budget: the ledger composes. `run`,
    `plan_digest`, `round` and `attempt` are None where there is no run.
    """

    sequence: int
    time: datetime
    kind: str
    run: str | None
    plan_digest: str | None
    round: int | None
    attempt: int | None
    recipient: str
    bytes: int
    shape: str
    treatment: str
    sha256: str
    epsilon: float
    resent: bool
    hash: str


@dataclass(frozen=True)
class _Line:
    """What a line's body holds: an entry without its place in the chain."""

    kind: str
    run: str | None
    plan_digest: str | None
    round: int | None
    attempt: int | None
    recipient: str
    bytes: int
    shape: str
    treatment: str
    sha256: str
    epsilon: float
    resent: bool


class EgressLog:
    """The log in the file `path`, made if a home older than it has none.

    Safe between threads and processes. Every method raises LedgerError if the file is not what was
    written or cannot be written; then nothing may leave.
    """

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self._file = HashChain(path, _DOMAIN, clock)
        if not path.exists():
            self._file.create(_OPENED, {"format": FORMAT})
        self._file.read()

    def record_frame(
        self, frame: bytes, public: bytes, *, epsilon: float = 0.0, resent: bool = False
    ) -> None:
        """Write the line of a frame that is about to leave; it is on the disk when this returns.

        `public`: this party's own key. Raises ProtocolError or SignatureError, writing nothing, if
        the frame is neither the constant refusal nor a message of the protocol that it signed.
        """
        if frame == REFUSAL:
            constant = Treatment.CONSTANT.value
            line = _Line(
                *(REFUSED, None, None, None, None, COORDINATOR, len(frame), "constant", constant),
                *(_sha256(frame), 0.0, resent),
            )
        else:
            received = read(frame, public, *PARTY_MESSAGES)
            at, body = received.envelope, received.body
            line = _Line(
                kind=at.type,
                run=at.run,
                plan_digest=at.plan.hex(),
                round=at.round,
                attempt=at.attempt,
                recipient=at.recipient,
                bytes=len(frame),
                shape=_shape(body),
                treatment=", ".join(_treatments(type(body))),
                sha256=_sha256(frame),
                epsilon=0.0 if resent else epsilon,
                resent=resent,
            )
        self._append(line)

    def record_request(self, method: str, path: str, body: bytes) -> None:
        """Write the line of an HTTP request to the coordinator that is about to leave.

        Raises ProtocolError, writing nothing, if it goes where disclosures go and is none.
        """
        kind, treatment = ENROLMENT, Treatment.DISCLOSED.value
        shape = f"{method} {path}: {len(body)} bytes"
        if path == disclosure.PATH:
            told = disclosure.read_disclosure(body)
            kind, shape = DISCLOSURE, _disclosed(told)
            treatment = ", ".join(one.value for one in disclosure.treatments(told))
        self._append(
            _Line(
                *(kind, None, None, None, None, COORDINATOR, len(body), shape, treatment),
                *(_sha256(body), 0.0, False),
            )
        )

    def entries(self) -> tuple[EgressEntry, ...]:
        """All lines, oldest first, each verified."""
        return tuple(_entry(one) for one in self._file.read().entries if one.kind == _SENT)

    def verify(self, known: Head | None = None) -> Head:
        """Check every byte, and that `known` is in the file. Returns the newest entry."""
        return self._file.verify(known)

    def head(self) -> Head:
        """The newest entry. Kept elsewhere, it makes a cut visible."""
        return self._file.read().head

    def _append(self, line: _Line) -> None:
        with self._file.appending() as file:
            if file.chain.torn:  # a crash's: nothing of what it was to announce has left
                file.seal_torn({})
            file.append(_SENT, asdict(line))


@dataclass(frozen=True)
class LoggedRequests(httpx.Auth):
    """`inner` authentication whose every request is in the log before it leaves."""

    inner: httpx.Auth
    log: EgressLog

    requires_request_body = True

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Log what `inner` is about to send."""
        flow = self.inner.auth_flow(request)
        outgoing = next(flow)
        while True:
            path = outgoing.url.raw_path.decode("ascii")
            self.log.record_request(outgoing.method, path, outgoing.content)
            response = yield outgoing
            try:
                outgoing = flow.send(response)
            except StopIteration:
                return


def read_page(settings: PartySettings, page: int = 1, size: int = 50) -> list[EgressEntry]:
    """The lines of one page, newest first; pages count from 1. Empty past the end, and for a home
    that has sent nothing. LedgerError if the log is not what was written."""
    newest_first = everything(settings)[::-1]
    start = (max(page, 1) - 1) * size
    return list(newest_first[start : start + size])


def count(settings: PartySettings) -> int:
    """How many messages left."""
    return len(everything(settings))


def head(settings: PartySettings) -> Head | None:
    """The newest entry of the log; None for a home that has sent nothing."""
    return _opened(settings.egress).head() if settings.egress.exists() else None


def verify(settings: PartySettings, known: str | None = None) -> Head | None:
    """Check every byte of the log; `known`: SEQUENCE:HASH that must be in it.

    Raises LedgerError if it is not what was written or lacks `known`; ConfigError if that is none.
    """
    wanted = None if known is None else _parse_head(known)
    if settings.egress.exists():
        return EgressLog(settings.egress).verify(wanted)
    if wanted is not None:
        raise LedgerError("egress.jsonl does not exist, and somebody has seen it: restore it")
    return None


def _parse_head(text: str) -> Head:
    found = _HEAD.fullmatch(text)
    if found is None:
        raise ConfigError(
            "--known: give SEQUENCE:HASH as `fedtags-party egress verify` prints it, such as 17: "
            "and then 64 hexadecimal digits"
        )
    return Head(int(found[1]), found[2])


def everything(settings: PartySettings) -> tuple[EgressEntry, ...]:
    """All lines, oldest first; none for a home that has sent nothing."""
    return _opened(settings.egress).entries() if settings.egress.exists() else ()


@lru_cache(maxsize=8)
def _opened(path: Path) -> EgressLog:
    """Kept, because a log that was verified once is read again a hundred times faster."""
    return EgressLog(path)


def _entry(entry: Entry) -> EgressEntry:
    try:
        return EgressEntry(sequence=entry.sequence, time=entry.time, hash=entry.hash, **entry.body)
    except TypeError as error:
        raise LedgerError(
            f"egress.jsonl line {entry.line}: written by another version; install the newest"
        ) from error


def _disclosed(told: disclosure.Disclosure) -> str:
    """Each section that is told, and how many entries it has if it is a list."""
    parts = []
    for name in told.told:
        section = getattr(told, name)
        length = f"{len(section)} entries" if isinstance(section, tuple) else "told"
        parts.append(f"{name}: {length}")
    return ", ".join(parts)


def _shape(body: Body) -> str:
    """Each field's name and length; never a value."""
    return ", ".join(_length(name, getattr(body, name)) for name in type(body).model_fields)


def _length(name: str, value: Any) -> str:
    if isinstance(value, bytes):
        count, rest = divmod(len(value), CIPHERTEXT_BYTES)
        if name == _CIPHERTEXTS and not rest:
            return f"{name}: {count} of {CIPHERTEXT_BYTES} bytes"
        return f"{name}: {len(value)} bytes"
    if isinstance(value, dict):
        return f"{name}: {len(value)} entries"
    if isinstance(value, (tuple, list)):
        return f"{name}: {len(value)} numbers"
    return f"{name}: one {'flag' if isinstance(value, bool) else 'value'}"


def _treatments(kind: type[Body]) -> list[str]:
    """The treatments of a message's fields, each once, in the order of `Treatment`."""
    found = {Treatment.CONSTANT.value}  # the envelope's
    for field in kind.model_fields.values():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)  # a test walks every message
        found.add(str(extra["treatment"]))
    return [one.value for one in Treatment if one.value in found]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
