import hashlib

import cbor2
import pytest
from pydantic import BaseModel, ValidationError

from privacy.conversation import Conversation
from privacy.errors import ProtocolError, SignatureError
from privacy.identity import SigningKey, fingerprint, sign_plan, verify_plan
from privacy.messages import (
    COORDINATOR_MESSAGES,
    HEAD_BYTES,
    PARTY_MESSAGES,
    Abort,
    Acknowledged,
    Decision,
    Envelope,
    Evaluate,
    Header,
    KeyConfirm,
    Publish,
    Receipt,
    TrainRound,
    Treatment,
    Update,
    body_of,
    canonical,
    manifest_hash,
    read,
)
from privacy.packing import MAX_PARTIES

COORDINATOR, BANK, STRANGER = (SigningKey.generate() for _ in range(3))
PLAN = hashlib.sha256(b"plan").digest()
HEAD = bytes(HEAD_BYTES)
EMPTY = Publish(total=(), heads={})
MANIFEST = manifest_hash({"bank": BANK.public})


def talks(run: str = "run-1") -> tuple[Conversation, Conversation]:
    return (
        Conversation("coordinator", COORDINATOR, "bank", BANK.public, run, PLAN, MANIFEST),
        Conversation("bank", BANK, "coordinator", COORDINATOR.public, run, PLAN, MANIFEST),
    )


@pytest.mark.parametrize("message", [Header, Envelope, *COORDINATOR_MESSAGES, *PARTY_MESSAGES])
def test_every_field_that_crosses_a_border_has_a_declared_treatment(
    message: type[BaseModel],
) -> None:
    for name, field in message.model_fields.items():
        declared = field.json_schema_extra
        assert isinstance(declared, dict), f"{message.__name__}.{name} has no treatment"
        assert Treatment(declared["treatment"])
        assert declared["note"]


def test_only_noised_and_charged_values_reach_the_coordinator_in_the_clear() -> None:
    charged = {
        f"{message.__name__}.{name}"
        for message in PARTY_MESSAGES
        for name, field in message.model_fields.items()
        if isinstance(field.json_schema_extra, dict)
        and field.json_schema_extra["treatment"] == Treatment.CHARGED
    }
    assert charged == {"Receipt.evaluation"}


def test_an_exchange_goes_both_ways() -> None:
    ours, theirs = talks()
    body = Publish(total=(b"a", b"b"), heads={})
    assert theirs.hear(ours.say(body, 3, begins=True), Publish, 3, begins=True) == body
    receipt = Receipt(evaluation=(1, -2), ledger_head=HEAD)
    reply = theirs.say(receipt, 3, begins=False)
    assert ours.hear(reply, Receipt, 3, begins=False) == receipt
    assert ours.transcript == theirs.transcript


def test_any_flipped_byte_is_caught_before_parsing() -> None:
    ours, theirs = talks()
    frame = ours.say(Publish(total=(b"x" * 10,), heads={}), 0, begins=True)
    for position in range(0, len(frame), 7):
        broken = bytearray(frame)
        broken[position] ^= 1
        with pytest.raises(SignatureError):
            theirs.hear(bytes(broken), Publish, 0, begins=True)
    assert theirs.hear(frame, Publish, 0, begins=True).total == (b"x" * 10,)


def test_a_frame_is_accepted_once_and_in_order() -> None:
    ours, theirs = talks()
    first = ours.say(EMPTY, 0, begins=True)
    theirs.hear(first, Publish, 0, begins=True)
    theirs.say(Acknowledged(), 0, begins=False)
    with pytest.raises(ProtocolError, match=r"sequence|previous"):
        theirs.hear(first, Publish, 0, begins=True)


def test_a_dropped_exchange_is_noticed() -> None:
    ours, theirs = talks()
    ours.say(EMPTY, 0, begins=True)
    second = ours.say(EMPTY, 0, begins=True)
    with pytest.raises(ProtocolError, match="sequence"):
        theirs.hear(second, Publish, 0, begins=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"run": "run-2"}, "run"),
        ({"plan": bytes(32)}, "plan"),
        ({"manifest": bytes(32)}, "manifest"),
        ({"peer": "retailer"}, "recipient"),
        ({"me": "someone"}, "sender"),
    ],
)
def test_a_frame_is_bound_to_run_plan_manifest_and_pair(
    change: dict[str, object], match: str
) -> None:
    ours, theirs = talks()
    for name, value in change.items():
        setattr(ours, name, value)
    with pytest.raises(ProtocolError, match=match):
        theirs.hear(ours.say(EMPTY, 0, begins=True), Publish, 0, begins=True)


def test_another_round_is_refused() -> None:
    ours, theirs = talks()
    with pytest.raises(ProtocolError, match="round"):
        theirs.hear(ours.say(EMPTY, 4, begins=True), Publish, 5, begins=True)


def test_a_strangers_signature_is_refused() -> None:
    _, theirs = talks()
    forger = Conversation("coordinator", STRANGER, "bank", BANK.public, "run-1", PLAN, MANIFEST)
    with pytest.raises(SignatureError):
        theirs.hear(forger.say(EMPTY, 0, begins=True), Publish, 0, begins=True)


def test_another_message_type_is_refused() -> None:
    ours, theirs = talks()
    with pytest.raises(ProtocolError, match="type publish"):
        theirs.hear(ours.say(Abort(reason="x"), 0, begins=True), Publish, 0, begins=True)


