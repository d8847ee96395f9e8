"""One party's attempts and epochs: what is sent again, what is drawn again, what it costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from models.plan import parse_plan
from models.training import party_terms
from party_client.service import PartyService
from privacy.accounting import epsilon
from privacy.ledger_state import EVALUATION_ROUND, WEIGHTS_ROUND
from privacy.mechanism import Mechanism
from privacy.messages import REFUSAL, Decision, Regroup
from privacy.randomness import system_entropy

from .conftest import FOUR, NOISED, ROUNDS, Faulty, with_cohort
from .scripted import Script, parts_of

ALL = ("bank", "ecommerce", "grocer", "retailer")
THREE = ALL[:3]
TERMS = party_terms(parse_plan(FOUR), 500)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the service catches it, and the service is thrown away."""


class Watched:
    """The system's randomness; remembers the labels, and kills at one of them."""

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.kill_at = "-"

    def __call__(self, label: str) -> bytes:
        self.drawn.append(label)
        if label.startswith(self.kill_at):
            raise Killed
        return system_entropy(label)


@pytest.fixture
def watched(four: Faulty) -> Watched:
    """The bank's randomness."""
    found = Watched()
    four.entropy = lambda party: found if party == "bank" else system_entropy
    return found


def spent(script: Script, party: str = "bank") -> float:
    """What the run's intents cost here."""
    state = script.local.service(party).node.ledger.state()
    return epsilon([one.mechanism for one in state.runs[script.run].intents], state.cap_delta)


def cost(*mechanisms: Mechanism) -> float:
    return epsilon(mechanisms, 1 / 5000)


def restarted(script: Script, party: str) -> PartyService:
    """The service as it is after its process was killed: nothing of it was closed or settled."""
    service = script.local.services.pop(party)  # type: ignore[attr-defined]
    service.node.source.close()
    service.node.store.close()
    if service._session is not None:
        service._session.erase()
    return script.local.service(party)


# Sent again --------------------------------------------------------------------------------------


def test_an_update_is_sent_again_as_it_was_under_fresh_masks_and_is_not_charged(
    four: Faulty, watched: Watched
) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    first, before = parts_of(script.bodies)["bank"], spent(script)
    values = {one: script.session(one).draws._updates[1].values.copy() for one in THREE}
    start = script.session("bank").learned.parameters

    script.narrow(THREE)
    script.train(1, 2, again=True)
    second = parts_of(script.bodies)["bank"]
    script.train(2)

    assert len(first) == len(second)
    assert first != second
    assert sum(one.startswith("round 1 training") for one in watched.drawn) == 1
    run = four.run_of("bank")
    assert [one.round for one in run.intents] == [1, 2]
    assert run.attempts == {1: 2, 2: 1}
    assert before == cost(TERMS.round_mechanism)
    assert spent(script) == cost(TERMS.round_mechanism, TERMS.round_mechanism)
    commits = [
        one.body for one in four.service("bank").node.ledger.entries() if one.kind == "commit"
    ]
    assert [tuple(one["recipients"]) for one in commits] == [ALL, THREE, THREE]
    # What was opened are those values: their average is what the model moved by.
    learned = script.session("bank").learned
    total = sum(values.values())
    weights = 3 / 4
    moved = learned.code.dequantise(np.asarray(total), 3) / weights
    np.testing.assert_array_equal(learned.parameters, start + moved)


def test_an_attempt_is_never_used_twice(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1, 3)
    again = script.training(again=True)
    before = four.service("bank").node.ledger.position()
    for attempt in (1, 2, 3):
        assert script.send("bank", again, 1, attempt) == REFUSAL
        assert four.service("bank").node.ledger.position() == before
    assert script.send("bank", again, 1, 4) != REFUSAL
    assert four.run_of("bank").attempts == {1: 4}


def test_an_attempt_is_not_used_again_in_a_later_epoch(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1, 2)
    script.total, script.replies = b"", {}  # one of them is gone
    script.regroup(THREE)
    script.agree()
    for used in (1, 2):
        assert script.send("bank", script.training(), 1, used) == REFUSAL
    script.train(1, 3)
    assert [one.round for one in four.run_of("bank").intents] == [1]


WHAT_CANNOT_FOLLOW: list[dict[str, object]] = [
    {"total": b"\0" * 65659},
    {"lost": True},
    {"members": ("bank", "ecommerce")},
    {"members": ("ecommerce", "grocer", "retailer")},
    {"members": (*ALL, "stranger")},
]


