"""Every message that may cross a party's border, each field with its declared treatment.

`privacy.framing` says how a message becomes bytes and how they are verified. The envelope binds
version, manifest, plan, run, epoch, round, attempt, sender, recipient, type, sequence and the
transcript hash of what this pair has exchanged in this epoch so far.

    coordinator -> party    round    party -> coordinator
    Preflight               0        Decision          policy and budget said yes or no
    Regroup                 0        Decision          a later epoch of the run: someone comes back
    SealKeys                0        KeySeal           the run key, sealed pairwise by the lead
    ConfirmKeys             0        KeyConfirm        proof of holding the same key and model
    Weigh                   0        WeightUpdate      masked, encrypted, noised size (plan option)
    TrainRound              1 .. R   Update            masked, encrypted model delta
    Evaluate                R + 1    EvaluationUpdate  masked, encrypted, noised counts
    Unmask                  as sum   Unmasked          the self-mask's seed (plan option)
    OpenEvaluation          R + 2    EvaluationOpened  which sum of the noised counts was opened
    Publish                 R + 3    Receipt           tags written; the opened evaluation
    Abort                            Acknowledged
    anything else                    REFUSAL           one constant

What is asked for a sum (Weigh, TrainRound, Evaluate) may come again with a higher attempt, to fewer
participants, after one vanished: the values are the same, the masks are not. A message after the
first relays, as `replies`, what all members answered to the exchange before, each signed and
without its attachment; so members check each other, and the coordinator is no root of trust.

Every answer about data, and the decision, carries the head of its party's ledger
(`privacy.ledger_heads`). A test walks every class here and fails if a field has no treatment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import cbor2
from pydantic import BaseModel, ConfigDict, Field

from privacy.ciphertexts import MAX_PARTIES
from privacy.identity import RUN_ID_PATTERN

VERSION = 3
KIB = 1024
# The largest model of a plan needs some 30 MiB.
MAX_ATTACHMENT_BYTES = 48 * KIB * KIB
HASH_BYTES = 32
# Of one sum; every attempt is an entry in each participant's ledger.
MAX_ATTEMPTS = 100
OFFER_BYTES = 1216
SEALED_SEED_BYTES = 48
# Cells of an evaluation: two labels, at most 200 bins.
MAX_CELLS = 400
# Every ledger head has this one length (`privacy.ledger_heads`), whatever it says.
HEAD_BYTES = 494
# What `opened` says where no sum was opened.
NOTHING_OPENED = bytes(HASH_BYTES)
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
Offer = Annotated[bytes, Field(min_length=OFFER_BYTES, max_length=OFFER_BYTES)]
SealedSeed = Annotated[bytes, Field(min_length=SEALED_SEED_BYTES, max_length=SEALED_SEED_BYTES)]
PublicSize = Annotated[int, Field(ge=1, le=10**10)]
Rounds = Annotated[int, Field(ge=0, le=1000)]
Counter = Annotated[int, Field(ge=1, le=10**6)]
Attempt = Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)]
Reason = Annotated[str, Field(pattern=r"^[A-Za-z_-]{0,64}$")]
Length = Annotated[int, Field(ge=0, le=MAX_ATTACHMENT_BYTES)]
RunId = Annotated[str, Field(pattern=RUN_ID_PATTERN)]
Frames = Annotated[dict[str, bytes], Field(max_length=MAX_PARTIES)]
Names = Annotated[tuple[str, ...], Field(max_length=MAX_PARTIES)]
LedgerHead = Annotated[bytes, Field(min_length=HEAD_BYTES, max_length=HEAD_BYTES)]
LedgerHeads = Annotated[dict[str, LedgerHead], Field(max_length=MAX_PARTIES)]


class Body(BaseModel):
    """Base of all message bodies. `kind` is the type's name on the wire; `attached` the field, of
    raw bytes, that travels as the frame's attachment; `max_head` and `max_attachment` the longest
    that is read at all, in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kind: ClassVar[str]
    attached: ClassVar[str] = ""
    max_head: ClassVar[int] = 64 * KIB
    max_attachment: ClassVar[int] = 0


