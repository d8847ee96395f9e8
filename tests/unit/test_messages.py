import hashlib

import cbor2
import pytest
from pydantic import BaseModel, ValidationError

from privacy.ciphertexts import MAX_PARTIES
from privacy.conversation import Conversation
from privacy.errors import ProtocolError, SignatureError
from privacy.framing import body_of, read, read_statement, statement_of
from privacy.identity import SigningKey, fingerprint, sign_plan, verify_plan
from privacy.messages import (
    COORDINATOR_MESSAGES,
    HEAD_BYTES,
    NOTHING_OPENED,
    OFFER_BYTES,
    PARTY_MESSAGES,
    Abort,
    Acknowledged,
    Body,
    Decision,
    Envelope,
    EvaluationOpened,
    Header,
    KeyConfirm,
    Publish,
    Receipt,
    SealKeys,
    TrainRound,
    Treatment,
    Update,
    canonical,
    manifest_hash,
)

COORDINATOR, BANK, STRANGER = (SigningKey.generate() for _ in range(3))
PLAN = hashlib.sha256(b"plan").digest()
HEAD = bytes(HEAD_BYTES)
EMPTY = Publish(replies={})
MANIFEST = manifest_hash({"bank": BANK.public})


def talks(run: str = "run-1", epoch: int = 1) -> tuple[Conversation, Conversation]:
    bound = (run, PLAN, MANIFEST, epoch)
    return (
        Conversation("coordinator", COORDINATOR, "bank", BANK.public, *bound),
        Conversation("bank", BANK, "coordinator", COORDINATOR.public, *bound),
    )


def hear(talk: Conversation, frame: bytes, kind: type[Body], number: int = 0) -> Body:
    return talk.hear(talk.receive(frame, kind), kind, number, begins=True)


def train_round(total: bytes = b"", replies: dict[str, bytes] | None = None) -> TrainRound:
    return TrainRound(members=("bank",), replies=replies or {}, total=total, lost=False)


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
    assert hear(theirs, ours.say(train_round(b"sum"), 3, begins=True), TrainRound, 3) == (
        train_round(b"sum")
    )
    update = Update(ciphertexts=b"masked", opened=NOTHING_OPENED, ledger_head=HEAD)
    reply = theirs.say(update, 3, begins=False)
    assert ours.hear(ours.receive(reply, Update), Update, 3, begins=False) == update
    assert ours.transcript == theirs.transcript


def test_any_flipped_byte_is_caught_before_parsing() -> None:
    ours, theirs = talks()
    frame = ours.say(train_round(b"x" * 10), 0, begins=True)
    for position in range(len(frame)):
        broken = bytearray(frame)
        broken[position] ^= 1
        with pytest.raises(ProtocolError):
            theirs.receive(bytes(broken), TrainRound)
    for longer in (frame + b"x", frame[:-1]):
        with pytest.raises(ProtocolError, match="attachment"):
            theirs.receive(longer, TrainRound)
    assert hear(theirs, frame, TrainRound) == train_round(b"x" * 10)


def test_another_attachment_under_the_same_signature_is_refused() -> None:
    ours, theirs = talks()
    frame = ours.say(train_round(b"one sum"), 1, begins=True)
    with pytest.raises(ProtocolError, match="attachment is not the one"):
        theirs.receive(frame.removesuffix(b"one sum") + b"two sum", TrainRound)


def test_a_relayed_statement_says_all_but_the_attachment() -> None:
    _, theirs = talks()
    update = Update(ciphertexts=b"masked", opened=bytes(range(32)), ledger_head=HEAD)
    frame = theirs.say(update, 3, attempt=2, begins=True)
    received = read_statement(statement_of(frame), BANK.public, Update)
    envelope = received.envelope
    assert (envelope.sender, envelope.round, envelope.attempt) == ("bank", 3, 2)
    assert envelope.attached_sha256 == hashlib.sha256(b"masked").digest()
    assert body_of(received, Update) == update.model_copy(update={"ciphertexts": b""})
    with pytest.raises(ProtocolError, match="carries an attachment"):
        read_statement(frame, BANK.public, Update)
    with pytest.raises(SignatureError):
        read_statement(statement_of(frame), STRANGER.public, Update)
    with pytest.raises(ProtocolError, match="another type"):
        read_statement(statement_of(frame), BANK.public, EvaluationOpened)


@pytest.mark.parametrize("frame", [b"", b"x" * 67, bytes(64) + b"\xff\xff\xff\xff" + b"x" * 9])
def test_what_is_too_short_for_a_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="length"):
        read(frame, BANK.public, Publish)
    if len(frame) < 68:
        with pytest.raises(ProtocolError, match="length"):
            statement_of(frame)