def test_what_cannot_follow_is_refused_and_changes_nothing(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    before = four.service("bank").node.ledger.position()
    honest = script.training(again=True)
    for body in WHAT_CANNOT_FOLLOW:
        lie = honest.model_copy(update=body)
        members = [one for one in lie.members if one in ALL]
        script.narrow(members if "bank" in members else ALL)
        script.talks["bank"].manifest = script.talks[members[0]].manifest
        assert script.send("bank", lie, 1, 2) == REFUSAL, body
        assert four.service("bank").node.ledger.position() == before
    script.narrow(THREE)
    assert script.send("bank", script.training(again=True), 1, 2) != REFUSAL


def test_no_round_comes_out_of_turn(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    for number in (1, 3):
        assert script.send("bank", script.training(), number, 2) == REFUSAL
    assert script.send("bank", script.training(), 2) != REFUSAL


def test_a_round_whose_sum_was_opened_is_not_sent_again(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    script.train(2)
    assert script.send("bank", script.training(again=True), 1, 2) == REFUSAL
    assert script.active("bank")


def test_below_the_partys_own_minimum_nothing_is_sent_and_the_run_can_go_on(four: Faulty) -> None:
    plan = with_cohort(minimum=2, accept_two_party=True)
    script = Script(four, plan)
    script.start(ALL)
    script.train(1)
    script.narrow(("bank", "ecommerce"))
    assert script.send("bank", script.training(again=True), 1, 2) == REFUSAL
    assert four.run_of("bank").state == "reserved"
    script.narrow(THREE)
    script.train(1, 2, again=True)


@pytest.mark.parametrize("consents", [("plan",), ("policy",), ("plan", "policy")])
def test_two_parties_need_both_consents(
    four: Faulty, consents: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    accept = "plan" in consents
    plan = with_cohort(minimum=2 if accept else 3, accept_two_party=accept)
    four.edit_policy("bank", "minimum_cohort = 3", "minimum_cohort = 2")
    if "policy" in consents:
        four.edit_policy("bank", "accept_two_party = false", "accept_two_party = true")
    script = Script(four, plan)
    script.start(ALL)
    script.train(1)
    script.narrow(("bank", "ecommerce"))
    reply = script.send("bank", script.training(again=True), 1, 2)
    allowed = consents == ("plan", "policy")
    assert (reply != REFUSAL) == allowed
    assert four.run_of("bank").two_party == allowed
    assert ("only differential privacy protects it" in caplog.text) == allowed


# Back after a restart ----------------------------------------------------------------------------


def test_a_restarted_party_comes_back_at_the_next_round_with_the_others_model(
    four: Faulty,
) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    restarted(script, "bank")
    assert four.run_of("bank").state == "reserved"
    script.regroup(ALL)
    told = {party: one.applied for party, one in script.bodies.items() if isinstance(one, Decision)}
    assert told == {"bank": 0, "ecommerce": 1, "grocer": 1, "retailer": 1}
    script.agree()
    models = {script.session(one).learned.parameters.tobytes() for one in ALL}
    assert len(models) == 1
    assert script.session("bank").learned.applied == 1
    for number in (2, 3):
        script.train(number)
    script.evaluate(4)
    script.finish(ROUNDS)
    assert len(four.models(*ALL)) == 1
    assert [one.round for one in four.run_of("bank").intents] == [1, 2, 3, 0]
    report = four.report("bank")
    assert (report["returned"], report["epochs"]) == (True, 2)
    assert report["participants"] == list(ALL)
    assert report["attempts"] == {"1": 1, "2": 1, "3": 1}
    assert set(report["saturated"]) == {"2", "3"}
    assert (four.report("grocer")["returned"], four.report("grocer")["epochs"]) == (False, 2)


def killed_at(script: Script, watched: Watched, label: str, send: Callable[[], object]) -> None:
    """The bank's process dies when it draws `label`; a new one starts."""
    watched.kill_at = label
    with pytest.raises(Killed):
        send()
    watched.kill_at = "-"
    restarted(script, "bank")


@pytest.mark.parametrize(
    ("label", "attempts"), [("round 2 training", {1: 1}), ("ledger head 2", {1: 1, 2: 1})]
)
def test_what_a_crash_lost_is_drawn_again_under_a_new_attempt_and_charged_again(
    four: Faulty, watched: Watched, label: str, attempts: dict[int, int]
) -> None:
    """Killed after its intent, and after its commit: between commit and reply nothing that left,
    or may have left, is ever used again."""
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    body = script.training()
    for party in ALL[1:]:
        script.send(party, body, 2)
    killed_at(script, watched, label, lambda: script.send("bank", body, 2))
    run = four.run_of("bank")
    assert (run.attempts, [one.round for one in run.intents]) == (attempts, [1, 2])

    script.total, script.replies = b"", {}
    script.regroup(ALL)
    script.agree()
    if 2 in attempts:
        assert script.send("bank", script.training(), 2, 1) == REFUSAL
    script.train(2, 2)
    run = four.run_of("bank")
    assert [one.round for one in run.intents] == [1, 2, 2]
    assert run.mechanisms == (*TERMS.mechanisms, TERMS.round_mechanism)
    assert run.attempts == {1: 1, 2: 2}
    script.train(3)
    script.evaluate(4)
    script.finish(ROUNDS)
    spends = [TERMS.round_mechanism] * 4 + [TERMS.evaluation]
    assert four.service("bank").node.ledger.spent() == pytest.approx(cost(*spends))
    assert four.report("bank")["epsilon_run"] == pytest.approx(cost(*spends))
    assert len(four.models(*ALL)) == 1
    assert [one.round for one in four.run_of("grocer").intents] == [1, 2, 3, 0]


def test_a_crash_in_the_evaluation_is_charged_again_as_well(four: Faulty, watched: Watched) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    for number in (1, 2, 3):
        script.train(number)
    body = script.evaluation()
    for party in ALL[1:]:
        script.send(party, body, 4)
    killed_at(script, watched, "evaluation", lambda: script.send("bank", body, 4))
    script.total, script.replies = b"", {}
    script.regroup(ALL)
    script.agree()
    script.evaluate(4, 2)
    script.finish(ROUNDS)
    assert [one.round for one in four.run_of("bank").intents] == [1, 2, 3, 0, 0]
    assert [one.round for one in four.run_of("grocer").intents] == [1, 2, 3, 0]
    spends = [TERMS.round_mechanism] * 3 + [TERMS.evaluation] * 2
    assert four.service("bank").node.ledger.spent() == pytest.approx(cost(*spends))
    assert len(four.models(*ALL)) == 1


def test_without_budget_for_it_what_was_lost_is_not_drawn_again(
    four: Faulty, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    four.edit_policy("bank", "epsilon = 8.0", "epsilon = 1.6")
    script = Script(four, FOUR)
    script.start(ALL)
    killed_at(
        script, watched, "round 1 training", lambda: script.send("bank", script.training(), 1)
    )
    script.regroup(ALL)
    script.agree()
    drawn = len(watched.drawn)
    assert script.send("bank", script.training(), 1) == REFUSAL
    assert "the run ended here (BudgetExceeded)" in caplog.text
    assert not any(one.startswith("round") for one in watched.drawn[drawn:])
    run = four.run_of("bank")
    assert (run.state, [one.round for one in run.intents]) == ("failed", [1])


def test_what_is_drawn_again_counts_towards_what_policy_allows_a_run(
    four: Faulty, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    for _ in range(12):
        watched.kill_at = "round 1 training"
        try:
            reply = script.send("bank", script.training(), 1)
        except Killed:
            watched.kill_at = "-"
            restarted(script, "bank")
            script.regroup(ALL)
            script.agree()
        else:
            break
    assert reply == REFUSAL
    assert "max_epsilon_per_run of 2" in caplog.text
    run = four.run_of("bank")
    assert run.state == "failed"
    assert len(run.intents) > 2
    assert epsilon(run.mechanisms, TERMS.delta) <= 2.0


def test_data_that_refuse_a_returning_party_are_not_asked_again(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    script.train(1)
    four.edit_policy("bank", "minimum_customers = 0", "minimum_customers = 10000")
    restarted(script, "bank")
    for expected in ("data", REFUSAL):
        script.begin(("bank",), ALL)
        proposal = {**script.proposal(ALL), "replies": {}, "total": b""}
        reply = script.send("bank", Regroup.model_validate(proposal))
        decision = script.bodies["bank"]
        assert isinstance(decision, Decision)
        assert expected in (reply, decision.reason)
    assert reply == REFUSAL
    assert four.run_of("bank").state == "failed"


def test_a_restarted_party_comes_back_to_its_own_run_only(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    bank = restarted(script, "bank")
    other = Script(four, with_cohort(minimum=4, pause_minutes=0), epoch=1)
    other.begin(ALL, ALL)
    proposal = other.proposal(ALL)
    body = Regroup.model_validate({**proposal, "replies": {}, "total": b""})
    assert other.send("bank", body) == REFUSAL
    assert bank._session is None
    four.edit_policy("bank", "max_epsilon_per_run = 2.0", "max_epsilon_per_run = 1.0")
    restarted(script, "bank")
    script.begin(("bank",), ALL)
    script.send("bank", Regroup.model_validate({**proposal, "plan": FOUR, **script.proposal(ALL),
                                                "replies": {}, "total": b""}))  # fmt: skip
    decision = script.bodies["bank"]
    assert isinstance(decision, Decision)
    assert (decision.accepted, decision.reason) == (False, "epsilon")


def test_changed_terms_are_refused_when_a_party_comes_back(four: Faulty) -> None:
    plan = FOUR.replace(b"[privacy]", b"[privacy]\ndelta = 1e-5")
    script = Script(four, plan)
    script.start(ALL)
    home = four.federation.homes["bank"] / "party.toml"
    home.write_text(home.read_text().replace("public_size = 500", "public_size = 501"))
    policy = four.federation.homes["bank"] / "policy.toml"
    policy.write_text(policy.read_text().replace("delta = 0.0002", "delta = 0.00019"))
    restarted(script, "bank")
    script.begin(("bank",), ALL)
    body = Regroup.model_validate({**script.proposal(ALL), "replies": {}, "total": b""})
    script.send("bank", body)
    decision = script.bodies["bank"]
    assert isinstance(decision, Decision)
    assert (decision.accepted, decision.reason) == (False, "budget")


def test_a_run_in_doubt_or_expired_is_ended_at_the_start(four: Faulty) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    with (four.federation.homes["bank"] / "ledger.jsonl").open("ab") as file:
        file.write(b'{"body":{"mecha')
    restarted(script, "bank")
    assert four.run_of("bank").state == "failed"
    assert four.service("bank").node.ledger.spent() == pytest.approx(cost(*TERMS.mechanisms))


# Regroups of somebody else -----------------------------------------------------------------------


def test_a_replayed_regroup_ends_no_session_and_draws_nothing(
    four: Faulty, watched: Watched
) -> None:
    script = Script(four, FOUR)
    script.start(ALL)
    frames = []
    bank = four.service("bank")
    answer = bank.answer
    bank.answer = lambda frame: (frames.append(frame), answer(frame))[1]  # type: ignore[method-assign]
    script.regroup(ALL)
    script.agree()
    script.regroup(ALL)
    script.agree()
    old, new = (one for one in frames if b"regroup" in one)
    script.train(1)
    session, position = script.session("bank"), bank.node.ledger.position()
    for replayed in (old, new):
        assert bank.answer(replayed) == REFUSAL
    assert script.session("bank") is session
    script.train(2)
    assert bank.node.ledger.position() != position

    restarted(script, "bank")
    drawn = len(watched.drawn)
    position = four.service("bank").node.ledger.position()
    assert four.service("bank").answer(old) != REFUSAL  # a decision, and fresh keys: no more
    assert {one.split()[0] for one in watched.drawn[drawn:]} <= {"ledger"}
    assert four.service("bank").node.ledger.position() == position
    script.regroup(ALL)  # the true one, which is later, is answered
    script.agree()
    script.train(3)


# Weights -----------------------------------------------------------------------------------------


def test_noised_weights_are_charged_once_and_a_lost_one_again(
    four: Faulty, watched: Watched
) -> None:
    script = Script(four, FOUR + NOISED)
    script.start(ALL)
    script.weigh()
    script.train(1)
    total = sum(int(script.session(one).draws._size or 0) for one in ALL)
    for party in ALL:
        session = script.session(party)
        assert session.learned.weight == int(session.draws._size or 0) / total
    script.regroup(ALL)
    script.agree()
    script.weigh(2)
    script.train(2)
    assert sum(one == "weights" for one in watched.drawn) == 1
    run = four.run_of("bank")
    assert [one.round for one in run.intents] == [WEIGHTS_ROUND, 1, 2]
    assert run.attempts == {WEIGHTS_ROUND: 2, 1: 1, 2: 1}
    restarted(script, "bank")
    script.regroup(ALL)
    script.agree()
    script.weigh(3)
    script.train(3)
    script.evaluate(4)
    script.finish(ROUNDS)
    run = four.run_of("bank")
    rounds = [WEIGHTS_ROUND, 1, 2, WEIGHTS_ROUND, 3, EVALUATION_ROUND]
    assert [one.round for one in run.intents] == rounds
    report = four.report("bank")
    weighed = party_terms(parse_plan(FOUR + NOISED), 500).weights
    assert weighed is not None
    assert report["epsilon_weights"] == pytest.approx(cost(weighed))
    assert report["epsilon_run"] == pytest.approx(four.service("bank").node.ledger.spent())


def test_a_round_needs_its_epochs_weights_first(four: Faulty) -> None:
    script = Script(four, FOUR + NOISED)
    script.start(ALL)
    assert script.send("bank", script.training(), 1) == REFUSAL
    script.weigh()
    script.train(1)