class Preflight(Body):
    kind = "preflight"
    max_head = 128 * KIB
    plan: bytes = carries(C, "the plan's TOML bytes")
    requester: Key = carries(C, "the requester's public key")
    requester_signature: Signature = carries(C, "over the run and the plan")
    cohort: dict[str, Key] = carries(C, "proposed members and their public keys")


class Regroup(Preflight):
    """A preflight of a later epoch of the same run. To a member that holds the keys of the epoch
    before it brings what that epoch still has to open."""

    kind = "regroup"
    attached = "total"
    max_head = 384 * KIB
    max_attachment = MAX_ATTACHMENT_BYTES
    replies: Frames = carries(D, "the members' signed replies to the exchange before, relayed")
    total: bytes = carries(E, "the encrypted sum that is not opened yet; empty if there is none")


class SealKeys(Body):
    kind = "seal-keys"
    max_head = 1024 * KIB
    replies: Frames = carries(C, "the members' signed decisions, relayed")


class ConfirmKeys(Body):
    kind = "confirm-keys"
    attached = "model"
    max_head = 1024 * KIB
    max_attachment = MAX_ATTACHMENT_BYTES
    replies: Frames = carries(E, "the members' signed key seals, relayed")
    model: bytes = carries(E, "the lead's sealed model, relayed; empty if no member needs it")


class Weigh(Body):
    kind = "weigh"
    max_head = 256 * KIB
    members: Names = carries(C, "the participants of the sum")
    replies: Frames = carries(C, "the members' signed key confirmations, relayed; later: none")


class TrainRound(Body):
    kind = "train-round"
    attached = "total"
    max_head = 256 * KIB
    max_attachment = MAX_ATTACHMENT_BYTES
    members: Names = carries(C, "the participants of the sum")
    replies: Frames = carries(
        D, "the members' signed replies to the exchange before, relayed; in a resend none"
    )
    total: bytes = carries(E, "the encrypted sum that is not opened yet; empty if there is none")
    lost: bool = carries(C, "the sum before can never be opened: its round changes nothing")


class Evaluate(TrainRound):
    kind = "evaluate"


class Unmask(Body):
    kind = "unmask"
    max_head = 256 * KIB
    replies: Frames = carries(D, "the participants' signed updates, without the ciphertexts")


class OpenEvaluation(Body):
    kind = "open-evaluation"
    attached = "total"
    max_head = 256 * KIB
    max_attachment = MAX_ATTACHMENT_BYTES
    replies: Frames = carries(D, "the members' signed replies to the exchange before, relayed")
    total: bytes = carries(E, "the encrypted sum of the noised evaluations")


class Publish(Body):
    kind = "publish"
    max_head = 256 * KIB
    replies: Frames = carries(D, "the members' signed openings of the evaluation, relayed")


class Abort(Body):
    kind = "abort"
    reason: Reason = carries(C, "name of the error that ended the run")


# What a field `ledger_head` tells; `privacy.ledger_heads` has its form.
_HEAD = "signed number of entries and hash of the party's ledger; its spend sealed for itself"
_OPENED = "HMAC under the run key of the sum that was opened before; zeros if none was"


class Decision(Body):
    kind = "decision"
    accepted: bool = carries(D, "policy and remaining budget; a refusal itself is not covered")
    reason: Reason = carries(D, "a public reason code; empty when accepted")
    public_size: PublicSize = carries(
        D, "the party's declared public size, a constant of its settings"
    )
    offer: Offer = carries(C, "ephemeral public keys (X25519 and ML-KEM-768), random")
    applied: Rounds = carries(D, "rounds that this party's model holds already; a counter")
    ledger_head: Annotated[bytes, Field(max_length=HEAD_BYTES)] = carries(
        D, f"{_HEAD}; empty when refused"
    )
    known_heads: LedgerHeads = carries(
        D, "newest ledger heads that this party has seen of the other members; none when refused"
    )


