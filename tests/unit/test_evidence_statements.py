"""What is kept of parties' replies, and whether their ledger heads can be of one ledger."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.evidence_store import keep, lines_of
from coordinator.run_store import RunStore
from privacy.conversation import Conversation
from privacy.errors import EvidenceError
from privacy.evidence_chain import Context, grew, verify_lines
from privacy.evidence_statements import Heard, Line, read_lines, write_lines
from privacy.framing import frame_digest, statement_of
from privacy.hosting.database import open_engine
from privacy.identity import SigningKey, sign_plan
from privacy.ledger_heads import SignedHead
from privacy.manifest import FederationManifest
from privacy.messages import (
    OFFER_BYTES,
    Body,
    ConfirmKeys,
    Decision,
    KeyConfirm,
    KeySeal,
    Preflight,
    SealKeys,
    manifest_hash,
)

COORDINATOR, BANK, SHOP = (SigningKey.generate() for _ in range(3))
MEMBERS = {"bank": BANK.public, "shop": SHOP.public}
PLAN = bytes(32)
CONTEXT = Context("market", "run-1", PLAN, MEMBERS)
DECISION = Decision(
    accepted=False,
    reason="purpose",
    public_size=700,
    offer=bytes(OFFER_BYTES),
    applied=0,
    ledger_head=b"",
    known_heads={},
)
SEAL = KeySeal(sealed={"shop": b"a sealed key"}, encapsulated={}, model=b"")


def confirm(federation: str = "market", keys: Mapping[str, bytes] = MEMBERS) -> KeyConfirm:
    signature = FederationManifest(federation, keys).sign(BANK)
    return KeyConfirm(tag=bytes(32), manifest_signature=signature)


def spoken(*replies: Body, epoch: int = 1) -> list[Line]:
    """What is kept of the bank's replies."""
    return [Line.of(one) for one in heard(*replies, epoch=epoch)]


def heard(*replies: Body, epoch: int = 1) -> list[Heard]:
    """The bank's replies to a preflight, to sealing and to confirming, as far as given."""
    manifest = manifest_hash(MEMBERS)
    asking = Conversation(
        "coordinator", COORDINATOR, "bank", BANK.public, "run-1", PLAN, manifest, epoch
    )
    answering = Conversation(
        "bank", BANK, "coordinator", COORDINATOR.public, "run-1", PLAN, manifest, epoch
    )
    questions: list[Body] = [
        Preflight(
            plan=b"", requester=bytes(32), requester_signature=bytes(64), cohort=dict(MEMBERS)
        ),
        SealKeys(replies={}),
        ConfirmKeys(replies={}, model=b""),
    ]
    found = []
    for question, reply in zip(questions, replies, strict=False):
        asked = asking.say(question, 0, begins=True)
        answering.hear(answering.receive(asked, type(question)), type(question), 0, begins=True)
        frame = answering.say(reply, 0, begins=False)
        received = asking.receive(frame, type(reply))
        asking.hear(received, type(reply), 0, begins=False)
        found.append(Heard(received, frame_digest(asked), ("bank", "shop"), statement_of(frame)))
    return found


def test_a_whole_conversation_verifies_and_reads_back() -> None:
    lines = tuple(spoken(DECISION, SEAL, confirm()))
    assert read_lines(write_lines(lines)) == lines
    signed = verify_lines(lines, CONTEXT)
    assert [one.received is None for one in signed] == [False, True, False]


def test_of_sealed_keys_only_the_digest_is_kept() -> None:
    seal = spoken(DECISION, SEAL)[1]
    assert seal.statement == b""
    assert b"a sealed key" not in write_lines([seal])


def test_a_confirmation_of_another_federation_or_with_other_keys_is_refused() -> None:
    stranger = {**MEMBERS, "shop": SigningKey.generate().public}
    for foreign in (confirm("other"), confirm(keys=stranger)):
        with pytest.raises(EvidenceError, match="another manifest"):
            verify_lines(spoken(DECISION, SEAL, foreign), CONTEXT)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"run": "run-2"}, "run"),
        ({"plan": bytes(31) + b"1"}, "plan"),
        ({"members": {**MEMBERS, "shop": COORDINATOR.public}}, "manifest"),
        ({"members": {**MEMBERS, "bank": SHOP.public}}, "signature"),
        ({"members": {"bank": BANK.public}}, "not members"),
    ],
)
def test_a_statement_of_another_run_plan_or_cohort_is_refused(
    change: dict[str, object], field: str
) -> None:
    with pytest.raises(EvidenceError, match=rf"statement 1 \(decision of bank\).*{field}"):
        verify_lines(spoken(DECISION), replace(CONTEXT, **change))


def test_a_replaced_digest_breaks_the_next_statement() -> None:
    first, seal, last = spoken(DECISION, SEAL, confirm())
    with pytest.raises(EvidenceError, match=r"statement 3 \(key-confirm of bank\).*previous"):
        verify_lines([first, replace(seal, digest=bytes(32)), last], CONTEXT)


def test_a_later_key_agreement_begins_anew_and_an_earlier_one_cannot_follow() -> None:
    one, two = spoken(DECISION), spoken(DECISION, epoch=2)
    assert len(verify_lines([*one, *two], CONTEXT)) == 2
    with pytest.raises(EvidenceError, match="earlier key agreement"):
        verify_lines([*two, *one], CONTEXT)


def head(position: int, digest: str) -> SignedHead:
    return SignedHead("bank", "run-1", 0, position, digest, b"", b"")


@pytest.mark.parametrize(
    ("heads", "sound"),
    [
        ([], True),
        ([head(3, "aa")], True),
        ([head(3, "aa"), head(3, "aa"), head(7, "bb")], True),
        ([head(3, "aa"), head(3, "bb")], False),
        ([head(3, "aa"), head(2, "bb")], False),
    ],
)
def test_a_ledger_that_goes_back_or_forks_shows(heads: list[SignedHead], sound: bool) -> None:
    assert grew(heads) is sound


def test_what_is_heard_again_after_a_restart_is_kept_once(tmp_path: Path) -> None:
    check_kept_once(f"sqlite:///{tmp_path}/c.db")


def test_what_is_heard_again_is_kept_once_on_postgresql(postgresql_url: str) -> None:
    check_kept_once(postgresql_url)


def check_kept_once(url: str) -> None:
    plan = b"""
format = 1
name = "p"
purpose = "marketing"
[task]
kind = "churn"
cutoff = 2025-01-01
[privacy]
epsilon = 1.0
"""
    store, engine = RunStore(url), open_engine(url)
    try:
        store.create_run("run-1", plan, BANK.public, sign_plan(BANK, "run-1", plan))
        said = heard(DECISION, SEAL, confirm())
        for group in (said[:2], said, said):
            with engine.begin() as connection:
                keep(connection, "run-1", group)
        kept = lines_of(engine, "run-1")
        assert kept == tuple(Line.of(one) for one in said)
        assert verify_lines(kept, CONTEXT)
    finally:
        store.close()
        engine.dispose()
