"""A coordinator that lies to one party, alone or with a key holder's help: caught, keys erased."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from privacy import sum_mac
from privacy.ciphertexts import MODULUS
from privacy.encryption import Adder
from privacy.errors import ProtocolError
from privacy.masking import SumLabel
from privacy.messages import (
    REFUSAL,
    Abort,
    Body,
    ConfirmKeys,
    Evaluate,
    KeySeal,
    OpenEvaluation,
    Publish,
    SealKeys,
    TrainRound,
    Unmask,
)
from privacy.packing import DATA_SLOTS
from privacy.shared_keys import SharedKeys

from .conftest import FOUR, NOISED, ROUNDS, SINGLE, Faulty
from .scripted import Script, added, parts_of

ALL = ("bank", "ecommerce", "grocer", "retailer")
LABEL = SumLabel(1, 1, "update", ALL)
Replies = dict[str, bytes]


def keys_of(script: Script, party: str = "bank") -> SharedKeys:
    keys = script.session(party).stage.keys
    assert keys is not None
    return keys


def erased(keys: SharedKeys) -> bool:
    """Whether no key is left, and no process that holds one."""
    with pytest.raises(ProtocolError, match="erased"):
        keys.lost_tag(LABEL)
    with pytest.raises(ProtocolError, match="erased"):
        keys._run_key.to_bytes()
    return not keys._pairs


def check_ended(script: Script, keys: SharedKeys, party: str = "bank") -> None:
    """The run is over at this party, as failed, and its keys are gone."""
    assert not script.active(party)
    assert erased(keys)
    assert script.local.service(party).node.ledger.state().runs["run-1"].state == "failed"


# What members said --------------------------------------------------------------------------------


def missing(replies: Replies, earlier: Replies) -> Replies:
    return {party: one for party, one in replies.items() if party != "grocer"}


def none(replies: Replies, earlier: Replies) -> Replies:
    return {}


def altered(replies: Replies, earlier: Replies) -> Replies:
    one = bytearray(replies["grocer"])
    one[len(one) // 2] ^= 1
    return replies | {"grocer": bytes(one)}


def of_another(replies: Replies, earlier: Replies) -> Replies:
    return replies | {"grocer": replies["retailer"]}


def replayed(replies: Replies, earlier: Replies) -> Replies:
    return replies | {"grocer": earlier["grocer"]}


def own_replayed(replies: Replies, earlier: Replies) -> Replies:
    return replies | {"bank": earlier["bank"]}


def with_bytes_after_it(replies: Replies, earlier: Replies) -> Replies:
    return replies | {"grocer": replies["grocer"] + b"\0"}


LIES = [missing, none, altered, of_another, replayed, own_replayed, with_bytes_after_it]
Place = Callable[[Script], tuple[Replies, Body, int]]


def after_round_one(script: Script) -> tuple[Replies, Body, int]:
    """What was said before, what comes next, and its round."""
    script.start(ALL)
    earlier = dict(script.replies)
    script.train(1)
    return earlier, script.training(), 2


def after_a_resend(script: Script) -> tuple[Replies, Body, int]:
    """The replies of the same round's first attempt are replayed."""
    script.start(ALL)
    script.train(1)
    earlier = dict(script.replies)
    script.train(1, 2, again=True)
    return earlier, script.training(), 2


def after_the_keys(script: Script) -> tuple[Replies, Body, int]:
    """The replies of the epoch before are replayed."""
    script.start(ALL)
    earlier = dict(script.replies)
    script.regroup(ALL)
    script.agree()
    return earlier, script.training(), 1


def before_the_keys(script: Script) -> tuple[Replies, Body, int]:
    script.preflight(ALL)
    earlier = dict(script.replies)
    script.ask(SealKeys(replies=dict(script.replies)))
    return earlier, ConfirmKeys(replies=dict(script.replies), model=b""), 0


def after_the_evaluation(script: Script) -> tuple[Replies, Body, int]:
    script.start(ALL)
    for number in range(1, ROUNDS + 1):
        script.train(number)
    earlier = dict(script.replies)
    script.evaluate(ROUNDS + 1)
    return earlier, OpenEvaluation(replies=dict(script.replies), total=script.total), ROUNDS + 2