class KeySeal(Body):
    kind = "key-seal"
    attached = "model"
    max_attachment = MAX_ATTACHMENT_BYTES
    sealed: Frames = carries(E, "the run key under each pairwise key; empty unless lead")
    encapsulated: Frames = carries(C, "ML-KEM-768 ciphertexts for the pairs, random")
    model: bytes = carries(
        E, "the lead's model, made of opened sums only, if a member needs it; fixed length"
    )


class KeyConfirm(Body):
    kind = "key-confirm"
    tag: Key = carries(C, "HMAC under the run key of this party's model, random to all others")
    manifest_signature: Signature = carries(C, "over the federation's name and the members' keys")


class WeightUpdate(Body):
    kind = "weight-update"
    attached = "ciphertexts"
    max_attachment = KIB * KIB
    ciphertexts: bytes = carries(E, "noised number of training rows, masked; fixed length")


class Update(Body):
    kind = "update"
    attached = "ciphertexts"
    max_attachment = MAX_ATTACHMENT_BYTES
    ciphertexts: bytes = carries(E, "clamped noised model delta, masked; fixed length")
    opened: Key = carries(C, _OPENED)
    ledger_head: LedgerHead = carries(D, _HEAD)


class EvaluationUpdate(Body):
    kind = "evaluation-update"
    attached = "ciphertexts"
    max_attachment = KIB * KIB
    ciphertexts: bytes = carries(E, "noised counts, masked; fixed length")
    opened: Key = carries(C, _OPENED)
    ledger_head: LedgerHead = carries(D, _HEAD)


class Unmasked(Body):
    kind = "unmasked"
    seed: SealedSeed = carries(E, "seed of this attempt's self-mask, random, for the members")


class EvaluationOpened(Body):
    kind = "evaluation-opened"
    opened: Key = carries(C, _OPENED)


class Receipt(Body):
    kind = "receipt"
    evaluation: Annotated[tuple[int, ...], Field(max_length=MAX_CELLS)] = carries(
        X, "the opened sum of all parties' noised counts"
    )
    ledger_head: LedgerHead = carries(D, _HEAD)


class Acknowledged(Body):
    kind = "acknowledged"


COORDINATOR_MESSAGES: tuple[type[Body], ...] = (
    Preflight,
    Regroup,
    SealKeys,
    ConfirmKeys,
    Weigh,
    TrainRound,
    Evaluate,
    Unmask,
    OpenEvaluation,
    Publish,
    Abort,
)
PARTY_MESSAGES: tuple[type[Body], ...] = (
    Decision,
    KeySeal,
    KeyConfirm,
    WeightUpdate,
    Update,
    EvaluationUpdate,
    Unmasked,
    EvaluationOpened,
    Receipt,
    Acknowledged,
)


class Header(BaseModel):
    """What every signature covers besides the body."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Counter = carries(C, "protocol version")
    manifest: Key = carries(C, "hash of the participants and their keys")
    plan: Key = carries(C, "SHA-256 of the plan")
    run: RunId = carries(C, "run id, chosen by the requester")
    epoch: Counter = carries(C, "which key agreement of the run, from 1")
    round: Rounds = carries(C, "0 before the rounds, R + 1 and more after the last round R")
    attempt: Attempt = carries(C, "grows each time a sum is asked for again; else 1")
    sender: str = carries(C, "name of the sender")
    recipient: str = carries(C, "name of the recipient")
    sequence: Counter = carries(C, "position of the exchange in the epoch, from 1")
    previous: Key = carries(C, "hash of all frames of this pair in this epoch so far")


class Envelope(Header):
    """A header, a message type, its body and the name of its attachment."""

    type: str = carries(C, "message type")
    body: dict[str, Any] = carries(C, "fields of the message; each has its own treatment")
    attached_bytes: Length = carries(C, "length of the attachment; fixed by the plan")
    attached_sha256: Key = carries(C, "hash of the attachment")


def canonical(value: Any) -> bytes:
    """Deterministic CBOR: one value, one encoding."""
    return cbor2.dumps(value, canonical=True)


def manifest_hash(cohort: Mapping[str, bytes]) -> bytes:
    """SHA-256 of the participants: names and public keys, in one canonical form."""
    return hashlib.sha256(b"fedtags manifest 1\0" + canonical(dict(cohort))).digest()
