"""Whatever happens in whatever order: the cap holds, the charge is exact, damage is found."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
)

from privacy import accounting
from privacy.budget import Cap
from privacy.errors import BudgetExceeded, LedgerError
from privacy.hash_chain import Chain
from privacy.ledger import Ledger
from privacy.ledger_replay import replay
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian
from tests.ledgers import DELTA, FROM, START, commit, intend, reserve

CAP = Cap.of(6.0, DELTA)
ROUNDS = st.integers(1, 3)
HOUR = timedelta(hours=1)


def divergence(mechanisms: list[Mechanism]) -> float:
    """What they cost at the cap's order, by hand: order / (2 sigma^2), as all sample every row."""
    total = 0.0
    for one in mechanisms:
        assert not isinstance(one, SampledGaussian) or one.sample_rate == 1
        steps = one.steps if isinstance(one, SampledGaussian) else 1
        total += steps * CAP.order / (2 * one.noise_multiplier**2)  # type: ignore[union-attr]
    return total


MECHANISMS = st.lists(
    st.one_of(
        st.builds(SampledGaussian, st.just(1.0), st.just(4.0), st.integers(1, 8)),
        st.builds(Gaussian, st.sampled_from([1.0, 2.0, 4.0])),
    ),
    min_size=1,
    max_size=3,
)


@dataclass
class Granted:
    """A run as someone sees it who only hears what the ledger accepts and refuses."""

    mechanisms: list[Mechanism]
    valid_for: timedelta
    newest: datetime
    begun: list[Mechanism] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)
    ended: bool = False
    doubtful: bool = False

    def lives(self, now: datetime) -> bool:
        return not self.ended and now <= self.newest + self.valid_for

    def charge(self, now: datetime) -> list[Mechanism]:
        return self.mechanisms if self.doubtful or self.lives(now) else self.begun


