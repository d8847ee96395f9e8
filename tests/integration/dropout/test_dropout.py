"""A party vanishes, anywhere in a run: the others finish, with one extra exchange at most."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest

from coordinator.rounds import RunOutcome
from coordinator.views import TWO_PARTY, outcome_lines
from models.evaluation import auc_standard_error
from privacy.accounting import calibrate_release, run_delta
from privacy.errors import PartyTimeout, RunError
from simulations.local_federation import Fault

from .conftest import EVALUATION_EPSILON, FOUR, NOISED, ROUNDS, SINGLE, TWO, Faulty

OTHERS = ("ecommerce", "grocer", "retailer")
SUMS = [*(("train-round", number) for number in range(1, ROUNDS + 1)), ("evaluate", ROUNDS + 1)]
ENDS = [("open-evaluation", ROUNDS + 2), ("publish", ROUNDS + 3)]
GONE = 10**6


def vanishes(
    kind: str, number: int | None = None, loses: Literal["request", "reply"] = "request"
) -> Fault:
    """The bank is gone for good from this message on."""
    return Fault("bank", kind, number, loses=loses, away=GONE)


def exchanges_of_the_others(four: Faulty) -> list[tuple[str, int, int]]:
    """What the survivors were asked, in order."""
    return [
        (kind, number, attempt) for kind, number, attempt, told in four.log if "retailer" in told
    ]


def undisturbed(*, weighed: bool = False, single: bool = False) -> list[tuple[str, int, int]]:
    """What a party is asked in a run in which nobody vanishes."""
    sums = [("weigh", 0), *SUMS] if weighed else SUMS
    asked = [("preflight", 0, 1), ("seal-keys", 0, 1), ("confirm-keys", 0, 1)]
    for kind, number in sums:
        asked += [(kind, number, 1)] + ([("unmask", number, 1)] if single else [])
    return asked + [(kind, number, 1) for kind, number in ENDS]


def check_the_others(four: Faulty, outcome: RunOutcome) -> None:
    """They finished with one model, and paid what a run costs, once."""
    assert len(four.models(*OTHERS)) == 1
    for party in OTHERS:
        run, service = four.run_of(party), four.service(party)
        assert run.state == "finished"
        assert sorted(one.round for one in run.intents) == sorted(range(ROUNDS + 1))
        assert service.node.ledger.spent() == pytest.approx(four.report(party)["epsilon_run"])
        assert service._session is None
    assert outcome.refused == {}


def test_a_run_without_a_fault_asks_each_thing_once(four: Faulty) -> None:
    outcome = four.start(FOUR)
    assert exchanges_of_the_others(four) == undisturbed()
    assert outcome.parties == ("bank", *OTHERS)
    assert (outcome.left, outcome.unpublished, outcome.two_party) == ({}, (), False)
    assert len(four.models("bank", *OTHERS)) == 1
    check_the_others(four, outcome)


# Each place once, both losses in the rounds and in the evaluation.
@pytest.mark.parametrize(
    ("kind", "number", "loses"),
    [
        *(("train-round", 1, "request"), ("train-round", 2, "reply")),
        *(("train-round", ROUNDS, "request"),),
        *(("evaluate", ROUNDS + 1, loses) for loses in ("request", "reply")),
    ],
)
def test_a_party_that_vanishes_in_a_sum_costs_the_others_one_exchange_and_no_charge(
    four: Faulty, kind: str, number: int, loses: Literal["request", "reply"]
) -> None:
    outcome = four.start(FOUR, vanishes(kind, number, loses))
    expected = undisturbed()
    at = expected.index((kind, number, 1))
    assert exchanges_of_the_others(four) == [
        *expected[: at + 1], (kind, number, 2), *expected[at + 1 :]
    ]  # fmt: skip
    where = f"round {number}" if kind == "train-round" else "evaluation"
    assert outcome.left == {"bank": where}
    assert outcome.parties == OTHERS
    assert four.recorder.members == [("bank", "left", where)]
    check_the_others(four, outcome)
    for party in OTHERS:
        ledger_round = number if kind == "train-round" else 0
        assert four.run_of(party).attempts[ledger_round] == 2
    # Begun rounds are charged at the bank as well; what it never began is still reserved.
    begun = number if kind == "train-round" and loses == "reply" else number - 1
    begun += kind == "evaluate" and loses == "reply"
    assert len(four.run_of("bank").intents) == begun


@pytest.mark.parametrize(
    ("kind", "loses"), [("seal-keys", "request"), ("confirm-keys", "request"),
                        ("confirm-keys", "reply")]
)  # fmt: skip
def test_a_party_that_vanishes_while_keys_are_agreed_costs_a_new_agreement_of_the_rest(
    four: Faulty, kind: str, loses: Literal["request", "reply"]
) -> None:
    outcome = four.start(FOUR, vanishes(kind, 0, loses))
    assert outcome.left == {"bank": "keys"}
    assert outcome.parties == OTHERS
    expected = undisturbed()
    at = expected.index((kind, 0, 1))
    assert exchanges_of_the_others(four) == [
        *expected[: at + 1], ("regroup", 0, 1), *expected[1:]
    ]  # fmt: skip
    check_the_others(four, outcome)


@pytest.mark.parametrize("loses", ["request", "reply"])
def test_a_party_that_is_not_there_at_preflight_is_left_out(
    four: Faulty, loses: Literal["request", "reply"]
) -> None:
    outcome = four.start(FOUR, vanishes("preflight", 0, loses))
    assert exchanges_of_the_others(four) == undisturbed()
    assert (outcome.parties, outcome.left) == (OTHERS, {"bank": "preflight"})
    check_the_others(four, outcome)


@pytest.mark.parametrize(
    ("kind", "number", "loses"), [(*ENDS[0], "request"), (*ENDS[0], "reply"), (*ENDS[1], "reply")]
)
def test_a_party_that_vanishes_at_the_end_is_named_as_unpublished(
    four: Faulty, kind: str, number: int, loses: Literal["request", "reply"]
) -> None:
    outcome = four.start(FOUR, vanishes(kind, number, loses))
    assert exchanges_of_the_others(four) == undisturbed()
    assert outcome.parties == ("bank", *OTHERS)
    assert outcome.unpublished == ("bank",)
    check_the_others(four, outcome)
    assert any("bank did not confirm" in line for line in outcome_lines({"unpublished": ["bank"]}))


def test_two_may_vanish_one_after_the_other_where_two_are_enough(four: Faulty) -> None:
    four.accept_two("bank", *OTHERS)
    outcome = four.start(
        TWO, vanishes("train-round", 2), Fault("grocer", "train-round", 2, attempt=2, away=GONE)
    )
    assert [one for one in exchanges_of_the_others(four) if one[:2] == ("train-round", 2)] == [
        ("train-round", 2, attempt) for attempt in (1, 2, 3)
    ]
    assert outcome.parties == ("ecommerce", "retailer")
    assert outcome.left == {"bank": "round 2", "grocer": "round 2"}
    assert len(four.models("ecommerce", "retailer")) == 1
    # What a run of two means is said where its result is read.
    assert outcome.two_party
    assert outcome_lines({"two_party": True}) == [TWO_PARTY]


def test_two_may_vanish_at_once(four: Faulty) -> None:
    four.accept_two("bank", *OTHERS)
    gone = Fault("grocer", "evaluate", away=GONE, loses="reply")
    outcome = four.start(TWO, vanishes("evaluate"), gone)
    assert outcome.parties == ("ecommerce", "retailer")
    assert len(exchanges_of_the_others(four)) == len(undisturbed()) + 1


def test_below_the_minimum_a_run_that_may_not_pause_ends_with_a_named_error(four: Faulty) -> None:
    gone = Fault("grocer", "train-round", 2, away=GONE)
    with pytest.raises(PartyTimeout, match="bank, grocer did not answer in phase round 2"):
        four.start(FOUR, vanishes("train-round", 2), gone)
    for party in ("ecommerce", "retailer"):
        assert four.run_of(party).state == "failed"
        assert four.service(party)._session is None


# Options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SINGLE, NOISED])
def test_options_add_the_exchanges_that_they_say(four: Faulty, options: bytes) -> None:
    outcome = four.start(FOUR + options)
    asked = undisturbed(weighed=options != SINGLE, single=options != NOISED)
    assert exchanges_of_the_others(four) == asked
    assert len(four.models("bank", *OTHERS)) == 1
    rounds = [-1, 0, *range(1, ROUNDS + 1)] if options != SINGLE else [*range(ROUNDS + 1)]
    for party in outcome.parties:
        assert sorted(one.round for one in four.run_of(party).intents) == rounds


@pytest.mark.parametrize("kind", ["train-round", "evaluate"])
def test_a_party_that_vanishes_before_it_uploads_costs_one_exchange_under_single_opening(
    four: Faulty, kind: str
) -> None:
    outcome = four.start(FOUR + SINGLE, vanishes(kind, loses="reply"))
    asked = undisturbed(single=True)
    assert len(exchanges_of_the_others(four)) == len(asked) + 1
    assert outcome.parties == OTHERS
    assert len(four.models(*OTHERS)) == 1


@pytest.mark.parametrize(
    ("number", "loses"), [(1, "reply"), (2, "request"), (ROUNDS, "request"), (ROUNDS, "reply")]
)
def test_a_round_that_a_party_leaves_after_its_upload_is_lost_under_single_opening(
    four: Faulty, number: int, loses: Literal["request", "reply"]
) -> None:
    outcome = four.start(FOUR + SINGLE, vanishes("unmask", number, loses))
    assert exchanges_of_the_others(four) == undisturbed(single=True)
    assert outcome.left == {"bank": f"round {number}"}
    check_the_others(four, outcome)


def test_an_evaluation_that_a_party_leaves_after_its_upload_ends_the_run_by_name(
    four: Faulty,
) -> None:
    with pytest.raises(RunError, match="bank was lost before the evaluation could be opened"):
        four.start(FOUR + SINGLE, vanishes("unmask", ROUNDS + 1))
    assert all(four.run_of(party).state == "failed" for party in OTHERS)


def test_the_noise_of_a_smaller_evaluation_is_that_of_its_parties(four: Faulty) -> None:
    outcome = four.start(FOUR, vanishes("evaluate"))
    one = calibrate_release(EVALUATION_EPSILON, run_delta(500, None))
    counts = np.array(outcome.evaluation, dtype=np.int64)
    assert outcome.auc_standard_error == auc_standard_error(counts, math.sqrt(3) * one)
