"""A ledger put back to an older copy: what its heads elsewhere show is charged, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from privacy import accounting
from privacy.budget import Cap, Limit
from privacy.errors import BudgetExceeded, LedgerError
from privacy.ledger import Ledger, LedgerPosition
from privacy.mechanism import Mechanism
from tests.ledgers import (
    BOTH,
    DAY,
    DELTA,
    RELEASE,
    ROUND,
    Clock,
    intend,
    make,
    release_that_fits,
    reserve,
)

Use = Callable[[Ledger], None]


def cost(*mechanisms: Mechanism) -> float:
    return Cap.of(8.0, DELTA).used(mechanisms)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(path: Path, clock: Clock) -> Ledger:
    return make(path, clock=clock)


def lost_after(path: Path, clock: Clock, before: Use, after: Use) -> tuple[Ledger, LedgerPosition]:
    """Do `before`, take a backup, do `after`, restore: the ledger then, and its last known head."""
    ledger = make(path, clock=clock)
    before(ledger)
    backup = path.read_bytes()
    after(ledger)
    known = ledger.position()
    path.write_bytes(backup)
    return Ledger(path, clock), known


def one_run(run: str) -> Use:
    def use(ledger: Ledger) -> None:
        reserve(ledger, run)
        intend(ledger, run)
        ledger.close(run, "failed")

    return use


def nothing(ledger: Ledger) -> None:
    """No entry."""


def test_a_position_counts_entries_and_tells_what_is_charged(ledger: Ledger) -> None:
    assert ledger.position().position == 1
    assert set(ledger.position().rdp) == {0.0}
    one_run("run-1")(ledger)
    at = ledger.position()
    assert (at.position, at.hash) == (len(ledger.entries()), ledger.head().hash)
    assert at.time == ledger.entries()[-1].time
    assert at.rdp == accounting.rdp([ROUND])


def test_a_ledger_contains_every_place_it_ever_had_and_no_other(ledger: Ledger) -> None:
    places = [ledger.position()]
    for run in ("run-1", "run-2"):
        one_run(run)(ledger)
        places.append(ledger.position())
    assert all(ledger.contains(one.position, one.hash) for one in places)
    assert not ledger.contains(places[1].position, places[2].hash)
    assert not ledger.contains(places[2].position + 1, places[2].hash)


def test_what_was_lost_is_charged_and_the_position_goes_on_above(path: Path, clock: Clock) -> None:
    ledger, known = lost_after(path, clock, one_run("run-1"), one_run("run-2"))
    assert not ledger.contains(known.position, known.hash)
    assert ledger.used() == cost(ROUND)
    ledger.charge_gap(known)
    assert ledger.used() == pytest.approx(cost(ROUND, ROUND), rel=1e-12)
    assert ledger.position().position == known.position + 1
    assert ledger.contains(known.position, known.hash)
    assert ledger.spent() >= accounting.epsilon([ROUND, ROUND], DELTA)
    ledger.verify()
    one_run("run-3")(ledger)
    assert ledger.position().position == known.position + 4


def test_a_gap_is_charged_once(path: Path, clock: Clock) -> None:
    ledger, known = lost_after(path, clock, nothing, one_run("run-2"))
    ledger.charge_gap(known)
    before = path.read_bytes()
    ledger.charge_gap(known)
    assert path.read_bytes() == before
    at = ledger.position()
    ledger.charge_gap(at)
    assert path.read_bytes() == before


def test_a_run_that_was_open_in_the_backup_is_charged_what_it_may_have_done(
    path: Path, clock: Clock
) -> None:
    """Its intents are lost. That the restored file ends it without any must not make it free."""

    def begin(ledger: Ledger) -> None:
        reserve(ledger, "run-1")

    def go_on(ledger: Ledger) -> None:
        for number in (1, 2, 3):
            intend(ledger, "run-1", number)

    ledger, known = lost_after(path, clock, begin, go_on)
    ledger.refund("run-1")
    assert ledger.used() == 0
    ledger.charge_gap(known)
    assert ledger.used() >= cost(ROUND, ROUND, ROUND)
    assert ledger.used() == cost(*BOTH)  # at the known head, all of the reservation was charged


def test_what_runs_after_the_restore_is_charged_besides(path: Path, clock: Clock) -> None:
    ledger, known = lost_after(path, clock, one_run("run-1"), one_run("run-2"))
    one_run("run-3")(ledger)
    ledger.charge_gap(known)
    assert ledger.used() == pytest.approx(cost(ROUND, ROUND, ROUND), rel=1e-12)


def test_a_ledger_lost_twice_is_charged_for_both_lives(path: Path, clock: Clock) -> None:
    """Two different histories after one backup; each left a head with another party."""
    ledger, first = lost_after(path, clock, nothing, one_run("run-1"))
    backup = path.read_bytes()
    one_run("run-2")(ledger)
    one_run("run-3")(ledger)
    second = ledger.position()
    path.write_bytes(backup)
    ledger = Ledger(path, clock)
    for known in (first, second):
        ledger.charge_gap(known)
    assert ledger.used() == pytest.approx(cost(ROUND, ROUND, ROUND), rel=1e-12)
    assert ledger.position().position > max(first.position, second.position)


def test_a_gap_in_the_backup_is_not_charged_again(path: Path, clock: Clock) -> None:
    ledger, known = lost_after(path, clock, nothing, one_run("run-1"))
    ledger.charge_gap(known)
    backup = path.read_bytes()
    one_run("run-2")(ledger)
    known = ledger.position()
    path.write_bytes(backup)
    ledger = Ledger(path, clock)
    ledger.charge_gap(known)
    assert ledger.used() == pytest.approx(cost(ROUND, ROUND), rel=1e-12)


def test_a_gap_stops_runs_like_any_spend_and_counts_towards_every_limit(
    path: Path, clock: Clock
) -> None:
    big = release_that_fits(1, Cap.of(8.0, DELTA))

    def use(ledger: Ledger) -> None:
        reserve(ledger, "run-1", [big])
        intend(ledger, "run-1", 1, big)

    ledger, known = lost_after(path, clock, nothing, use)
    limits = [Limit("little marketing", 3.0, purpose="marketing", window="month")]
    reserve(ledger, "fits", [RELEASE], purpose="marketing", limits=limits)
    ledger.charge_gap(known)
    with pytest.raises(BudgetExceeded, match="lifetime"):
        reserve(ledger, "run-2", [big])
    with pytest.raises(BudgetExceeded, match="little marketing"):
        reserve(ledger, "run-2", [RELEASE], purpose="marketing", limits=limits)
    reserve(ledger, "run-2", [RELEASE], purpose="retention", limits=limits)


@pytest.mark.parametrize(
    "wrong",
    [
        {"known_position": "9"},
        {"known_position": True},
        {"known_hash": 1},
        {"rdp": [0.1]},
        {"rdp": [-1.0] * len(accounting.ORDERS)},
        {"rdp": ["a"] * len(accounting.ORDERS)},
        {"rdp": None},
    ],
)
def test_a_gap_entry_of_another_form_is_refused(path: Path, wrong: dict[str, object]) -> None:
    ledger = make(path)
    good = {"known_position": 9, "known_hash": "0" * 64, "rdp": [0.1] * len(accounting.ORDERS)}
    with ledger._file.appending() as file:
        file.append("gap", {**good, **wrong})
    with pytest.raises(LedgerError, match="line 2: its fields"):
        ledger.state()


def test_a_known_place_of_the_future_is_charged_wholly(path: Path, clock: Clock) -> None:
    """The lost life's clock was ahead, so its time does not tell which entries it had."""
    ledger, known = lost_after(path, clock, one_run("run-1"), one_run("run-2"))
    one_run("run-3")(ledger)
    ledger.charge_gap(replace(known, time=clock.now + DAY))
    assert ledger.used() == pytest.approx(cost(ROUND, ROUND, ROUND, ROUND), rel=1e-12)
