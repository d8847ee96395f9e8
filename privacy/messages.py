"""Every message that may cross a party's border, each field with its declared treatment.

A frame on the wire is `signature (64 bytes) || canonical CBOR (RFC 8949, 4.2)` of an `Envelope`.
The receiver knows whose frame it expects, so the signature is verified before a byte is parsed.
The envelope binds version, manifest, plan, run, round, attempt, sender, recipient, type, sequence
and the transcript hash of what this pair has exchanged so far.

    coordinator -> party                 party -> coordinator
    Preflight                            Decision      policy and budget said yes or no
    SealKeys                             KeySeal       the run key, sealed pairwise by the lead
    ConfirmKeys                          KeyConfirm    proof of holding the same run key
    TrainRound (once a round)            Update        masked, encrypted model delta
    Evaluate                             EvaluationUpdate  masked, encrypted, noised counts
    Publish                              Receipt       tags written; the opened evaluation
    Abort                                Acknowledged
    anything else                        REFUSAL       one constant

Every answer about data, and the decision, carries the head of its party's ledger; the coordinator
relays all members' heads with its next message (`privacy.ledger_heads`).

A test walks every class here and fails if a field has no treatment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, TypeVar

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from privacy.errors import ProtocolError
from privacy.identity import RUN_ID_PATTERN, SIGNATURE_BYTES, SigningKey, verify
from privacy.packing import MAX_PARTIES

VERSION = 2
# The largest frame of any type: every other type than sums and updates stays far below, and each
# type's own bound holds before a byte is parsed. A plan's largest model needs some 35 MiB.
MAX_FRAME_BYTES = 48 * 1024 * 1024
SMALL_FRAME_BYTES = 2 * 1024 * 1024
_DOMAIN = b"fedtags message 1\0"
HASH_BYTES = 32
# Every ledger head has this one length (`privacy.ledger_heads`), whatever it says.
HEAD_BYTES = 494
# What a party answers to anything it does not accept. Constant, unsigned, without a reason.
REFUSAL = b"fedtags: refused"


class Treatment(StrEnum):
    """Why a field may cross a border."""

    CONSTANT = "constant"  # the same whatever the data are, or fixed before data were touched
    CHARGED = "charged"  # noised, and in the ledger
    ENCRYPTED = "encrypted"  # only other parties can open it, and what opens is noised and charged
    DISCLOSED = "disclosed"  # a documented disclosure of something that is not customer data


def carries(treatment: Treatment, note: str) -> Any:
    """A message field with its treatment; `note` says in words why."""
    return Field(json_schema_extra={"treatment": treatment.value, "note": note})


C, D, E, X = Treatment.CONSTANT, Treatment.DISCLOSED, Treatment.ENCRYPTED, Treatment.CHARGED
Key = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature = Annotated[bytes, Field(min_length=64, max_length=64)]
PublicSize = Annotated[int, Field(ge=1, le=10**10)]
RunId = Annotated[str, Field(pattern=RUN_ID_PATTERN)]
Frames = dict[str, bytes]
LedgerHead = Annotated[bytes, Field(min_length=HEAD_BYTES, max_length=HEAD_BYTES)]
LedgerHeads = Annotated[dict[str, LedgerHead], Field(max_length=MAX_PARTIES)]


class Body(BaseModel):
    """Base of all message bodies. `kind` is the type's name on the wire, `max_bytes` the longest
    frame of it that is read at all."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kind: ClassVar[str]
    max_bytes: ClassVar[int] = SMALL_FRAME_BYTES


class Preflight(Body):
    kind = "preflight"
    plan: bytes = carries(C, "the plan's TOML bytes")
    requester: Key = carries(C, "the requester's public key")
    requester_signature: Signature = carries(C, "over the run and the plan")
    cohort: dict[str, Key] = carries(C, "proposed members and their public keys")


class SealKeys(Body):
    kind = "seal-keys"
    decisions: Frames = carries(C, "the members' signed decisions, relayed")


class ConfirmKeys(Body):
    kind = "confirm-keys"
    seals: Frames = carries(E, "the members' signed key seals, relayed")


class TrainRound(Body):
    kind = "train-round"
    max_bytes = MAX_FRAME_BYTES
    confirmations: Frames = carries(C, "round 1: the members' signed key confirmations")
    total: tuple[bytes, ...] = carries(E, "later rounds: the previous round's encrypted sum")
    heads: LedgerHeads = carries(D, "later rounds: the members' ledger heads of the round before")


class Evaluate(Body):
    kind = "evaluate"
    max_bytes = MAX_FRAME_BYTES
    total: tuple[bytes, ...] = carries(E, "the last round's encrypted sum")
    heads: LedgerHeads = carries(D, "the members' ledger heads of the last round, relayed")


class Publish(Body):
    kind = "publish"
    total: tuple[bytes, ...] = carries(E, "the encrypted sum of the noised evaluations")
    heads: LedgerHeads = carries(D, "the members' ledger heads of the evaluation, relayed")


class Abort(Body):
    kind = "abort"
    reason: str = carries(C, "name of the error that ended the run")


# What a field `ledger_head` tells; `privacy.ledger_heads` has its form.
_HEAD = "signed number of entries and hash of the party's ledger; its spend sealed for itself"


