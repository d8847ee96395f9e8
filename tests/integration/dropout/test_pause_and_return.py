"""A party comes back: at the next round, after a restart, or because the run waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Literal

import pytest

from privacy.errors import CohortError, RunError, RunStopped
from privacy.framing import read_statement
from privacy.messages import KeySeal
from simulations.local_federation import Fault, MemoryRecorder, announced

from .conftest import FOUR, NOISED, PATIENT, ROUNDS, SINGLE, Faulty, with_cohort

ALL = ("bank", "ecommerce", "grocer", "retailer")
OTHERS = ALL[1:]


class Resuming(MemoryRecorder):
    """An operator who resumes every pause at once."""

    def pause(self, absent: Sequence[str], until: datetime) -> None:
        super().pause(absent, until)
        self.resume = True


class Stopping(MemoryRecorder):
    """An operator who stops a run once it is paused."""

    def pause(self, absent: Sequence[str], until: datetime) -> None:
        super().pause(absent, until)
        self.stop = True


def rounds_begun(four: Faulty, party: str) -> list[int]:
    return sorted(one.round for one in four.run_of(party).intents)


@pytest.mark.parametrize(
    ("options", "loses", "restarts"),
    [
        *((b"", loses, restarts) for loses in ("request", "reply") for restarts in (False, True)),
        *((options, "reply", True) for options in (SINGLE, NOISED)),
        (NOISED, "request", False),
    ],
)
def test_a_party_that_misses_a_round_is_back_in_the_next(
    four: Faulty, options: bytes, loses: Literal["request", "reply"], restarts: bool
) -> None:
    then = partial(four.restart, "bank") if restarts else lambda: None
    outcome = four.start(FOUR + options, Fault("bank", "train-round", 2, loses=loses, then=then))
    assert outcome.parties == ALL
    assert (outcome.left, outcome.returned) == ({"bank": "round 2"}, {"bank": "round 3"})
    assert four.recorder.members == [("bank", "left", "round 2"), ("bank", "returned", "round 3")]
    assert len(four.models(*ALL)) == 1
    drawn = [0, 1, 3] if loses == "request" else [0, 1, 2, 3]
    extra = [-1] if options == NOISED else []
    # A restarted party knows the size it drew no more; it draws, and is charged, again.
    assert rounds_begun(four, "bank")[-len(drawn) :] == drawn
    assert set(rounds_begun(four, "bank")) == {*drawn, *extra}
    assert rounds_begun(four, "retailer") == [*extra, *range(ROUNDS + 1)]
    assert {four.run_of(party).state for party in ALL} == {"finished"}


def test_a_service_that_restarts_between_two_rounds_misses_one(four: Faulty) -> None:
    restart = Fault("bank", "train-round", 1, loses="nothing", then=partial(four.restart, "bank"))
    outcome = four.start(FOUR, restart)
    # What it refused it did not know of; asked to regroup, it comes back.
    assert (outcome.left, outcome.returned) == ({"bank": "round 2"}, {"bank": "round 3"})
    assert len(four.models(*ALL)) == 1


def test_a_party_that_missed_the_preflight_joins_later(four: Faulty) -> None:
    outcome = four.start(FOUR, Fault("bank", "preflight"))
    assert (outcome.left, outcome.returned) == ({"bank": "preflight"}, {"bank": "round 2"})
    assert outcome.parties == ALL
    assert rounds_begun(four, "bank") == [0, 2, 3]
    assert len(four.models(*ALL)) == 1


def test_a_party_may_leave_and_come_back_twice(four: Faulty) -> None:
    outcome = four.start(
        FOUR,
        Fault("bank", "train-round", 1, loses="reply"),
        Fault("bank", "train-round", 2, loses="reply", then=partial(four.restart, "bank")),
    )
    assert outcome.returned == {"bank": "round 3"}
    assert [event for _, event, _ in four.recorder.members] == ["left", "returned"] * 2
    assert len(four.models(*ALL)) == 1


def test_a_party_that_is_asked_while_it_is_still_away_is_asked_again(four: Faulty) -> None:
    outcome = four.start(FOUR, Fault("bank", "train-round", 1, away=1))
    assert outcome.returned == {"bank": "round 3"}
    probes = [told for kind, _, _, told in four.log if kind == "regroup"]
    assert probes == [frozenset({"bank"}), frozenset({"bank"}), frozenset(OTHERS)]


def test_a_party_whose_policy_will_not_have_it_back_is_out_for_good(four: Faulty) -> None:
    def forbid() -> None:
        four.edit_policy("bank", '"retention", "marketing"', '"retention"')
        four.restart("bank")

    outcome = four.start(FOUR, Fault("bank", "train-round", 1, loses="reply", then=forbid))
    assert outcome.parties == OTHERS
    assert [event for _, event, _ in four.recorder.members] == ["left", "refused"]
    assert len([kind for kind, _, _, told in four.log if kind == "regroup" and told]) == 1


# Pauses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "number", "loses"),
    [
        *(("seal-keys", 0, "request"), ("confirm-keys", 0, "reply")),
        *(("train-round", 1, "request"), ("train-round", 2, "reply")),
        *(("train-round", ROUNDS, loses) for loses in ("request", "reply")),
        *(("evaluate", ROUNDS + 1, loses) for loses in ("request", "reply")),
    ],
)
def test_a_run_below_its_minimum_pauses_until_the_party_is_back(
    four: Faulty, kind: str, number: int, loses: Literal["request", "reply"]
) -> None:
    four.recorder = Resuming()
    restart = partial(four.restart, "bank")
    outcome = four.start(PATIENT, Fault("bank", kind, number, loses=loses, away=1, then=restart))
    assert outcome.parties == ALL
    assert four.recorder.phases.count("pause for bank") == 1
    assert len(four.models(*ALL)) == 1
    for party in OTHERS:  # they resent what they had, and were charged once
        assert rounds_begun(four, party) == [*range(ROUNDS + 1)]


@pytest.mark.parametrize("number", [2, ROUNDS])
def test_a_party_that_revealed_its_mask_and_missed_the_sum_opens_it_when_it_is_back(
    four: Faulty, number: int
) -> None:
    lost = Fault("bank", "train-round", number, loses="request")
    outcome = four.start(PATIENT + SINGLE, lost)
    assert outcome.parties == ALL
    assert len(four.models(*ALL)) == 1
    assert four.report("bank")["parties"] == list(ALL)


def test_a_party_that_missed_a_sum_takes_nobodys_word_for_it(four: Faulty) -> None:
    """One member alone hears of round 2, and goes down: the others open round 1 by themselves."""
    told = [
        Fault(party, "train-round", 2, loses="request") for party in ALL if party != "ecommerce"
    ]
    assert four.start(PATIENT, *told).parties == ALL
    assert len(four.models(*ALL)) == 1
    members = four.federation.members
    seals = [
        read_statement(statement, members[party], KeySeal)
        for party, statement in four.said
        if announced(statement)[0] == KeySeal.kind
    ]
    assert len(seals) == 2 * len(ALL)
    assert [one.envelope.attached_bytes for one in seals] == [0] * len(seals)  # no model


def test_no_pause_is_shown_if_the_party_answers_at_once(four: Faulty) -> None:
    outcome = four.start(PATIENT, Fault("bank", "train-round", 2))
    assert outcome.parties == ALL
    assert not any(phase.startswith("pause") for phase in four.recorder.phases)


def test_a_paused_run_can_be_stopped(four: Faulty) -> None:
    four.recorder = Stopping()
    with pytest.raises(RunStopped, match="while it was paused"):
        four.start(PATIENT, Fault("bank", "train-round", 2, away=10))
    assert {four.run_of(party).state for party in OTHERS} == {"failed"}


@pytest.mark.parametrize(("number", "loses"), [(1, "reply"), (2, "request"), (2, "reply")])
def test_when_nobody_answers_the_sum_that_went_out_is_not_lost(
    four: Faulty, number: int, loses: Literal["request", "reply"]
) -> None:
    outage = [Fault(party, "train-round", number, loses=loses) for party in ALL]
    outcome = four.start(PATIENT, *outage)
    assert outcome.parties == ALL
    assert len(four.models(*ALL)) == 1
    for party in ALL:
        assert rounds_begun(four, party) == [*range(ROUNDS + 1)]


def test_a_run_whose_model_nobody_holds_any_more_ends_by_name(four: Faulty) -> None:
    restarts = [Fault(party, "train-round", 3, then=partial(four.restart, party)) for party in ALL]
    with pytest.raises(RunError, match="has lost it in a restart"):
        four.start(PATIENT, *restarts)


# Minimums ----------------------------------------------------------------------------------------


def test_a_party_that_may_not_be_one_of_two_waits_for_the_third(four: Faulty) -> None:
    plan = with_cohort(minimum=2, accept_two_party=True, pause_minutes=60).replace(
        b"[cohort]", b'[cohort]\nparties = ["bank", "ecommerce", "retailer"]'
    )
    four.accept_two("bank", "ecommerce")  # the retailer does not
    four.recorder = Resuming()
    outcome = four.start(plan, Fault("bank", "train-round", 2, away=1))
    assert outcome.parties == ("bank", "ecommerce", "retailer")
    assert not outcome.two_party
    assert len(four.models("bank", "ecommerce", "retailer")) == 1
    assert not any(len(told) == 2 for kind, _, attempt, told in four.log
                   if kind == "train-round" and attempt == 1)  # fmt: skip


def test_a_partys_own_minimum_ends_a_run_that_stays_below_it(four: Faulty) -> None:
    for party in OTHERS:
        four.edit_policy(party, "minimum_cohort = 3", "minimum_cohort = 4")
    with pytest.raises(CohortError, match="refused a message in phase"):
        four.start(FOUR, Fault("bank", "train-round", 2, away=10**6))
    reports = [four.federation.homes[party] / "reports" / "run-1.json" for party in ALL]
    assert not any(report.exists() for report in reports)


def test_a_party_whose_own_minimum_is_not_met_is_left_out_where_the_rest_are_enough(
    four: Faulty,
) -> None:
    four.edit_policy("grocer", "minimum_cohort = 3", "minimum_cohort = 4")
    four.accept_two("bank", "ecommerce", "retailer")
    gone = Fault("bank", "train-round", 1, away=10**6)
    outcome = four.start(with_cohort(minimum=2, accept_two_party=True, pause_minutes=0), gone)
    assert outcome.parties == ("ecommerce", "retailer")
    assert outcome.two_party
