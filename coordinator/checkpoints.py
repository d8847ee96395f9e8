"""How a run goes on after its process was killed: told again from what it has heard.

A run is a program that is determined by its answers: the same answers lead to the same next
messages, byte for byte. So what is kept of an exchange is what came back (signed statements, who
refused, who did not answer), once all that the exchange does is done; and every moment of the wall
clock that the run decided by. A process that takes the run up runs the same program from its start.
Exchanges that were answered are answered from here, without a message; the first one that was not
is asked again, byte for byte, so that a party that had answered it sends its stored reply.

What is kept is what the coordinator saw anyway: signed statements and ciphertexts. Of ciphertexts
only those stay that a later message still carries. Nothing outlives the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import cbor2

from privacy.errors import RunError, StoreError
from privacy.framing import Attached, frame_digest
from privacy.messages import Body, canonical


@dataclass(frozen=True)
class Answered:
    """One exchange that was answered.

    `asked`: SHA-256 of who was sent which frame; `attached`: what those frames' heads say of their
    attachment; `statements`: the replies without their attachments; `kept`: SHA-256 of what goes
    on from here, a sum or a sealed model, empty if nothing does; `needed`: SHA-256 of everything
    that later messages may still carry.
    """

    asked: bytes
    attached: Attached
    statements: Mapping[str, bytes]
    refused: tuple[str, ...]
    vanished: tuple[str, ...]
    kept: bytes = b""
    needed: tuple[bytes, ...] = ()


# An answered exchange, or a moment (UTC) that the run decided by.
Entry = Answered | datetime


@dataclass(frozen=True)
class Measured:
    """What is recorded of an exchange: wall-clock seconds, and frame bytes by party (up = from the
    party)."""

    phase: str
    round: int | None
    seconds: float
    bytes_up: Mapping[str, int]
    bytes_down: Mapping[str, int]


@dataclass(frozen=True)
class Kept:
    """What an earlier process of the run left: its entries in order, and attachments by SHA-256."""

    entries: Sequence[Entry] = ()
    attachments: Mapping[bytes, bytes] = field(default_factory=dict)


class Journal(Protocol):
    """Where a run keeps what it has heard. A method returns once it is durable.

    Each raises RunInterrupted if another process conducts the run by now.
    """

    def load(self) -> Kept:
        """What is there already. Events recorded before are not recorded again from here on."""
        ...

    def answered(self, entry: Answered, attachment: bytes, measured: Measured) -> None:
        """Keep an exchange and record it, at once; attachments that are not `needed` go."""
        ...

    def moment(self, at: datetime) -> None:
        """Keep a moment."""
        ...

    def caught_up(self) -> None:
        """What was heard before has been told again; from here on the run goes on."""
        ...


@dataclass
class Answers:
    """What came back: a frame, a refusal or nothing from each party that was asked.

    `again`: from the journal; the frames are statements then.
    """

    frames: dict[str, bytes]
    refused: tuple[str, ...]
    vanished: tuple[str, ...]
    again: bool = False
    statements: dict[str, bytes] = field(default_factory=dict)
    kept: bytes | None = None

    @property
    def complete(self) -> bool:
        """True if everyone answered and nobody refused."""
        return not self.refused and not self.vanished

    def keep(self, make: Callable[[], bytes]) -> bytes:
        """What goes on from this exchange: made once, and in a later process found again (empty
        there if no message carries it any more)."""
        if self.kept is None:
            self.kept = make()
        return self.kept


class Replay:
    """What is still to be told again, and afterwards the journal's pen.

    Invariant: while `pending`, no message is sent, nothing is recorded and no clock is asked.
    """

    def __init__(self, journal: Journal | None) -> None:
        """`journal`: None for a run that nobody takes up again, as in a simulation.

        Raises StoreError if the journal lacks what it says it holds.
        """
        self._journal = journal
        kept = Kept() if journal is None else journal.load()
        self._left = list(reversed(kept.entries))
        self._attachments = dict(kept.attachments)
        # True from a restart on until the first exchange that it makes.
        self.resumed = bool(kept.entries)
        self._caught_up = False
        last = next((one for one in self._left if isinstance(one, Answered)), None)
        if last is not None and not set(last.needed) <= set(self._attachments):
            raise StoreError("a run's checkpoint lacks a ciphertext; stop the run and submit again")

    @property
    def durable(self) -> bool:
        """True if another process can take the run up."""
        return self._journal is not None

    @property
    def pending(self) -> bool:
        """True while there is something to tell again."""
        return bool(self._left)

    def attached(self, body: Body) -> Attached:
        """What a head says of the attachment of `body`, which may be gone by now."""
        own = Attached.of(body)
        if not own.length and self._left and isinstance(self._left[-1], Answered):
            return self._left[-1].attached
        return own

    def answers(self, frames: Mapping[str, bytes]) -> Answers:
        """How these frames were answered. Raises RunError if others were sent at this point."""
        entry = self._left.pop()
        if not isinstance(entry, Answered) or entry.asked != digest_of(frames):
            raise RunError(
                "the run cannot be taken up: at this point it sent other messages than this "
                "version would send; submit the plan again"
            )
        kept = self._attachments.get(entry.kept, b"")
        return Answers(dict(entry.statements), entry.refused, entry.vanished, True, kept=kept)

    def moment(self, now: Callable[[], datetime]) -> datetime:
        """The moment that the run decided by here, or decides by now."""
        if self._left:
            entry = self._left.pop()
            if not isinstance(entry, datetime):
                raise RunError("the run cannot be taken up: it did not look at the clock here")
            return entry
        at = now()
        if self._journal is not None:
            self._journal.moment(at)
        return at

    def begin(self) -> None:
        """Something new happens: what was heard before is told."""
        if self._journal is not None and not self._caught_up:
            self._journal.caught_up()
        self._caught_up = True

    def answered(
        self,
        frames: bytes,
        attached: Attached,
        answers: Answers,
        carried: Iterable[bytes],
        measured: Measured,
    ) -> None:
        """Keep an exchange. `frames`: their `digest_of`; `carried`: attachments, the same objects
        as `Answers.keep` gave, that later messages may bring."""
        self.resumed = False
        assert self._journal is not None
        held = list(carried)
        live = {
            digest: one
            for digest, one in self._attachments.items()
            if any(one is each for each in held)
        }
        kept = b""
        if answers.kept:
            kept = hashlib.sha256(answers.kept).digest()
            live[kept] = answers.kept
        self._attachments = live
        entry = Answered(
            frames, attached, answers.statements, answers.refused, answers.vanished, kept,
            tuple(sorted(live)),
        )  # fmt: skip
        self._journal.answered(entry, answers.kept or b"", measured)


def digest_of(frames: Mapping[str, bytes]) -> bytes:
    """SHA-256 of who is sent which frame; of a frame and of its statement the same."""
    told = hashlib.sha256()
    for party, frame in sorted(frames.items()):
        told.update(hashlib.sha256(party.encode()).digest() + frame_digest(frame))
    return told.digest()


def entry_to_bytes(entry: Entry) -> bytes:
    """Canonical CBOR; `entry_from_bytes` reads it back."""
    if isinstance(entry, datetime):
        return canonical({"moment": entry.astimezone(UTC).isoformat()})
    return canonical(
        {
            "asked": entry.asked,
            "attached": [entry.attached.length, entry.attached.sha256],
            "statements": dict(entry.statements),
            "refused": list(entry.refused),
            "vanished": list(entry.vanished),
            "kept": entry.kept,
            "needed": list(entry.needed),
        }
    )


def entry_from_bytes(data: bytes) -> Entry:
    """Raises StoreError if it is no entry of this version."""
    try:
        read: dict[str, Any] = cbor2.loads(data)
        if "moment" in read:
            return datetime.fromisoformat(read["moment"])
        return Answered(
            read["asked"],
            Attached(*read["attached"]),
            read["statements"],
            tuple(read["refused"]),
            tuple(read["vanished"]),
            read["kept"],
            tuple(read["needed"]),
        )
    except (cbor2.CBORDecodeError, ValueError, KeyError, TypeError) as error:
        raise StoreError("a run's checkpoint cannot be read; stop the run") from error