def test_an_abort_ends_a_run_at_any_point_but_only_its_own() -> None:
    ours, theirs = talks()
    ours.say(EMPTY, 0, begins=True)
    abort = ours.say(Abort(reason="RunStopped"), 0, begins=True)
    assert theirs.hear_abort(abort) == "RunStopped"
    elsewhere, _ = talks("run-9")
    with pytest.raises(ProtocolError):
        theirs.hear_abort(elsewhere.say(Abort(reason="x"), 0, begins=True))


def sealed(content: bytes) -> bytes:
    return COORDINATOR.sign(b"fedtags message 1\0" + content) + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xff",
        canonical([1, 2]),
        canonical({"version": 1}),
        cbor2.dumps({"b": 1, "a": 2}),
        b"\x9f" * 500,
    ],
)
def test_signed_nonsense_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(sealed(content), COORDINATOR.public)


def test_another_protocol_version_is_refused() -> None:
    ours, _ = talks()
    frame = ours.say(EMPTY, 0, begins=True)
    content = cbor2.loads(frame[64:])
    with pytest.raises(ProtocolError, match="version"):
        read(sealed(canonical({**content, "version": 1})), COORDINATOR.public)


def test_unknown_or_ill_typed_fields_are_refused() -> None:
    ours, _ = talks()
    content = cbor2.loads(ours.say(KeyConfirm(tag=bytes(32)), 0, begins=True)[64:])
    for body in ({"tag": bytes(32), "seed": 1}, {"tag": "x" * 32}, {"tag": bytes(31)}, {}):
        envelope = read(sealed(canonical({**content, "body": body})), COORDINATOR.public)
        with pytest.raises(ProtocolError, match="malformed"):
            body_of(envelope, KeyConfirm)


def test_a_frame_longer_than_its_type_allows_is_not_parsed() -> None:
    long = sealed(canonical({"body": bytes(3 * 1024 * 1024)}))
    with pytest.raises(ProtocolError, match="length"):
        read(long, COORDINATOR.public)
    ours, theirs = talks()
    long_body = TrainRound(confirmations={}, total=(bytes(3 * 1024 * 1024),), heads={})
    fits = ours.say(long_body, 1, begins=True)
    assert theirs.hear(fits, TrainRound, 1, begins=True).total


@pytest.mark.parametrize("run", ["../federation", "/etc/passwd", "", "a" * 64, "A", "a\n", "a b"])
def test_a_run_id_is_no_path(run: str) -> None:
    with pytest.raises(ProtocolError, match="run id"):
        sign_plan(BANK, run, b"plan")
    with pytest.raises(ValidationError):
        talks(run)[0].say(EMPTY, 0, begins=True)


@pytest.mark.parametrize("size", [0, -1900, 10**12])
def test_a_public_size_outside_its_range_is_malformed(size: int) -> None:
    with pytest.raises(ValidationError):
        decision(public_size=size)


def decision(**changes: object) -> Decision:
    fields = {"accepted": True, "reason": "", "public_size": 700, "exchange_key": bytes(32)}
    return Decision.model_validate({**fields, "ledger_head": HEAD, "known_heads": {}, **changes})


@pytest.mark.parametrize("length", [0, HEAD_BYTES - 1, HEAD_BYTES + 1])
def test_a_ledger_head_has_one_length(length: int) -> None:
    for make in (
        lambda head: Update(ciphertexts=(), ledger_head=head),
        lambda head: Receipt(evaluation=(), ledger_head=head),
        lambda head: Evaluate(total=(), heads={"bank": head}),
        lambda head: Publish(total=(), heads={"bank": head}),
        lambda head: decision(known_heads={"bank": head}),
    ):
        make(HEAD)
        with pytest.raises(ValidationError, match="bytes"):
            make(bytes(length))


def test_a_refusal_tells_nothing_of_the_ledger() -> None:
    refused = decision(accepted=False, reason="purpose", ledger_head=b"")
    assert (refused.ledger_head, refused.known_heads) == (b"", {})
    with pytest.raises(ValidationError, match="bytes"):
        decision(ledger_head=bytes(HEAD_BYTES + 1))


def test_no_more_heads_are_read_than_a_cohort_has_members() -> None:
    heads = {f"party-{number}": HEAD for number in range(MAX_PARTIES)}
    TrainRound(confirmations={}, total=(), heads=heads)
    decision(known_heads=heads)
    for make in (
        lambda many: TrainRound(confirmations={}, total=(), heads=many),
        lambda many: decision(known_heads=many),
    ):
        with pytest.raises(ValidationError, match="at most 15 items"):
            make({**heads, "one-more": HEAD})


def test_a_plan_signature_is_for_one_run_of_one_plan() -> None:
    signature = sign_plan(BANK, "run-1", b"plan")
    verify_plan(BANK.public, signature, "run-1", b"plan")
    for run, plan in (("run-2", b"plan"), ("run-1", b"plan2")):
        with pytest.raises(SignatureError):
            verify_plan(BANK.public, signature, run, plan)


def test_fingerprints_differ_and_read_well() -> None:
    shown = {fingerprint(key.public) for key in (COORDINATOR, BANK, STRANGER)}
    assert len(shown) == 3
    assert all(len(one) == 24 and one.count("-") == 4 for one in shown)