class Decision(Body):
    kind = "decision"
    accepted: bool = carries(D, "policy and remaining budget; a refusal itself is not covered")
    reason: str = carries(D, "a public reason code; empty when accepted")
    public_size: PublicSize = carries(
        D, "the party's declared public size, a constant of its settings"
    )
    exchange_key: Key = carries(C, "ephemeral X25519 public key, random")
    ledger_head: Annotated[bytes, Field(max_length=HEAD_BYTES)] = carries(
        D, f"{_HEAD}; empty when refused"
    )
    known_heads: LedgerHeads = carries(
        D, "newest ledger heads that this party has seen of the other members; none when refused"
    )


class KeySeal(Body):
    kind = "key-seal"
    sealed: Frames = carries(E, "the run key under each pairwise key; empty unless lead")


class KeyConfirm(Body):
    kind = "key-confirm"
    tag: Key = carries(C, "HMAC under the run key, random to anyone without it")


class Update(Body):
    kind = "update"
    max_bytes = MAX_FRAME_BYTES
    ciphertexts: tuple[bytes, ...] = carries(E, "clamped noised model delta, masked; fixed length")
    ledger_head: LedgerHead = carries(D, _HEAD)


class EvaluationUpdate(Body):
    kind = "evaluation-update"
    ciphertexts: tuple[bytes, ...] = carries(E, "noised counts, masked; fixed length")
    ledger_head: LedgerHead = carries(D, _HEAD)


class Receipt(Body):
    kind = "receipt"
    evaluation: tuple[int, ...] = carries(X, "the opened sum of all parties' noised counts")
    ledger_head: LedgerHead = carries(D, _HEAD)


class Acknowledged(Body):
    kind = "acknowledged"


COORDINATOR_MESSAGES: tuple[type[Body], ...] = (
    Preflight,
    SealKeys,
    ConfirmKeys,
    TrainRound,
    Evaluate,
    Publish,
    Abort,
)
PARTY_MESSAGES: tuple[type[Body], ...] = (
    Decision,
    KeySeal,
    KeyConfirm,
    Update,
    EvaluationUpdate,
    Receipt,
    Acknowledged,
)


class Header(BaseModel):
    """What every signature covers besides the body."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: int = carries(C, "protocol version")
    manifest: Key = carries(C, "hash of the cohort and its keys")
    plan: Key = carries(C, "SHA-256 of the plan")
    run: RunId = carries(C, "run id, chosen by the requester")
    round: int = carries(C, "0 before and after the rounds")
    attempt: int = carries(C, "always 1 in this version")
    sender: str = carries(C, "name of the sender")
    recipient: str = carries(C, "name of the recipient")
    sequence: int = carries(C, "position of the exchange in the run, from 1")
    previous: Key = carries(C, "hash of all frames of this pair in this run so far")


class Envelope(Header):
    """A header, a message type and its body."""

    type: str = carries(C, "message type")
    body: dict[str, Any] = carries(C, "fields of the message; each has its own treatment")


BodyT = TypeVar("BodyT", bound=Body)


def canonical(value: Any) -> bytes:
    """Deterministic CBOR: one value, one encoding."""
    return cbor2.dumps(value, canonical=True)


def manifest_hash(cohort: Mapping[str, bytes]) -> bytes:
    """SHA-256 of the cohort: names and public keys, in one canonical form."""
    return hashlib.sha256(b"fedtags manifest 1\0" + canonical(dict(cohort))).digest()


def extend_transcript(transcript: bytes, frame: bytes) -> bytes:
    """The transcript hash after one more frame; a run's transcript starts as 32 zero bytes."""
    return hashlib.sha256(transcript + hashlib.sha256(frame).digest()).digest()


EMPTY_TRANSCRIPT = bytes(HASH_BYTES)


def seal(header: Header, body: Body, key: SigningKey) -> bytes:
    """The signed frame of one message."""
    content = canonical({**header.model_dump(), "type": body.kind, "body": body.model_dump()})
    return key.sign(_DOMAIN + content) + content


def read(frame: bytes, sender_public: bytes, max_bytes: int = SMALL_FRAME_BYTES) -> Envelope:
    """Verify, then parse. Raises SignatureError or ProtocolError; nothing is parsed unverified.

    `max_bytes`: the bound of the types that may come here (`Body.max_bytes`). Parsing takes many
    times a hostile frame's length in memory, so the bound comes first.
    """
    if not SIGNATURE_BYTES < len(frame) <= max_bytes:
        raise ProtocolError("a frame's length is outside the protocol's bounds")
    content = frame[SIGNATURE_BYTES:]
    verify(sender_public, frame[:SIGNATURE_BYTES], _DOMAIN + content)
    try:
        decoded = cbor2.loads(content)
        if canonical(decoded) != content:
            raise ProtocolError("a frame is not in canonical form")
        envelope = Envelope.model_validate(decoded)
    except (ValidationError, cbor2.CBORDecodeError, cbor2.CBOREncodeError, RecursionError) as error:
        raise ProtocolError("a frame does not hold a message of this protocol") from error
    if envelope.version != VERSION:
        raise ProtocolError(f"this software speaks protocol version {VERSION} only")
    return envelope


def body_of(envelope: Envelope, expected: type[BodyT]) -> BodyT:
    """The body as `expected`. Raises ProtocolError if it is of another type or malformed."""
    if envelope.type != expected.kind:
        raise ProtocolError(f"a message of type {expected.kind} was expected here")
    try:
        return expected.model_validate(_tuples(envelope.body))
    except ValidationError as error:
        raise ProtocolError(f"the body of a {expected.kind} message is malformed") from error


def _tuples(body: Mapping[str, Any]) -> dict[str, Any]:
    """CBOR arrays come back as lists; strict models want tuples."""
    return {name: tuple(one) if isinstance(one, list) else one for name, one in body.items()}