def test_a_frame_is_accepted_once_and_in_order() -> None:
    ours, theirs = talks()
    first = ours.say(EMPTY, 0, begins=True)
    hear(theirs, first, Publish)
    theirs.say(Acknowledged(), 0, begins=False)
    with pytest.raises(ProtocolError, match=r"sequence|previous"):
        hear(theirs, first, Publish)


def test_a_dropped_exchange_is_noticed() -> None:
    ours, theirs = talks()
    ours.say(EMPTY, 0, begins=True)
    second = ours.say(EMPTY, 0, begins=True)
    with pytest.raises(ProtocolError, match="sequence"):
        hear(theirs, second, Publish)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"run": "run-2"}, "run"),
        ({"plan": bytes(32)}, "plan"),
        ({"manifest": bytes(32)}, "manifest"),
        ({"peer": "retailer"}, "recipient"),
        ({"me": "someone"}, "sender"),
        ({"epoch": 2}, "epoch"),
    ],
)
def test_a_frame_is_bound_to_run_plan_manifest_epoch_and_pair(
    change: dict[str, object], match: str
) -> None:
    ours, theirs = talks()
    for name, value in change.items():
        setattr(ours, name, value)
    with pytest.raises(ProtocolError, match=match):
        hear(theirs, ours.say(EMPTY, 0, begins=True), Publish)


def test_another_round_or_attempt_is_refused() -> None:
    ours, theirs = talks()
    received = theirs.receive(ours.say(EMPTY, 4, attempt=2, begins=True), Publish)
    with pytest.raises(ProtocolError, match="round"):
        theirs.hear(received, Publish, 5, attempt=2, begins=True)
    with pytest.raises(ProtocolError, match="attempt"):
        theirs.hear(received, Publish, 4, begins=True)
    theirs.hear(received, Publish, 4, attempt=2, begins=True)


def test_a_strangers_signature_is_refused() -> None:
    _, theirs = talks()
    forger = Conversation("coordinator", STRANGER, "bank", BANK.public, "run-1", PLAN, MANIFEST)
    with pytest.raises(SignatureError):
        theirs.receive(forger.say(EMPTY, 0, begins=True), Publish)


def test_another_message_type_is_refused() -> None:
    ours, theirs = talks()
    frame = ours.say(Abort(reason="x"), 0, begins=True)
    with pytest.raises(ProtocolError, match="another type"):
        theirs.receive(frame, Publish)
    with pytest.raises(ProtocolError, match="type publish"):
        theirs.hear(theirs.receive(frame, Publish, Abort), Publish, 0, begins=True)


def test_an_abort_ends_a_run_at_any_point_but_only_its_own() -> None:
    ours, theirs = talks()
    ours.say(EMPTY, 0, begins=True)
    abort = theirs.receive(ours.say(Abort(reason="RunStopped"), 0, begins=True), Abort)
    assert theirs.hear_abort(abort) == "RunStopped"
    elsewhere, _ = talks("run-9")
    with pytest.raises(ProtocolError):
        theirs.hear_abort(theirs.receive(elsewhere.say(Abort(reason="x"), 0, begins=True), Abort))


def test_an_abort_of_an_earlier_epoch_ends_nothing() -> None:
    early, _ = talks(epoch=1)
    late, theirs = talks(epoch=2)
    hear(theirs, late.say(EMPTY, 0, begins=True), Publish)
    for _ in range(3):
        old = early.say(Abort(reason="x"), 0, begins=True)
    with pytest.raises(ProtocolError, match="not for this run"):
        theirs.hear_abort(theirs.receive(old, Abort))


def sealed(head: bytes, attachment: bytes = b"") -> bytes:
    signature = COORDINATOR.sign(b"fedtags message 1\0" + head)
    return signature + len(head).to_bytes(4, "big") + head + attachment


def head_of(frame: bytes) -> dict[str, object]:
    return dict(cbor2.loads(statement_of(frame)[68:]))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xff",
        canonical([1, 2]),
        canonical({"version": 1}),
        cbor2.dumps({"b": 1, "a": 2}),
        b"\x9f" * 500,
    ],
)
def test_signed_nonsense_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(sealed(content), COORDINATOR.public, Publish)


def colliding_keys() -> bytes:
    """A map of integers that Python hashes alike, so that building it takes quadratic time."""
    keys = b"".join(cbor2.dumps(number * (2**61 - 1)) + b"\0" for number in range(1, 8))
    return b"\xa7" + keys


def test_no_tag_is_read() -> None:
    for tag in (*range(400), 1004, 43000, 55799, 2**32):
        frame = sealed(cbor2.dumps({"a": cbor2.CBORTag(tag, b"1")}))
        with pytest.raises(ProtocolError, match="does not hold a message"):
            read(frame, COORDINATOR.public, Publish)


