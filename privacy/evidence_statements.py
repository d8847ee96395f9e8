"""What parties signed in a run, as its evidence pack keeps it; `evidence_chain` verifies it.

A statement is a party's frame without its attachment. Beside it stand the digest of the
coordinator's frame that it answers and the participants that both named.

Of messages that carry sealed keys (KEPT_AS_DIGEST) only the digest is kept: the pack then holds no
key, not even an encrypted one, and the chain of a conversation still stands.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from privacy.errors import EvidenceError
from privacy.evidence import STATEMENTS, canonical_json, read_canonical
from privacy.framing import Received
from privacy.identity import PARTY_PATTERN
from privacy.messages import HASH_BYTES, PARTY_MESSAGES, KeySeal, Unmasked

KEPT_AS_DIGEST = (KeySeal.kind, Unmasked.kind)
_KINDS = {one.kind for one in PARTY_MESSAGES}
_FIELDS = {"party", "epoch", "sequence", "type", "asked", "cohort", "statement", "digest", "bytes"}


@dataclass(frozen=True)
class Heard:
    """A party's reply as the coordinator verified it. `asked`: `privacy.framing.frame_digest` of
    the frame that it answers; `cohort`: the participants that both frames name by their manifest;
    `statement`: the reply without its attachment."""

    received: Received
    asked: bytes
    cohort: tuple[str, ...]
    statement: bytes


@dataclass(frozen=True)
class Line:
    """One reply in a pack. `statement` is empty where only `digest` is kept; `bytes` counts the
    whole frame with its attachment."""

    party: str
    epoch: int
    sequence: int
    kind: str
    asked: bytes
    cohort: tuple[str, ...]
    statement: bytes
    digest: bytes
    bytes: int

    @classmethod
    def of(cls, heard: Heard) -> Line:
        """The line that keeps `heard`."""
        envelope = heard.received.envelope
        closed = envelope.type in KEPT_AS_DIGEST
        return cls(
            envelope.sender,
            envelope.epoch,
            envelope.sequence,
            envelope.type,
            heard.asked,
            heard.cohort,
            b"" if closed else heard.statement,
            heard.received.digest,
            len(heard.statement) + envelope.attached_bytes,
        )

    def as_data(self) -> dict[str, Any]:
        """Plain data; `read_lines` reads it back."""
        return {
            "party": self.party,
            "epoch": self.epoch,
            "sequence": self.sequence,
            "type": self.kind,
            "asked": self.asked.hex(),
            "cohort": list(self.cohort),
            "statement": base64.b64encode(self.statement).decode(),
            "digest": self.digest.hex(),
            "bytes": self.bytes,
        }


def write_lines(lines: Sequence[Line]) -> bytes:
    """The part of a pack that holds `lines`."""
    return canonical_json({"lines": [one.as_data() for one in lines]})


def read_lines(data: bytes) -> tuple[Line, ...]:
    """The lines of a part. Raises EvidenceError unless each is in its one form."""
    lines = read_canonical(STATEMENTS, data, {"lines"})["lines"]
    if not isinstance(lines, list):
        raise EvidenceError(STATEMENTS, "it holds no list of statements")
    return tuple(_line(one, number) for number, one in enumerate(lines, 1))


def _line(value: Any, number: int) -> Line:
    where = f"statement {number}"
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise EvidenceError(STATEMENTS, f"{where} does not have the fields of one")
    numbers = [value["epoch"], value["sequence"], value["bytes"]]
    texts = [value["party"], value["type"], value["asked"], value["digest"], value["statement"]]
    sound = all(type(one) is int for one in numbers) and all(isinstance(one, str) for one in texts)
    cohort = value["cohort"]
    sound = sound and isinstance(cohort, list) and all(isinstance(one, str) for one in cohort)
    if not sound:
        raise EvidenceError(STATEMENTS, f"{where} has a field of another type")
    if re.fullmatch(PARTY_PATTERN, value["party"]) is None or value["type"] not in _KINDS:
        raise EvidenceError(STATEMENTS, f"{where} is of no party or of no type")
    try:
        asked, digest = bytes.fromhex(value["asked"]), bytes.fromhex(value["digest"])
        statement = base64.b64decode(value["statement"], validate=True)
    except (ValueError, binascii.Error) as error:
        raise EvidenceError(STATEMENTS, f"{where} cannot be read") from error
    line = Line(
        value["party"],
        value["epoch"],
        value["sequence"],
        value["type"],
        asked,
        tuple(cohort),
        statement,
        digest,
        value["bytes"],
    )
    if len(asked) != HASH_BYTES or len(digest) != HASH_BYTES or line.as_data() != value:
        raise EvidenceError(STATEMENTS, f"{where} is not in its one form")
    return line