class LedgerMachine(RuleBasedStateMachine):
    """Follows what was granted and begun, outside the ledger. Each step opens the file anew."""

    runs: Bundle[str] = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.jsonl"
        self.now = self.newest = START
        Ledger.create(
            self.path,
            party="p",
            cap_epsilon=CAP.epsilon,
            cap_delta=CAP.delta,
            code_version="0",
            clock=self.clock,
        )
        self.granted: dict[str, Granted] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    def clock(self) -> datetime:
        return self.now

    def ledger(self) -> Ledger:
        return Ledger(self.path, self.clock)

    def accepted(self, run: str) -> Granted:
        """Called when the ledger has written an entry of `run`."""
        self.newest = self.now
        self.granted[run].newest = self.now
        return self.granted[run]

    @rule(target=runs, mechanisms=MECHANISMS, hours=st.sampled_from([1, 5, 48]))
    def reserve(self, mechanisms: list[Mechanism], hours: int) -> MultipleResults[str]:
        run = f"run-{len(self.granted)}"
        try:
            reserve(self.ledger(), run, mechanisms, valid_for=hours * HOUR)
        except (BudgetExceeded, LedgerError):
            return multiple()
        self.granted[run] = Granted(mechanisms, hours * HOUR, self.now)
        self.accepted(run)
        return multiple(run)

    @rule(run=runs, number=ROUNDS, steps=ROUNDS)
    def intent(self, run: str, number: int, steps: int) -> None:
        """Of the run's first mechanism, so that asking again soon asks for too much."""
        mechanism = self.granted[run].mechanisms[0]
        if isinstance(mechanism, SampledGaussian):
            mechanism = mechanism.split(steps)
        with suppress(BudgetExceeded, LedgerError):
            intend(self.ledger(), run, number, mechanism)
            assert self.now <= self.granted[run].newest + self.granted[run].valid_for
            self.accepted(run).begun.append(mechanism)

    @rule(run=runs, more=MECHANISMS)
    def extend(self, run: str, more: list[Mechanism]) -> None:
        with suppress(BudgetExceeded, LedgerError):
            self.ledger().extend(run, more)
            assert self.now <= self.granted[run].newest + self.granted[run].valid_for
            assert not self.granted[run].doubtful
            granted = self.accepted(run)
            granted.mechanisms = granted.mechanisms + more

    @rule(run=runs, number=ROUNDS, attempt=ROUNDS)
    def commit(self, run: str, number: int, attempt: int) -> None:
        with suppress(LedgerError):
            commit(self.ledger(), run, number, attempt)
            assert self.now <= self.granted[run].newest + self.granted[run].valid_for
            granted = self.accepted(run)
            assert granted.begun
            assert attempt > granted.attempts.get(number, 0)
            granted.attempts[number] = attempt

    @rule(run=runs, how=st.sampled_from(["refunded", "finished", "failed"]))
    def end(self, run: str, how: Literal["refunded", "finished", "failed"]) -> None:
        with suppress(LedgerError):
            if how == "refunded":
                self.ledger().refund(run)
                assert not self.granted[run].begun
            else:
                self.ledger().close(run, how)
            self.accepted(run).ended = True

    @rule(hours=st.sampled_from([1, 4, 30]))
    def time_passes(self, hours: int) -> None:
        self.now += hours * HOUR

    @rule(run=runs, hours=st.sampled_from([2, 50]))
    def nothing_is_written_while_the_clock_is_behind(self, run: str, hours: int) -> None:
        before, now = self.path.read_bytes(), self.now
        self.now = self.newest - hours * HOUR
        ledger = self.ledger()
        for use in (
            lambda: reserve(ledger, "of-the-past", [Gaussian(100.0)]),
            lambda: intend(ledger, run, 1, self.granted[run].mechanisms[-1]),
            lambda: ledger.close(run, "failed"),
        ):
            with pytest.raises((LedgerError, BudgetExceeded)):
                use()
        assert self.path.read_bytes() == before
        self.now = now

    @precondition(lambda self: self.path.stat().st_size > 500)
    @rule(cut=st.integers(1, 600))
    def crash_in_the_middle_of_an_unacknowledged_write(self, cut: int) -> None:
        """A copy of the last line, as far as it came: what a crash while appending leaves."""
        data = self.path.read_bytes()
        if data.endswith(b"\n"):
            last = data.splitlines()[-1]
            with self.path.open("ab") as file:
                file.write(last[: min(cut, len(last) - 1)])
            for run in self.granted.values():
                run.doubtful |= run.lives(self.newest)

    @invariant()
    def nothing_begins_beyond_its_reservation_or_the_cap(self) -> None:
        for run in self.granted.values():
            assert divergence(run.begun) <= divergence(run.mechanisms) + 1e-9
        begun = [one for run in self.granted.values() for one in run.begun]
        assert divergence(begun) <= CAP.allowance * (1 + 1e-12)

    @invariant()
    def nothing_is_under_counted(self) -> None:
        state = self.ledger().state()
        charged = divergence(state.charged())
        now = max(self.now, self.newest)
        known = [one for run in self.granted.values() for one in run.charge(now)]
        assert charged >= divergence(known) - 1e-9
        assert state.cap.used(state.charged()) == pytest.approx(charged / CAP.allowance)


