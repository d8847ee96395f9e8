"""The ledger's rules: what a run is charged, and when the next one is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from privacy.budget import Cap, Limit
from privacy.errors import BudgetExceeded, LedgerError, PrivacyError
from privacy.ledger import Ledger, Outcome, RunState
from privacy.mechanism import Gaussian
from tests.ledgers import (
    BOTH,
    DAY,
    DELTA,
    FROM,
    RELEASE,
    ROUND,
    START,
    TRAINING,
    Clock,
    commit,
    epsilon_of,
    intend,
    make,
    release_that_fits,
    reopened,
    reserve,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Ledger:
    return make(path, clock=clock)


def test_a_reservation_counts_wholly_before_anything_ran(ledger: Ledger, path: Path) -> None:
    reserve(ledger, "run-1")
    expected = epsilon_of(*BOTH)
    assert 0 < expected < 8
    assert ledger.spent() == expected
    assert reopened(path).spent() == expected
    assert ledger.used() == Cap.of(8.0, DELTA).used(BOTH)
    assert 0 < ledger.used() < 1
    assert ledger.has_run("run-1")
    assert not ledger.has_run("run-2")


def test_spend_composes_over_runs_and_a_run_alone_is_reported(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    reserve(ledger, "run-2")
    alone = epsilon_of(*BOTH)
    assert ledger.spent() == epsilon_of(*BOTH, *BOTH)
    assert ledger.spent_by_run() == {"run-1": alone, "run-2": alone}
    assert ledger.spent() < 2 * alone


def test_a_run_over_the_budget_is_refused_and_writes_nothing(path: Path) -> None:
    ledger = make(path, cap=1.2 * epsilon_of(*BOTH))
    reserve(ledger, "run-1")
    before = path.read_bytes()
    with pytest.raises(BudgetExceeded, match="lifetime budget of epsilon"):
        reserve(ledger, "run-2")
    assert path.read_bytes() == before
    assert not ledger.has_run("run-2")


@pytest.mark.parametrize("over", [-1e-9, 1e-9])
def test_the_budget_ends_where_it_ends(ledger: Ledger, over: float) -> None:
    cap = Cap.of(8.0, DELTA)
    whole = Gaussian((cap.order / (2 * cap.allowance * (1 + over))) ** 0.5)
    if over < 0:
        reserve(ledger, "run-1", [whole])
        assert ledger.used() == pytest.approx(1)
    else:
        with pytest.raises(BudgetExceeded, match="lifetime"):
            reserve(ledger, "run-1", [whole])


def test_an_untouched_reservation_can_be_given_back(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    ledger.refund("run-1")
    assert ledger.spent() == 0.0
    assert ledger.spent_by_run() == {"run-1": 0.0}
    with pytest.raises(LedgerError, match="used once"):
        reserve(ledger, "run-1")


def test_after_an_intent_nothing_is_refunded(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    intend(ledger)
    with pytest.raises(LedgerError, match="never refunded"):
        ledger.refund("run-1")
    ledger.close("run-1", "failed")
    with pytest.raises(LedgerError, match="no open reservation"):
        ledger.refund("run-1")


@pytest.mark.parametrize("outcome", ["finished", "failed"])
def test_a_closed_run_is_charged_what_it_began_and_the_rest_is_free(
    ledger: Ledger, outcome: Outcome
) -> None:
    reserve(ledger, "run-1")
    for number in (1, 2, 3):
        intend(ledger, "run-1", number)
    commit(ledger, "run-1", 1)
    assert ledger.spent() == epsilon_of(*BOTH)
    ledger.close("run-1", outcome)
    assert ledger.spent() == epsilon_of(TRAINING.split(30))
    assert ledger.spent_by_run() == {"run-1": ledger.spent()}
    assert ledger.used() == Cap.of(8.0, DELTA).used([TRAINING.split(30)])


def test_a_whole_run_is_recorded_step_by_step(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    for number in range(1, 9):
        intend(ledger, "run-1", number, ROUND)
        commit(ledger, "run-1", number)
    intend(ledger, "run-1", 9, RELEASE)
    commit(ledger, "run-1", 9)
    ledger.close("run-1", "finished")
    run = ledger.state().runs["run-1"]
    assert run.state == "finished"
    assert run.attempts == dict.fromkeys(range(1, 10), 1)
    assert ledger.verify() == ledger.head()


def test_intents_beyond_the_reservation_are_refused(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    for number in range(1, 9):
        intend(ledger, "run-1", number, ROUND)
    for more in (ROUND, TRAINING.split(1), Gaussian(noise_multiplier=4.9)):
        with pytest.raises(BudgetExceeded, match="more than it reserved"):
            intend(ledger, "run-1", 9, more)
    intend(ledger, "run-1", 9, RELEASE)
    with pytest.raises(BudgetExceeded):
        intend(ledger, "run-1", 9, RELEASE)


def test_steps_out_of_order_are_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no open reservation"):
        intend(ledger)
    reserve(ledger, "run-1")
    with pytest.raises(LedgerError, match="needs an intent"):
        commit(ledger, "run-1", 1)
    intend(ledger)
    commit(ledger, "run-1", 1)
    with pytest.raises(LedgerError, match="above every earlier one"):
        commit(ledger, "run-1", 1)
    with pytest.raises(LedgerError, match="at least one mechanism"):
        reserve(ledger, "run-2", [])


def test_a_round_may_be_sent_again_under_a_higher_attempt_and_costs_nothing(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    intend(ledger)
    commit(ledger, "run-1", 1, 2)  # another party had made the first attempt fail
    before = ledger.spent_by_run(), ledger.spent()
    ledger.commit("run-1", 1, 5, ["shop", "bank", "airline"])
    assert (ledger.spent_by_run(), ledger.spent()) == before
    assert ledger.entries()[-1].body["recipients"] == ["airline", "bank", "shop"]
    assert ledger.state().runs["run-1"].attempts == {1: 5}
    for used in (1, 2, 4, 5):
        with pytest.raises(LedgerError, match="above every earlier one"):
            commit(ledger, "run-1", 1, used)
    intend(ledger, "run-1", 2)
    commit(ledger, "run-1", 2, 1)
    assert reopened_from(ledger).attempts == {1: 5, 2: 1}


def reopened_from(ledger: Ledger) -> RunState:
    """What another process reads of run-1."""
    return Ledger(ledger._file._path).state().runs["run-1"]


@pytest.mark.parametrize("body", [{"attempt": "1"}, {"attempt": True}, {"recipients": [1]}])
def test_a_commit_names_an_attempt_and_its_recipients(
    ledger: Ledger, body: dict[str, object]
) -> None:
    reserve(ledger, "run-1")
    intend(ledger)
    with ledger._file.appending() as file:
        whole = {"run": "run-1", "round": 1, "attempt": 1, "recipients": ["bank"]}
        file.append("commit", whole | body)
    with pytest.raises(LedgerError, match="line 4: its fields"):
        ledger.verify()


# Extensions --------------------------------------------------------------------------------------


def test_what_a_crash_lost_can_be_drawn_again_and_is_charged_again(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    intend(ledger)
    ledger.extend("run-1", [ROUND])
    assert ledger.spent() == epsilon_of(*BOTH, ROUND)
    for number in range(1, 9):
        intend(ledger, "run-1", number)
    with pytest.raises(BudgetExceeded, match="more than it reserved"):
        intend(ledger, "run-1", 9)
    ledger.close("run-1", "finished")
    assert ledger.spent() == epsilon_of(*[ROUND] * 9)
    assert ledger.verify() == ledger.head()


def test_an_extension_that_was_not_used_is_free_again(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    ledger.extend("run-1", [RELEASE])
    intend(ledger)
    ledger.close("run-1", "failed")
    assert ledger.spent() == epsilon_of(ROUND)


def test_an_extension_beyond_the_lifetime_budget_is_refused_and_writes_nothing(
    path: Path, clock: Clock
) -> None:
    cap = Cap.of(8.0, DELTA)
    ledger, half = make(path, clock=clock), release_that_fits(2, cap)
    reserve(ledger, "run-1", [half])
    ledger.extend("run-1", [half])
    before = path.read_bytes()
    with pytest.raises(BudgetExceeded, match="lifetime budget"):
        ledger.extend("run-1", [half])
    assert path.read_bytes() == before


def test_an_extension_counts_in_the_window_of_its_run(ledger: Ledger, clock: Clock) -> None:
    clock.now = datetime(2024, 1, 31, 23, 30, tzinfo=UTC)
    monthly = [Limit("monthly", epsilon_of(RELEASE, RELEASE) + 0.01, window="month")]
    reserve(ledger, "january", [RELEASE], limits=monthly)
    clock.now += timedelta(hours=1)
    reserve(ledger, "february", [RELEASE, RELEASE], limits=monthly)
    ledger.extend("january", [RELEASE], monthly)  # february is full, january is not
    with pytest.raises(BudgetExceeded, match="limit monthly"):
        ledger.extend("january", [RELEASE], monthly)
    with pytest.raises(BudgetExceeded, match="limit monthly"):
        ledger.extend("february", [RELEASE], monthly)


def test_only_an_open_undoubtful_run_is_extended(ledger: Ledger, path: Path, clock: Clock) -> None:
    with pytest.raises(LedgerError, match="no open reservation"):
        ledger.extend("run-1", [ROUND])
    reserve(ledger, "run-1")
    with pytest.raises(LedgerError, match="at least one mechanism"):
        ledger.extend("run-1", [])
    ledger.close("run-1", "failed")
    with pytest.raises(LedgerError, match="no open reservation"):
        ledger.extend("run-1", [ROUND])
    reserve(ledger, "run-2")
    clock.now += 2 * DAY
    with pytest.raises(LedgerError, match="expired"):
        ledger.extend("run-2", [ROUND])
    reserve(ledger, "run-3")
    with path.open("ab") as file:
        file.write(b'{"body":{"mecha')
    with pytest.raises(LedgerError, match="a crash interrupted"):
        ledger.extend("run-3", [ROUND])


def test_the_operator_may_amend_the_cap_and_the_ledger_shows_it(ledger: Ledger) -> None:
    reserve(ledger, "run-1")
    ledger.amend(cap_epsilon=8.0, cap_delta=1e-5)
    assert [entry.kind for entry in ledger.entries()] == ["open", "reserve"]
    ledger.amend(cap_epsilon=ledger.spent() / 2, cap_delta=1e-5)
    assert ledger.entries()[-1].kind == "amend"
    assert ledger.entries()[-1].body["order"] == Cap.of(ledger.spent() / 2, DELTA).order
    assert ledger.used() > 1
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "run-2")


@pytest.mark.parametrize(
    "provenance",
    [
        {},
        {**FROM.as_data(), "seed": "1"},
        {**FROM.as_data(), "dataset": 3},
        {**FROM.as_data(), "recipients": [1]},
    ],
)
def test_an_intent_says_where_it_comes_from_and_nothing_else(
    ledger: Ledger, provenance: dict[str, Any]
) -> None:
    reserve(ledger, "run-1")
    intend(ledger)
    assert ledger.state().runs["run-1"].intents[0].provenance == FROM
    with ledger._file.appending() as file:
        body = {"run": "run-1", "round": 2, "mechanism": ROUND.as_data()}
        file.append("intent", {**body, "provenance": provenance})
    with pytest.raises(LedgerError, match="line 4: its fields"):
        ledger.verify()


# Expiry ------------------------------------------------------------------------------------------


def test_a_reservation_that_lies_still_expires_and_costs_nothing(
    ledger: Ledger, clock: Clock
) -> None:
    reserve(ledger, "run-1")
    clock.now = START + DAY
    assert ledger.spent() == epsilon_of(*BOTH)
    clock.now += timedelta(seconds=2)
    assert ledger.spent() == ledger.used() == 0
    for late in (lambda: intend(ledger), lambda: commit(ledger, "run-1", 1)):
        with pytest.raises(LedgerError, match="expired; submit the plan again"):
            late()
    ledger.refund("run-1")
    assert ledger.verify() == ledger.head()


def test_an_expired_run_is_charged_what_it_began(ledger: Ledger, clock: Clock) -> None:
    reserve(ledger, "run-1")
    intend(ledger)
    clock.now += 2 * DAY
    assert ledger.spent() == epsilon_of(ROUND)
    with pytest.raises(LedgerError, match="expired"):
        commit(ledger, "run-1", 1)
    with pytest.raises(LedgerError, match="never refunded"):
        ledger.refund("run-1")
    ledger.close("run-1", "failed")
    assert ledger.spent() == epsilon_of(ROUND)


def test_each_entry_of_a_run_renews_its_reservation(ledger: Ledger, clock: Clock) -> None:
    reserve(ledger, "run-1")
    for number in range(1, 5):
        clock.now += DAY - timedelta(minutes=1)
        intend(ledger, "run-1", number)
        clock.now += DAY - timedelta(minutes=1)
        commit(ledger, "run-1", number)
    assert ledger.spent() == epsilon_of(*BOTH)


def test_what_expired_makes_room_and_no_clock_brings_it_back(path: Path, clock: Clock) -> None:
    cap = Cap.of(8.0, DELTA)
    ledger, only_one = make(path, clock=clock), release_that_fits(1, cap)
    reserve(ledger, "run-1", [only_one])
    with pytest.raises(BudgetExceeded):
        reserve(ledger, "run-2", [only_one])
    clock.now += 2 * DAY
    reserve(ledger, "run-2", [only_one])
    clock.now = START + timedelta(hours=1)
    assert ledger.state().now > START + DAY  # the newest entry's time holds
    with pytest.raises(LedgerError, match=r"expired|clock"):
        intend(ledger, "run-1", 1, only_one)
    assert ledger.used() <= 1


def test_the_time_that_decides_is_the_time_that_is_written(path: Path) -> None:
    """Else an intent in time could be written as one that came too late, and spoil the file."""

    class Leaping(Clock):
        def __call__(self) -> datetime:
            self.now += timedelta(hours=20)
            return self.now

    ledger = make(path, clock=Leaping())
    reserve(ledger, "run-1", valid_for=timedelta(hours=30))
    intend(ledger)
    assert [one.kind for one in ledger.entries()] == ["open", "reserve", "intent"]
    ledger.verify()


@pytest.mark.parametrize("wrong", [timedelta(0), timedelta(seconds=-1), timedelta(days=367)])
def test_a_reservation_is_for_a_time_that_ends(ledger: Ledger, wrong: timedelta) -> None:
    with pytest.raises(PrivacyError, match="valid for up to"):
        reserve(ledger, "run-1", valid_for=wrong)
    assert not ledger.has_run("run-1")


# Limits ------------------------------------------------------------------------------------------

ONE = epsilon_of(*BOTH)


def test_a_limit_is_for_its_purpose_only_and_the_refusal_names_it(ledger: Ledger) -> None:
    limits = [Limit("little marketing", 1.1 * ONE, purpose="marketing")]
    reserve(ledger, "run-1", purpose="marketing", limits=limits)
    before = ledger.head()
    with pytest.raises(BudgetExceeded, match="limit little marketing of epsilon"):
        reserve(ledger, "run-2", purpose="marketing", limits=limits)
    assert ledger.head() == before
    reserve(ledger, "run-3", purpose="retention", limits=limits)


def test_a_limit_is_for_its_plan_only(ledger: Ledger) -> None:
    limits = [Limit("churn once", 1.1 * ONE, plan="churn")]
    reserve(ledger, "run-1", plan="propensity", limits=limits)
    reserve(ledger, "run-2", plan="churn", limits=limits)
    with pytest.raises(BudgetExceeded, match="churn once"):
        reserve(ledger, "run-3", plan="churn", limits=limits)


def test_a_limit_counts_what_runs_are_charged_not_what_they_had_reserved(ledger: Ledger) -> None:
    limits = [Limit("one", 1.1 * ONE)]
    reserve(ledger, "run-1", limits=limits)
    intend(ledger, "run-1", 1, TRAINING.split(1))
    with pytest.raises(BudgetExceeded, match="limit one"):
        reserve(ledger, "run-2", limits=limits)
    ledger.close("run-1", "failed")
    reserve(ledger, "run-2", limits=limits)


def test_a_window_begins_anew_and_the_lifetime_budget_does_not(path: Path, clock: Clock) -> None:
    clock.now = datetime(2024, 1, 31, 23, 59, 50, tzinfo=UTC)
    ledger, limits = make(path, cap=1.8 * ONE, clock=clock), [Limit("m", 1.1 * ONE, window="month")]
    reserve(ledger, "january", limits=limits, valid_for=300 * DAY)
    with pytest.raises(BudgetExceeded, match="limit m"):
        reserve(ledger, "too-much", limits=limits)
    clock.now += timedelta(seconds=10)
    reserve(ledger, "february", limits=limits, valid_for=300 * DAY)
    clock.now += 40 * DAY
    with pytest.raises(BudgetExceeded, match="lifetime budget"):
        reserve(ledger, "march", limits=limits)


# How many more -----------------------------------------------------------------------------------


def told(ledger: Ledger, limits: list[Limit]) -> int:
    return ledger.runs_left(BOTH, purpose="retention", plan="churn", limits=limits)


def granted(ledger: Ledger, limits: list[Limit]) -> int:
    """Reserve until the ledger refuses, each run finishing with all that it reserved."""
    for count in range(100):
        run = f"more-{count}"
        try:
            reserve(ledger, run, limits=limits)
        except BudgetExceeded:
            return count
        for number in range(1, 9):
            intend(ledger, run, number)
        intend(ledger, run, 9, RELEASE)
        ledger.close(run, "finished")
    raise AssertionError("no end")


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ([], 14),
        ([Limit("of another purpose", 0.1, purpose="marketing")], 14),
        ([Limit("wide", 6.0), Limit("narrow", 2.2 * ONE, plan="churn", window="month")], 3),
        ([Limit("one more", 2.5, purpose="retention")], 1),
        ([Limit("none", 0.5)], 0),
    ],
)
def test_runs_left_is_what_the_ledger_grants(
    ledger: Ledger, limits: list[Limit], left: int
) -> None:
    reserve(ledger, "before")
    intend(ledger, "before", 1)
    assert told(ledger, limits) == left
    assert granted(ledger, limits) == left
    assert told(ledger, limits) == 0


def test_runs_left_never_says_more_than_a_failing_run_leaves(ledger: Ledger) -> None:
    before = told(ledger, [])
    reserve(ledger, "failing")
    intend(ledger, "failing", 1)
    ledger.close("failing", "failed")
    assert before - 1 <= told(ledger, []) <= before
