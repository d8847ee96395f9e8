"""Verify what parties signed in a run, without the coordinator.

Every statement signs the hash of all frames of its pair in its epoch so far, so a chain that is
whole up to its last statement is all that was said until then: none can be left out before the
last, added, moved or exchanged. What was said after it can be left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privacy.errors import EvidenceError, FedtagsError, ProtocolError
from privacy.evidence import STATEMENTS, named_failure
from privacy.evidence_statements import KEPT_AS_DIGEST, Line
from privacy.framing import EMPTY_TRANSCRIPT, Received, extend_transcript, read_statement
from privacy.ledger_heads import SignedHead, check_ahead, read_head
from privacy.manifest import FederationManifest
from privacy.messages import (
    PARTY_MESSAGES,
    Decision,
    EvaluationUpdate,
    KeyConfirm,
    KeySeal,
    Unmasked,
    Update,
    WeightUpdate,
    manifest_hash,
)

COORDINATOR = "coordinator"
# After which messages one that is kept as a digest may stand.
_BEFORE = {
    KeySeal.kind: (Decision.kind,),
    Unmasked.kind: (WeightUpdate.kind, Update.kind, EvaluationUpdate.kind),
}


@dataclass(frozen=True)
class Signed:
    """A verified line. `received` is None where only the digest is kept."""

    line: Line
    received: Received | None


@dataclass(frozen=True)
class Context:
    """What every statement of a run must name. `plan`: the SHA-256 of its bytes; `members`: the
    parties' public keys in this run."""

    federation: str
    run: str
    plan: bytes
    members: Mapping[str, bytes]


def verify_lines(lines: Sequence[Line], context: Context) -> tuple[Signed, ...]:
    """Verify every signature, that each statement is of this run, and that each pair's chain is
    whole. Raises EvidenceError naming the statement's number."""
    transcripts: dict[tuple[str, int], tuple[int, bytes, str]] = {}
    newest: dict[str, int] = {}
    signed = []
    for number, line in enumerate(lines, 1):
        if line.epoch < newest.get(line.party, 0):
            raise _broken(number, line, "an earlier key agreement after a later one")
        newest[line.party] = line.epoch
        pair = (line.party, line.epoch)
        sequence, transcript, before = transcripts.get(pair, (0, EMPTY_TRANSCRIPT, ""))
        if line.sequence != sequence + 1:
            raise _broken(number, line, "a statement before it is missing, or it stands twice")
        transcript = extend_transcript(transcript, line.asked)
        try:
            received = _verified(line, transcript, before, context)
        except FedtagsError as error:
            raise _broken(number, line, str(error)) from error
        digest = line.digest if received is None else received.digest
        if digest != line.digest:
            raise _broken(number, line, "its digest is not that of the statement")
        transcripts[pair] = (line.sequence, extend_transcript(transcript, digest), line.kind)
        signed.append(Signed(line, received))
    return tuple(signed)


def heads_of(signed: Sequence[Signed], context: Context) -> dict[str, tuple[SignedHead, ...]]:
    """Each party's ledger heads in the order of its statements, verified one by one.

    Raises EvidenceError. Whether they can be of one ledger is `grew`'s to say.
    """
    found: dict[str, tuple[SignedHead, ...]] = {}
    for number, one in enumerate(signed, 1):
        frame = getattr(one.received.body, "ledger_head", b"") if one.received else b""
        if not frame:
            continue
        assert one.received is not None
        party, envelope = one.line.party, one.received.envelope
        try:
            head = read_head(frame, party, context.members[party])
        except FedtagsError as error:
            raise _broken(number, one.line, str(error)) from error
        if (head.run, head.round) != (context.run, envelope.round):
            raise _broken(number, one.line, "its ledger head is of another run or round")
        found[party] = (*found.get(party, ()), head)
    return found


def grew(heads: Sequence[SignedHead]) -> bool:
    """Whether one ledger can have had all these heads, one after another."""
    try:
        for before, after in itertools.pairwise(heads):
            check_ahead(after, before, stands=True)
    except ProtocolError:
        return False
    return True


def known_heads(signed: Sequence[Signed], context: Context) -> tuple[tuple[str, SignedHead], ...]:
    """Heads of other members that parties showed with their decisions: (who showed it, the head).

    Each is verified under its owner's key. They name earlier runs, which a reader may ask for.
    """
    found = []
    for number, one in enumerate(signed, 1):
        if one.received is None or not isinstance(one.received.body, Decision):
            continue
        for owner, frame in sorted(one.received.body.known_heads.items()):
            if owner not in context.members:
                raise _broken(number, one.line, "it shows a ledger head of no member")
            try:
                head = read_head(frame, owner, context.members[owner])
            except FedtagsError as error:
                raise _broken(number, one.line, str(error)) from error
            found.append((one.line.party, head))
    return tuple(found)


def _verified(line: Line, transcript: bytes, before: str, context: Context) -> Received | None:
    """The line's statement, verified; None for one that is kept as a digest where one may be."""
    if not set(line.cohort) <= set(context.members) or line.party not in line.cohort:
        raise ProtocolError("its participants are not members of this run")
    if line.kind in KEPT_AS_DIGEST:
        if line.statement or before not in _BEFORE[line.kind]:
            raise ProtocolError("no message that is kept as a digest can stand here")
        return None
    received = read_statement(line.statement, context.members[line.party], *PARTY_MESSAGES)
    envelope = received.envelope
    keys = {name: context.members[name] for name in line.cohort}
    expected = {
        "run": context.run,
        "plan": context.plan,
        "epoch": line.epoch,
        "sequence": line.sequence,
        "sender": line.party,
        "recipient": COORDINATOR,
        "type": line.kind,
        "previous": transcript,
        "manifest": manifest_hash(keys),
    }
    for field, value in expected.items():
        if getattr(envelope, field) != value:
            raise ProtocolError(f"its {field} is not the one of this place")
    if len(line.statement) + envelope.attached_bytes != line.bytes:
        raise ProtocolError("its length is not the one that it names")
    if isinstance(received.body, KeyConfirm):
        manifest = FederationManifest(context.federation, keys)
        manifest.verify_one(line.party, received.body.manifest_signature)
    return received


def _broken(number: int, line: Line, why: str) -> EvidenceError:
    return named_failure(
        STATEMENTS, ProtocolError(f"statement {number} ({line.kind} of {line.party}): {why}")
    )
