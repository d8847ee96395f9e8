"""One well-formed body of every message type: what fuzzing begins with."""

from __future__ import annotations

import hashlib

from privacy.messages import (
    HEAD_BYTES,
    NOTHING_OPENED,
    OFFER_BYTES,
    SEALED_SEED_BYTES,
    VERSION,
    Abort,
    Acknowledged,
    Body,
    ConfirmKeys,
    Decision,
    Evaluate,
    EvaluationOpened,
    EvaluationUpdate,
    Header,
    KeyConfirm,
    KeySeal,
    OpenEvaluation,
    Preflight,
    Publish,
    Receipt,
    Regroup,
    SealKeys,
    TrainRound,
    Unmask,
    Unmasked,
    Update,
    Weigh,
    WeightUpdate,
)

PLAN = b"""
format = 1
name = "churn-test"
purpose = "marketing"

[task]
kind = "churn"
horizon_days = 180
cutoff = 2024-12-31

[training]
rounds = 2
local_steps = 4

[privacy]
epsilon = 1.0
evaluation_epsilon = 1.0

[publication]
tags = ["churn_risk"]
"""

_REPLIES = {"bank": bytes(100), "retailer": b"\1" * 100}
_MEMBERS = ("bank", "retailer")
_KEYS = {"bank": bytes(32), "retailer": b"\1" * 32}
_HEAD = bytes(HEAD_BYTES)
_PROPOSAL = {
    "plan": PLAN,
    "requester": bytes(32),
    "requester_signature": bytes(64),
    "cohort": _KEYS,
}

COORDINATOR_SAMPLES: tuple[Body, ...] = (
    Preflight(**_PROPOSAL),
    Regroup(**_PROPOSAL, replies=_REPLIES, total=b"total"),
    SealKeys(replies=_REPLIES),
    ConfirmKeys(replies=_REPLIES, model=b"model"),
    Weigh(members=_MEMBERS, replies=_REPLIES),
    TrainRound(members=_MEMBERS, replies=_REPLIES, total=b"total", lost=False),
    Evaluate(members=_MEMBERS, replies=_REPLIES, total=b"total", lost=False),
    Unmask(replies=_REPLIES),
    OpenEvaluation(replies=_REPLIES, total=b"total"),
    Publish(replies=_REPLIES),
    Abort(reason="CohortError"),
)
PARTY_SAMPLES: tuple[Body, ...] = (
    Decision(
        accepted=True,
        reason="",
        public_size=700,
        offer=bytes(OFFER_BYTES),
        applied=0,
        ledger_head=_HEAD,
        known_heads={"retailer": _HEAD},
    ),
    KeySeal(sealed={"retailer": bytes(80)}, encapsulated={"retailer": bytes(1088)}, model=b""),
    KeyConfirm(tag=bytes(32), manifest_signature=bytes(64)),
    WeightUpdate(ciphertexts=b"ciphertexts"),
    Update(ciphertexts=b"ciphertexts", opened=NOTHING_OPENED, ledger_head=_HEAD),
    EvaluationUpdate(ciphertexts=b"ciphertexts", opened=NOTHING_OPENED, ledger_head=_HEAD),
    Unmasked(seed=bytes(SEALED_SEED_BYTES)),
    EvaluationOpened(opened=NOTHING_OPENED),
    Receipt(evaluation=(1, -2, 3), ledger_head=_HEAD),
    Acknowledged(),
)


def header() -> Header:
    """What the coordinator says first in a round."""
    return Header(
        version=VERSION,
        manifest=bytes(32),
        plan=hashlib.sha256(PLAN).digest(),
        run="run-1",
        epoch=1,
        round=1,
        attempt=1,
        sender="coordinator",
        recipient="bank",
        sequence=1,
        previous=bytes(32),
    )