def before_publication(script: Script) -> tuple[Replies, Body, int]:
    earlier, body, number = after_the_evaluation(script)
    earlier = dict(script.replies)
    script.ask(body, number)
    return earlier, Publish(replies=dict(script.replies)), ROUNDS + 3


LIES_AND_PLACES = [
    *((lie, after_round_one) for lie in LIES),
    *((lie, after_a_resend) for lie in (replayed, own_replayed)),
    (replayed, after_the_keys),
    (missing, before_the_keys),
    (replayed, after_the_evaluation),
    (altered, before_publication),
]


@pytest.mark.parametrize(("lie", "place"), LIES_AND_PLACES)
def test_a_reply_that_a_member_did_not_give_here_ends_the_run_with_its_keys(
    four: Faulty,
    caplog: pytest.LogCaptureFixture,
    lie: Callable[[Replies, Replies], Replies],
    place: Place,
) -> None:
    script = Script(four, FOUR)
    earlier, body, number = place(script)
    stage = script.session("bank").stage
    told = lie(body.replies, earlier)  # type: ignore[attr-defined]
    assert script.send("bank", body.model_copy(update={"replies": told}), number) == REFUSAL
    assert "the run ended here (IntegrityError)" in caplog.text
    assert not script.active("bank")
    assert stage.keys is None or erased(stage.keys)
    state = four.run_of("bank").state
    assert state == ("failed" if number > 1 else "refunded")