@pytest.mark.parametrize(
    "content",
    [colliding_keys(), b"\xa2\x61a\0\x61a\0", b"\xbf\x61a\0\xff", b"\x81" * 9 + b"\0"],
    ids=["colliding keys", "a key twice", "of unknown length", "too deep"],
)
def test_what_costs_more_than_its_length_is_refused_while_it_is_read(content: bytes) -> None:
    with pytest.raises(ProtocolError, match="does not hold a message") as caught:
        read(sealed(content), COORDINATOR.public, Publish)
    assert isinstance(caught.value.__cause__, cbor2.CBORDecodeError | ValueError)


@pytest.mark.parametrize("reason", ["line\nline", "\x1b[2J", "x" * 65])
def test_a_reason_is_a_word(reason: str) -> None:
    with pytest.raises(ValidationError):
        Abort(reason=reason)
    with pytest.raises(ValidationError):
        decision(reason=reason)


def test_another_protocol_version_is_refused() -> None:
    ours, _ = talks()
    head = head_of(ours.say(EMPTY, 0, begins=True))
    with pytest.raises(ProtocolError, match="version"):
        read(sealed(canonical({**head, "version": 1})), COORDINATOR.public, Publish)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 0},
        {"epoch": True},
        {"epoch": 10**7},
        {"attempt": 0},
        {"attempt": 1.0},
        {"attempt": 101},
        {"round": -1},
        {"round": 2**70},
        {"sequence": -1},
        {"attached_bytes": -1},
    ],
)
def test_a_number_outside_its_range_is_refused(change: dict[str, object]) -> None:
    ours, _ = talks()
    head = head_of(ours.say(EMPTY, 0, begins=True))
    with pytest.raises(ProtocolError):
        read(sealed(canonical({**head, **change})), COORDINATOR.public, Publish)


def test_unknown_or_ill_typed_fields_are_refused() -> None:
    ours, _ = talks()
    right = KeyConfirm(tag=bytes(32), manifest_signature=bytes(64))
    head, body = head_of(ours.say(right, 0, begins=True)), right.model_dump()
    for wrong in ({**body, "seed": 1}, {**body, "tag": "x" * 32}, {**body, "tag": bytes(31)}, {}):
        frame = sealed(canonical({**head, "body": wrong}))
        with pytest.raises(ProtocolError, match="malformed"):
            read(frame, COORDINATOR.public, KeyConfirm)


def test_an_attached_field_cannot_hide_in_the_head() -> None:
    ours, _ = talks()
    head = head_of(ours.say(train_round(b"sum"), 1, begins=True))
    assert isinstance(head["body"], dict)
    frame = sealed(canonical({**head, "body": {**head["body"], "total": b"other"}}), b"sum")
    with pytest.raises(ProtocolError, match="malformed"):
        read(frame, COORDINATOR.public, TrainRound)


def test_what_is_longer_than_its_type_allows_is_not_parsed() -> None:
    ours, theirs = talks()
    with pytest.raises(ProtocolError, match="length"):
        read(sealed(canonical({"body": bytes(Publish.max_head)})), COORDINATOR.public, Publish)
    many = {f"party-{number}": bytes(15_000) for number in range(MAX_PARTIES)}
    fits = SealKeys(replies=many)
    assert hear(theirs, ours.say(fits, 0, begins=True), SealKeys) == fits
    too_long = ours.say(train_round(replies=many), 1, begins=True)
    with pytest.raises(ProtocolError, match="longer than the protocol allows"):
        theirs.receive(too_long, SealKeys, TrainRound)
    with pytest.raises(ProtocolError, match="length"):
        theirs.receive(too_long, Publish)
    long_sum = ours.say(train_round(bytes(3 * 1024 * 1024)), 1, begins=True)
    assert theirs.receive(long_sum, TrainRound)
    with pytest.raises(ProtocolError, match="length"):
        theirs.receive(long_sum, SealKeys)


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
    fields = {"accepted": True, "reason": "", "public_size": 700}
    keys = {"offer": bytes(OFFER_BYTES), "applied": 0, "ledger_head": HEAD, "known_heads": {}}
    return Decision.model_validate({**fields, **keys, **changes})


@pytest.mark.parametrize("length", [0, HEAD_BYTES - 1, HEAD_BYTES + 1])
def test_a_ledger_head_has_one_length(length: int) -> None:
    for make in (
        lambda head: Update(ciphertexts=b"", opened=NOTHING_OPENED, ledger_head=head),
        lambda head: Receipt(evaluation=(), ledger_head=head),
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


def test_no_more_is_read_than_a_cohort_has_members() -> None:
    heads = {f"party-{number}": HEAD for number in range(MAX_PARTIES)}
    for make in (
        lambda many: train_round(replies=many),
        lambda many: decision(known_heads=many),
        lambda many: TrainRound(members=tuple(many), replies={}, total=b"", lost=False),
    ):
        make(heads)
        with pytest.raises(ValidationError, match=f"at most {MAX_PARTIES} items"):
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
