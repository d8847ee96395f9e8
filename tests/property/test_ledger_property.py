"""Whatever happens in whatever order: the cap holds, and a changed byte is found."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from privacy.errors import BudgetExceeded, LedgerError
from privacy.ledger import Ledger
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian

CAP = 6.0
RUNS = st.sampled_from([f"run-{number}" for number in range(6)])
ROUNDS = st.integers(1, 3)


def simple_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """A cost that a test can follow; the ledger does not care which one it is given."""
    return sum(
        one.steps * one.sample_rate
        if isinstance(one, SampledGaussian)
        else 1 / one.noise_multiplier
        for one in mechanisms
    )


MECHANISMS = st.lists(
    st.one_of(
        st.builds(SampledGaussian, st.just(0.25), st.just(1.0), st.integers(1, 8)),
        st.builds(Gaussian, st.sampled_from([0.5, 1.0, 2.0])),
    ),
    min_size=1,
    max_size=3,
)


class LedgerMachine(RuleBasedStateMachine):
    """Follows what was granted and touched, outside the ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.jsonl"
        Ledger.create(self.path, party="p", cap_epsilon=CAP, cap_delta=1e-5, code_version="0")
        self.granted: dict[str, float] = {}
        self.touched: set[str] = set()

    def teardown(self) -> None:
        self.folder.cleanup()

    def ledger(self) -> Ledger:
        return Ledger(self.path, epsilon=simple_epsilon)

    @rule(run=RUNS, mechanisms=MECHANISMS)
    def reserve(self, run: str, mechanisms: list[Mechanism]) -> None:
        with suppress(BudgetExceeded, LedgerError):
            self.ledger().reserve(run, plan_digest="d", purpose="p", mechanisms=mechanisms)
            assert run not in self.granted
            self.granted[run] = simple_epsilon(mechanisms, 1e-5)

    @rule(run=RUNS, number=ROUNDS, mechanisms=MECHANISMS)
    def intent(self, run: str, number: int, mechanisms: list[Mechanism]) -> None:
        with suppress(BudgetExceeded, LedgerError):
            self.ledger().intent(run, number, mechanisms[0])
            self.touched.add(run)

    @rule(run=RUNS, number=ROUNDS)
    def commit(self, run: str, number: int) -> None:
        with suppress(LedgerError):
            self.ledger().commit(run, number)
            assert run in self.touched

    @rule(run=RUNS)
    def refund(self, run: str) -> None:
        with suppress(LedgerError):
            self.ledger().refund(run)
            assert run not in self.touched
            self.granted[run] = 0.0

    @rule(run=RUNS, outcome=st.sampled_from(["finished", "failed"]))
    def close(self, run: str, outcome: str) -> None:
        with suppress(LedgerError):
            self.ledger().close(run, outcome)  # type: ignore[arg-type]

    @precondition(lambda self: self.path.stat().st_size > 500)
    @rule(cut=st.integers(1, 400))
    def crash_in_the_middle_of_an_unacknowledged_write(self, cut: int) -> None:
        """A copy of the last line, as far as it came: what a crash while appending leaves."""
        data = self.path.read_bytes()
        if data.endswith(b"\n"):
            last = data.splitlines()[-1]
            with self.path.open("ab") as file:
                file.write(last[: min(cut, len(last) - 1)])

    @invariant()
    def the_cap_holds_and_nothing_is_under_counted(self) -> None:
        spent = self.ledger().spent()
        assert spent >= sum(self.granted.values()) - 1e-9


class NoCrashMachine(LedgerMachine):
    """Without crashes the spend is exactly what was granted, and never above the cap.

    One ledger stays open here, as in the party service; above, each step opens its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept = Ledger(self.path, epsilon=simple_epsilon)

    def ledger(self) -> Ledger:
        return self.kept

    crash_in_the_middle_of_an_unacknowledged_write = None  # type: ignore[assignment]

    @invariant()
    def the_spend_is_exact_and_within_the_cap(self) -> None:
        spent = self.ledger().spent()
        assert spent <= CAP
        assert spent == pytest.approx(sum(self.granted.values()))
        assert Ledger(self.path).verify() == self.kept.verify()


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
NoCrashMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLedgerWithCrashes = LedgerMachine.TestCase
TestLedgerWithoutCrashes = NoCrashMachine.TestCase


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with every kind of entry, a sealed interrupted line among them."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    Ledger.create(path, party="p", cap_epsilon=CAP, cap_delta=1e-5, code_version="0")
    ledger = Ledger(path, epsilon=simple_epsilon)
    training = SampledGaussian(0.25, 1.0, 4)
    ledger.reserve("a", plan_digest="d", purpose="p", mechanisms=[training])
    ledger.refund("a")
    ledger.reserve("b", plan_digest="d", purpose="p", mechanisms=[training])
    with path.open("ab") as file:
        file.write(b'{"body":{"mechanism":')
    ledger.intent("b", 1, training.split(2))
    ledger.commit("b", 1)
    ledger.close("b", "failed")
    ledger.amend(cap_epsilon=CAP + 1, cap_delta=1e-6)
    kinds = {entry.kind for entry in ledger.entries()}
    assert kinds == {
        "open", "amend", "reserve", "refund", "intent", "commit", "close", "torn"
    }  # fmt: skip
    ledger.verify()
    return path


@given(data=st.data(), mask=st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_is_found(written: Path, data: st.DataObject, mask: int) -> None:
    content = bytearray(written.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= mask
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "ledger.jsonl"
        copy.touch(0o600)
        copy.write_bytes(content)
        with pytest.raises(LedgerError, match="line "):
            Ledger(copy, epsilon=simple_epsilon).verify()