def test_a_coordinator_that_tells_two_sets_is_caught_before_anything_opens(
    four: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    keys = keys_of(script)
    ours, theirs = ("bank", "ecommerce", "grocer"), ("bank", "ecommerce", "retailer")
    script.replies, script.bodies = {}, {}
    for party, told in (
        ("bank", ours),
        ("ecommerce", ours),
        ("grocer", ours),
        ("retailer", theirs),
    ):
        script.narrow(told)
        assert script.send(party, script.training(again=True), 1, 2) != REFUSAL
    script.narrow(ours)
    del script.replies["grocer"], script.bodies["grocer"]
    script.replies["grocer"] = script.replies.pop("retailer")
    script.total = added(script.bodies)
    assert script.send("bank", script.training(), 2) == REFUSAL
    assert "the run ended here (IntegrityError)" in caplog.text
    check_ended(script, keys)


# Sums ---------------------------------------------------------------------------------------------


def sum_of(*parts: bytes) -> bytes:
    with Adder() as adder:
        return adder.add(list(parts))


def one_dropped(now: dict[str, bytes], before: dict[str, bytes]) -> bytes:
    return sum_of(*(part for party, part in now.items() if party != "grocer"))


def one_doubled(now: dict[str, bytes], before: dict[str, bytes]) -> bytes:
    return sum_of(*now.values(), now["grocer"])


def one_of_the_round_before(now: dict[str, bytes], before: dict[str, bytes]) -> bytes:
    return sum_of(*(now | {"grocer": before["grocer"]}).values())


def the_sum_of_the_round_before(now: dict[str, bytes], before: dict[str, bytes]) -> bytes:
    return sum_of(*before.values())


def one_alone(now: dict[str, bytes], before: dict[str, bytes]) -> bytes:
    return sum_of(now["grocer"])


# What test_lying_coordinator does not tell every party already: uploads of another round, one
# alone, and self-masks.
@pytest.mark.parametrize(
    ("altered_sum", "options"),
    [
        *((one, b"") for one in (one_of_the_round_before, the_sum_of_the_round_before, one_alone)),
        *((one, SINGLE) for one in (one_dropped, one_doubled)),
    ],
)
def test_an_altered_sum_ends_the_run_with_its_keys(
    four: Faulty,
    caplog: pytest.LogCaptureFixture,
    altered_sum: Callable[[dict[str, bytes], dict[str, bytes]], bytes],
    options: bytes,
) -> None:
    script = Script(four, FOUR + options)
    script.start(ALL)
    script.train(1)
    before = parts_of(script.bodies)
    if options:
        script.unmask(1)
    script.train(2)
    now = parts_of(script.bodies)
    if options:
        script.unmask(2)
    script.total = altered_sum(now, before)
    keys = keys_of(script)
    model = script.session("bank").learned.parameters.copy()
    session = script.session("bank")
    assert script.send("bank", script.training(), 3) == REFUSAL
    assert "(IntegrityError): a sum is not that of exactly its participants' uploads" in caplog.text
    np.testing.assert_array_equal(session.learned.parameters, model)
    check_ended(script, keys)


@pytest.mark.parametrize("total", [b"\0" * 65659, b"x"])
def test_a_sum_of_other_bytes_ends_the_run(four: Faulty, total: bytes) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    keys = keys_of(script)
    script.total = total
    assert script.send("bank", script.training(), 2) == REFUSAL
    check_ended(script, keys)


def forged(script: Script, colluder: str, label: SumLabel, total_of: dict[str, bytes]) -> bytes:
    """Another sum with a valid MAC, which only a key holder can make: one field more than true."""
    keys = keys_of(script, colluder)
    more = np.zeros((1, DATA_SLOTS), dtype=np.int64)
    none = more.copy()
    more[0, 0] = 1
    mac_key = keys._key("mac")
    tags = sum_mac.tags(mac_key, label, colluder, more) - sum_mac.tags(
        mac_key, label, colluder, none
    )
    row = np.concatenate([more, tags[:, np.newaxis] % MODULUS], axis=1)
    return sum_of(*total_of.values(), keys._run_key.encrypt(row))


def test_a_round_that_is_asked_again_does_not_hide_that_there_were_two_sums(
    four: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    """The coordinator and a key holder tell the bank another sum than the rest."""
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    honest = script.training()
    other = forged(script, "retailer", LABEL, parts_of(script.bodies))
    script.bodies, script.replies = {}, {}
    for party in ALL:
        total = other if party == "bank" else honest.total
        assert script.send(party, honest.model_copy(update={"total": total}), 2) != REFUSAL
    script.total = added(script.bodies)
    script.train(2, 2, again=True)
    keys = {party: keys_of(script, party) for party in ALL}
    for party in ALL:
        assert script.send(party, script.training(), 3) == REFUSAL
        check_ended(script, keys[party], party)
    told = "(IntegrityError): the members did not all open the same sum"
    assert caplog.text.count(told) == len(ALL)


def test_who_vanishes_after_the_evaluation_was_opened_holds_nobody_up(four: Faulty) -> None:
    script = Script(four, FOUR)
    _, body, number = after_the_evaluation(script)
    script.ask(body, number)
    script.narrow(ALL[:3])
    replies = {party: script.replies[party] for party in ALL[:3]}
    for party in ALL[:3]:
        assert script.send(party, Publish(replies=replies), number + 1) != REFUSAL
        assert four.report(party)["participants"] == list(ALL[:3])
        assert four.report(party)["parties"] == list(ALL)


def test_two_evaluations_of_one_party_are_never_both_told(four: Faulty) -> None:
    """One attempt of all, one without the bank: told both, the coordinator would have the bank's
    counts. Each party opens one of them, and tells it once more than half have opened the same."""
    script = Script(four, FOUR)
    _, body, number = after_the_evaluation(script)
    everyone, first = script.present, (body, dict(script.replies), script.total)
    script.narrow(ALL[1:])
    again = Evaluate(members=ALL[1:], replies={}, total=b"", lost=False)
    script.sum(again, ROUNDS + 1, 2)
    second = OpenEvaluation(replies=dict(script.replies), total=script.total)
    script.replies = {}
    for party in ALL[1:]:
        assert script.send(party, second, number) != REFUSAL
    script.narrow(everyone)
    assert script.send("bank", first[0], number) != REFUSAL
    script.narrow(("bank",))
    alone = Publish(replies={"bank": script.replies["bank"]})
    assert script.send("bank", alone, number + 1) == REFUSAL
    script.narrow(ALL)
    assert script.send("bank", Publish(replies=dict(script.replies)), number + 1) == REFUSAL
    assert not (four.federation.homes["bank"] / "reports" / "run-1.json").exists()


# Self-masks ---------------------------------------------------------------------------------------


def test_a_self_mask_is_revealed_for_one_attempt_of_a_round(four: Faulty) -> None:
    script = Script(four, FOUR + SINGLE)
    script.start(ALL)
    assert script.send("bank", Unmask(replies=dict(script.replies)), 1) == REFUSAL
    script.train(1)
    first = dict(script.replies)
    assert script.send("bank", Unmask(replies=first), 1, 2) == REFUSAL  # another attempt
    assert script.send("bank", script.training(), 2) == REFUSAL  # not opened before it is unmasked
    assert script.active("bank")
    script.train(1, 2, again=True)
    script.unmask(1, 2)
    for attempt in (1, 2):
        assert script.send("bank", Unmask(replies=first), 1, attempt) == REFUSAL
    assert script.send("bank", script.training(again=True), 1, 3) == REFUSAL
    script.train(2)
    assert script.session("bank").learned.applied == 1


@pytest.mark.parametrize("lie", [missing, replayed])
def test_no_self_mask_is_revealed_against_replies_of_another_set(
    four: Faulty, caplog: pytest.LogCaptureFixture, lie: Callable[[Replies, Replies], Replies]
) -> None:
    script = Script(four, FOUR + SINGLE)
    script.start(ALL)
    script.train(1)
    earlier = dict(script.replies)
    script.train(1, 2, again=True)
    keys = keys_of(script)
    assert script.send("bank", Unmask(replies=lie(dict(script.replies), earlier)), 1, 2) == REFUSAL
    assert "the run ended here (IntegrityError)" in caplog.text
    check_ended(script, keys)


def test_after_a_self_mask_was_revealed_a_later_epoch_asks_for_the_next_round(
    four: Faulty,
) -> None:
    """The values of the round are protected no second time: whoever has not opened it takes the
    others' model, and if nobody has, it is lost, and stays charged."""
    script = Script(four, FOUR + SINGLE)
    script.start(ALL)
    script.train(1)
    script.unmask(1)
    start = script.session("bank").learned.parameters.copy()
    script.total, script.replies = b"", {}
    script.regroup(ALL[:3])
    script.agree()
    assert script.session("bank").learned.applied == 0
    assert script.send("bank", script.training(), 1, 2) == REFUSAL
    assert script.send("bank", script.training(), 2) == REFUSAL
    script.sum(script.training(lost=True).model_copy(update={"replies": script.replies}), 2)
    session = script.session("bank")
    assert session.learned.applied == 1
    np.testing.assert_array_equal(session.learned.parameters, start)
    assert [one.round for one in four.run_of("bank").intents] == [1, 2]


def test_a_lost_round_changes_nothing_and_all_must_have_lost_it(
    four: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(four, FOUR + SINGLE)
    script.start(ALL)
    script.train(1)
    script.unmask(1)
    start = script.session("bank").learned.parameters.copy()
    script.narrow(ALL[:3])
    lost = script.training(lost=True).model_copy(update={"total": b""})
    for party in ALL[:3]:
        assert script.send(party, lost, 2) != REFUSAL
        np.testing.assert_array_equal(script.session(party).learned.parameters, start)
    script.replies.pop("retailer", None)
    script.bodies.pop("retailer", None)
    script.total = added(script.bodies)
    script.unmask(2)
    script.train(3)
    script.unmask(3)
    script.evaluate(4)
    script.unmask(4)
    script.finish(ROUNDS)
    assert len(four.models(*ALL[:3])) == 1


def test_nobody_is_told_that_a_sum_is_lost_which_others_opened(
    four: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(four, FOUR + SINGLE)
    script.start(ALL)
    script.train(1)
    script.unmask(1)
    honest = script.training()
    lie = honest.model_copy(update={"total": b"", "lost": True})
    for party in ALL:
        assert script.send(party, lie if party == "bank" else honest, 2) != REFUSAL
    keys = keys_of(script)
    assert script.send("bank", Unmask(replies=dict(script.replies)), 2) == REFUSAL
    assert "the members did not all open the same sum" in caplog.text
    check_ended(script, keys)


def test_without_self_masks_no_round_may_be_lost(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    lie = script.training(lost=True).model_copy(update={"total": b""})
    assert script.send("bank", lie, 2) == REFUSAL
    assert script.active("bank")


def test_an_unmasked_evaluation_is_never_asked_for_again(four: Faulty) -> None:
    script = Script(four, FOUR + SINGLE)
    script.start(ALL)
    for number in range(1, ROUNDS + 1):
        script.train(number)
        script.unmask(number)
    script.evaluate(ROUNDS + 1)
    script.unmask(ROUNDS + 1)
    script.total, script.replies = b"", {}
    script.regroup(ALL)
    script.agree()
    assert script.send("bank", script.evaluation(), ROUNDS + 1, 2) == REFUSAL


# Models and manifests -----------------------------------------------------------------------------


def behind(script: Script) -> None:
    """The bank has restarted after round 1, and needs the others' model."""
    script.start(ALL)
    script.train(1)
    four = script.local
    four.services.pop("bank").close()  # type: ignore[attr-defined]
    script.regroup(ALL)
    script.ask(SealKeys(replies=dict(script.replies)))


@pytest.mark.parametrize("change", [b"", b"\x01"])
def test_a_model_that_is_not_the_leads_is_not_taken_over(
    four: Faulty, caplog: pytest.LogCaptureFixture, change: bytes
) -> None:
    script = Script(four, FOUR)
    behind(script)
    (model,) = (
        one.model for one in script.bodies.values() if isinstance(one, KeySeal) and one.model
    )
    told = model[:-1] + change if change else b""
    body = ConfirmKeys(replies=dict(script.replies), model=told)
    assert script.send("bank", body) == REFUSAL
    assert "(IntegrityError): the model is not the one that ecommerce sealed" in caplog.text
    assert not script.active("bank")


def test_members_whose_models_differ_do_not_go_on(
    four: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    script.regroup(ALL)
    script.session("grocer").learned.parameters[0] += 1e-9
    script.agree()
    for party in ALL:
        keys = keys_of(script, party)
        assert script.send(party, script.training(), 2) == REFUSAL
        check_ended(script, keys, party)
    assert caplog.text.count("a member holds another run key or another model") == len(ALL)


def test_members_of_another_federation_are_noticed(
    four: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    path = four.federation.homes["grocer"] / "federation.json"
    path.write_text(path.read_text().replace('"federation": "local"', '"federation": "other"'))
    script = Script(four, FOUR)
    script.start(ALL)
    assert script.send("bank", script.training(), 1) == REFUSAL
    assert "(IntegrityError): grocer has signed another manifest" in caplog.text
    assert not (four.federation.homes["bank"] / "manifest.json").exists()
    assert not script.active("bank")


# Keys ---------------------------------------------------------------------------------------------


def the_run_ends(script: Script) -> None:
    for number in range(1, ROUNDS + 1):
        script.train(number)
    script.evaluate(ROUNDS + 1)
    script.finish(ROUNDS)


def the_run_is_aborted(script: Script) -> None:
    script.send_last("bank", Abort(reason="RunStopped"))


def the_service_stops(script: Script) -> None:
    script.local.services.pop("bank").close()  # type: ignore[attr-defined]


def another_epoch_begins(script: Script) -> None:
    script.train(1)
    script.regroup(ALL)


def another_run_begins(script: Script) -> None:
    other = Script(script.local, FOUR, run="run-2")
    other.preflight(ALL)


@pytest.mark.parametrize(
    "end",
    [
        the_run_ends,
        the_run_is_aborted,
        the_service_stops,
        another_epoch_begins,
        another_run_begins,
    ],
)
def test_keys_are_erased_as_soon_as_their_epoch_is_over(
    four: Faulty, end: Callable[[Script], None]
) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    keys = keys_of(script)
    end(script)
    assert erased(keys)


def test_keys_of_an_agreement_that_was_not_completed_are_erased_too(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.preflight(ALL)
    script.ask(SealKeys(replies=dict(script.replies)))
    agreement = script.session("bank").stage._agreement
    assert agreement is not None
    assert agreement._run_key is not None
    run_key = agreement._run_key
    script.regroup(ALL)
    with pytest.raises(ProtocolError, match="erased"):
        run_key.to_bytes()
    assert script.session("bank").stage._agreement is None


def test_a_message_of_the_wrong_kind_for_its_place_is_refused(four: Faulty) -> None:
    script = Script(four, FOUR + NOISED)
    script.start(ALL)
    evaluation = Evaluate(members=ALL, replies=dict(script.replies), total=b"", lost=False)
    round_ = TrainRound(members=ALL, replies=dict(script.replies), total=b"", lost=False)
    for body, number in ((evaluation, 1), (round_, ROUNDS + 1), (evaluation, ROUNDS + 1)):
        assert script.send("bank", body, number) == REFUSAL
    assert script.active("bank")