class NoCrashMachine(LedgerMachine):
    """Without crashes the charge is exactly what was granted, and never above the cap.

    One ledger stays open here, as in the party service; above, each step opens its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept = Ledger(self.path, self.clock)

    def ledger(self) -> Ledger:
        return self.kept

    crash_in_the_middle_of_an_unacknowledged_write = None  # type: ignore[assignment]

    @invariant()
    def the_charge_is_exact_and_within_the_cap(self) -> None:
        now = max(self.now, self.newest)
        known = [one for run in self.granted.values() for one in run.charge(now)]
        assert self.kept.used() <= 1
        assert self.kept.used() == pytest.approx(divergence(known) / CAP.allowance)
        other = Ledger(self.path, self.clock)
        assert other.verify() == self.kept.verify()
        assert other.position() == self.kept.position()

    def teardown(self) -> None:
        """At every moment of the past, too: each reservation found room among what then counted."""
        entries = self.kept.entries()
        for number, entry in enumerate(entries, 1):
            state = replay(Chain(entries[:number]))
            assert state.now == entry.time
            assert state.cap.admits(state.charged())
        super().teardown()


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
NoCrashMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLedgerWithCrashes = LedgerMachine.TestCase
TestLedgerWithoutCrashes = NoCrashMachine.TestCase


# A restored backup -------------------------------------------------------------------------------

USES = st.lists(st.tuples(MECHANISMS, st.integers(0, 3), st.booleans()), max_size=4)
Uses = list[tuple[list[Mechanism], int, bool]]


def use(ledger: Ledger, name: str, uses: Uses) -> list[Mechanism]:
    """Runs that begin so many of their mechanisms and then end, or stay open. What has begun."""
    begun: list[Mechanism] = []
    for number, (mechanisms, count, ends) in enumerate(uses):
        run = f"{name}-{number}"
        with suppress(BudgetExceeded):
            reserve(ledger, run, mechanisms)
            for step, mechanism in enumerate(mechanisms[:count]):
                intend(ledger, run, step, mechanism)
                begun.append(mechanism)
            if ends:
                ledger.close(run, "failed")
    return begun


@given(before=USES, lost=USES, after=USES, later=USES)
@settings(max_examples=60, deadline=None)
def test_a_restored_ledger_charges_all_that_ever_began(
    before: Uses, lost: Uses, after: Uses, later: Uses
) -> None:
    now = [START]

    def clock() -> datetime:
        now[0] += timedelta(seconds=1)
        return now[0]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        ledger = Ledger.create(
            path, party="p", cap_epsilon=6.0, cap_delta=DELTA, code_version="0", clock=clock
        )
        begun = use(ledger, "before", before)
        backup = path.read_bytes()
        still_open = [one for one in ledger.state().runs if ledger.state().runs[one].open(now[0])]
        begun += use(ledger, "lost", lost)
        for run in still_open:  # and runs of before went on, in entries that are lost
            for step, mechanism in enumerate(ledger.state().runs[run].left):
                intend(ledger, run, 10 + step, mechanism)
                begun.append(mechanism)
        known = ledger.position()
        path.write_bytes(backup)
        ledger = Ledger(path, clock)
        for run in still_open:
            ledger.close(run, "failed")
        begun += use(ledger, "after", after)
        if not ledger.contains(known.position, known.hash):
            ledger.charge_gap(known)
            assert ledger.position().position > known.position
        begun += use(ledger, "later", later)
        at = ledger.state().cap.order
        charged = accounting.rdp(ledger.state().charged())[accounting.ORDERS.index(at)]
        assert charged >= divergence(begun) - 1e-9
        ledger.verify()


# Changed bytes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with every kind of entry, a sealed interrupted line among them."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger = Ledger.create(path, party="p", cap_epsilon=6.0, cap_delta=DELTA, code_version="0")
    training = SampledGaussian(0.25, 1.0, 4)
    reserve(ledger, "a", [training])
    ledger.refund("a")
    reserve(ledger, "b", [training])
    ledger.extend("b", [Gaussian(100.0)])
    ledger.intent("b", 1, training.split(2), FROM)
    with path.open("ab") as file:
        file.write(b'{"body":{"mechanism":')
    commit(ledger, "b", 1)
    backup = path.read_bytes()
    ledger.close("b", "failed")
    known = ledger.position()
    path.write_bytes(backup)
    ledger = Ledger(path)
    ledger.close("b", "failed")
    ledger.charge_gap(known)
    ledger.amend(cap_epsilon=7.0, cap_delta=1e-6)
    kinds = {entry.kind for entry in ledger.entries()}
    assert kinds == {
        "open", "amend", "reserve", "extend", "refund", "intent", "commit", "close", "torn", "gap"
    }  # fmt: skip
    ledger.verify()
    return path


def refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "ledger.jsonl"
        copy.touch(0o600)
        copy.write_bytes(content)
        with pytest.raises(LedgerError, match="line "):
            Ledger(copy).verify()


@given(data=st.data(), mask=st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_is_found(written: Path, data: st.DataObject, mask: int) -> None:
    content = bytearray(written.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= mask
    refused(bytes(content))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_missing_moved_or_repeated_row_is_found(written: Path, data: st.DataObject) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    number = data.draw(st.integers(0, len(lines) - 2))  # a cut tail shows against a known head only
    other = data.draw(st.integers(0, len(lines) - 1).filter(lambda one: one != number))
    changes = {
        "missing": [*lines[:number], *lines[number + 1 :]],
        "repeated": [*lines[:number], lines[number], *lines[number:]],
        "moved": [lines[other if one == number else number if one == other else one]
                  for one in range(len(lines))],
    }  # fmt: skip
    refused(b"".join(changes[data.draw(st.sampled_from(sorted(changes)))]))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_cut_in_a_line_is_found(written: Path, data: st.DataObject) -> None:
    content = written.read_bytes()
    length = data.draw(st.integers(0, len(content) - 1).filter(lambda one: content[one - 1] != 10))
    refused(content[:length])
