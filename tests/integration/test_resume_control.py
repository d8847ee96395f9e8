"""The control plane takes up a run whose process is gone: when, how often, and when no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from coordinator.checkpoints import Answered, Measured
from coordinator.control import ConnectedNode, ControlPlane, Identity
from coordinator.member_store import MemberStore
from coordinator.recovery import due, is_gone, this_process
from coordinator.run_store import RunStore
from coordinator.tables import runs
from privacy.errors import NotRunningError, RunError, RunInterrupted, RunStopped
from privacy.framing import Attached
from privacy.hosting.database import utc_now
from tests.unit.test_run_store import PLAN

RUN = "run-1"
MOST = 2


@dataclass
class Flower:
    """What executes runs. `away`: it does not answer; `refuses`: it starts none."""

    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    away: bool = False
    refuses: bool = False

    def register_node(self, public_key: str, name: str) -> None:
        raise AssertionError

    def unregister_node(self, public_key: str) -> None:
        raise AssertionError

    def nodes(self) -> Sequence[ConnectedNode]:
        raise AssertionError

    def start_run(self, run_id: str) -> str:
        self._answer()
        if self.refuses:
            raise RunError("the SuperLink refused")
        self.started.append(f"flower-{len(self.started) + 1}")
        return self.started[-1]

    def stop_run(self, flower_run_id: str) -> None:
        self._answer()
        self.stopped.append(flower_run_id)

    def has_ended(self, flower_run_id: str) -> bool:
        self._answer()
        return flower_run_id in self.ended

    def _answer(self) -> None:
        if self.away:
            raise NotRunningError("the SuperLink does not answer")


@dataclass
class Plane:
    """A control plane whose run was begun by `flower-1`, and answered by one party."""

    control: ControlPlane
    flower: Flower

    @property
    def store(self) -> RunStore:
        return self.control.runs

    def claim(self) -> int:
        """The newest Flower run's process comes and says so."""
        attempt = self.store.claim(RUN, self.flower.started[-1], "")
        assert attempt is not None
        return attempt

    def progress(self, attempt: int) -> None:
        recorder = self.store.recorder(RUN, attempt)
        recorder.load()
        recorder.phase("preflight", None, 8)
        entry = Answered(b"a" * 32, Attached(0, b""), {"bank": b"yes"}, (), ())
        recorder.answered(entry, b"", Measured("preflight", None, 1.0, {}, {}))

    def die(self) -> None:
        """The newest Flower run ends, and nobody says why."""
        self.flower.ended.add(self.flower.started[-1])

    def later(self) -> None:
        """The wait before the next attempt is over."""
        with self.store._engine.begin() as connection:
            connection.execute(update(runs).values(attempt_at=utc_now() - timedelta(hours=1)))


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    url = f"sqlite:///{tmp_path / 'coordinator.db'}"
    flower = Flower()
    identity = Identity("demo", "https://127.0.0.1:1", "127.0.0.1:2", "", b"k" * 32)
    members, store = MemberStore(url, b"k" * 32), RunStore(url)
    control = ControlPlane(identity, members, store, flower, timedelta(hours=1), MOST)
    store.create_run(RUN, PLAN, b"p" * 32, b"s" * 64)
    store.attach_flower_run(RUN, flower.start_run(RUN))
    made = Plane(control, flower)
    made.progress(made.claim())
    yield made
    store.close()
    members.close()


def test_a_run_whose_process_died_is_taken_up_at_once(plane: Plane) -> None:
    plane.control.reconcile()
    assert plane.flower.started == ["flower-1"]
    plane.die()
    plane.control.reconcile()
    record = plane.store.get(RUN)
    assert (record.state, record.attempt, record.flower_run_id) == ("recovering", 2, "flower-2")
    assert record.active
    plane.control.reconcile()
    assert plane.flower.started == ["flower-1", "flower-2"]
    assert plane.store.claim(RUN, "flower-2", "") == 2
    # The first one is not quite dead: it is told to end, and cannot write.
    assert plane.store.claim(RUN, "flower-1", "") is None
    with pytest.raises(RunInterrupted):
        plane.store.recorder(RUN, 1).metric("auc", 0.5)


def test_a_run_that_gets_no_further_waits_longer_each_time_and_ends(plane: Plane) -> None:
    for attempt in range(2, 2 + MOST):
        plane.die()
        plane.control.reconcile()
        if attempt > 2:  # not at once any more
            assert plane.store.get(RUN).attempt == attempt - 1
            assert plane.store.get(RUN).state == "recovering"
            plane.later()
            plane.control.reconcile()
        assert plane.claim() == attempt
        plane.store.interrupted(RUN, attempt, "the SuperLink failed an exchange")
    plane.die()
    plane.later()
    plane.control.reconcile()
    record = plane.store.get(RUN)
    assert (record.state, record.error) == ("failed", "RunError")
    assert "cut short" in str(record.message)
    assert f"taken up {MOST} times" in str(record.message)
    assert "the SuperLink failed an exchange" in str(record.message)
    assert plane.store.heard_last(RUN) == frozenset()
    assert len(plane.flower.started) == 1 + MOST


def test_a_run_that_gets_further_each_time_may_be_taken_up_without_end(plane: Plane) -> None:
    for attempt in range(2, 6 + MOST):
        plane.die()
        plane.control.reconcile()
        assert plane.claim() == attempt
        plane.progress(attempt)
        assert plane.store.get(RUN).stalled == 0
    assert plane.store.get(RUN).active


def test_the_waits_double_and_have_an_end(plane: Plane) -> None:
    record, waits = plane.store.get(RUN), []
    for stalled in range(12):
        with plane.store._engine.begin() as connection:
            connection.execute(update(runs).values(stalled=stalled, attempt_at=utc_now()))
        record = plane.store.get(RUN)
        assert record.attempt_at is not None
        waits.append(
            next(
                seconds
                for seconds in (0, 5, 10, 20, 40, 80, 160, 300)
                if due(record, record.attempt_at + timedelta(seconds=seconds))
            )
        )
    assert waits == [0, 5, 10, 20, 40, 80, 160, 300, 300, 300, 300, 300]


def test_while_the_superlink_is_away_nothing_is_counted(plane: Plane) -> None:
    plane.die()
    plane.flower.away = True
    for _ in range(2 * MOST):
        with pytest.raises(NotRunningError):
            plane.control.reconcile()
    assert (plane.store.get(RUN).attempt, plane.store.get(RUN).stalled) == (1, 0)
    plane.flower.away = False
    plane.control.reconcile()
    assert plane.store.get(RUN).attempt == 2


def test_a_superlink_that_refuses_to_start_it_counts(plane: Plane) -> None:
    plane.die()
    plane.flower.refuses = True
    for _ in range(MOST + 1):
        plane.later()
        plane.control.reconcile()
    assert plane.store.get(RUN).state == "failed"
    assert "the SuperLink refused" in str(plane.store.get(RUN).message)


def test_a_stop_while_it_recovers_is_told_to_the_parties_by_one_more_attempt(plane: Plane) -> None:
    plane.die()
    plane.control.reconcile()
    plane.claim()
    assert plane.control.stop(RUN, force=False).state == "recovering"
    plane.die()
    plane.control.reconcile()  # and it does not wait
    assert plane.claim() == 3
    assert plane.store.fail(RUN, RunStopped("an operator stopped the run"), 3)
    with pytest.raises(RunError, match="already ended"):
        plane.control.stop(RUN, force=False)


def test_a_stop_that_nobody_can_tell_any_more_ends_the_run(plane: Plane) -> None:
    plane.control.stop(RUN, force=False)
    for _ in range(MOST + 1):
        plane.die()
        plane.control.reconcile()
    assert plane.store.get(RUN).state == "stopped"


def test_a_stop_before_any_party_was_asked_ends_the_run(plane: Plane) -> None:
    plane.store.fail(RUN, RunError("over"))
    plane.store.create_run("run-2", PLAN, b"p" * 32, b"t" * 64)
    plane.store.attach_flower_run("run-2", plane.flower.start_run("run-2"))
    plane.control.stop("run-2", force=False)
    plane.die()
    plane.control.reconcile()
    assert plane.store.get("run-2").state == "stopped"
    assert len(plane.flower.started) == 2


def test_a_forced_stop_ends_a_run_that_recovers_at_once(plane: Plane) -> None:
    plane.die()
    plane.control.reconcile()
    assert plane.control.stop(RUN, force=True).state == "stopped"
    assert plane.flower.stopped == ["flower-2"]
    with pytest.raises(RunInterrupted, match="is over"):
        plane.store.claim(RUN, "flower-2", "")
    plane.control.reconcile()
    assert len(plane.flower.started) == 2


def test_a_run_of_a_version_without_checkpoints_is_cut_short(plane: Plane) -> None:
    with plane.store._engine.begin() as connection:
        connection.execute(update(runs).values(attempt=0))
    plane.die()
    plane.control.reconcile()
    assert plane.store.get(RUN).state == "failed"
    assert plane.flower.started == ["flower-1"]


def test_a_run_that_was_never_handed_over_does_not_hold_the_next_one_up_for_ever(
    plane: Plane,
) -> None:
    plane.store.fail(RUN, RunError("over"))
    plane.store.create_run("run-2", PLAN, b"p" * 32, b"t" * 64)
    plane.control.reconcile()
    assert plane.store.get("run-2").active  # it is being handed over
    with plane.store._engine.begin() as connection:
        connection.execute(update(runs).values(created_at=utc_now() - timedelta(minutes=3)))
    plane.control.reconcile()
    record = plane.store.get("run-2")
    assert (record.state, plane.flower.started) == ("failed", ["flower-1"])
    assert "never started" in str(record.message)


def test_a_dead_process_of_this_machine_is_known_before_flower_knows_it(plane: Plane) -> None:
    script = "from coordinator.recovery import this_process; print(this_process())"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert plane.store.claim(RUN, "flower-1", ended.stdout.strip()) == 1
    plane.control.reconcile()
    assert (plane.store.get(RUN).attempt, plane.flower.stopped) == (2, ["flower-1"])
    assert plane.store.get(RUN).process is None


def test_only_a_process_that_is_certainly_gone_counts_as_gone() -> None:
    own = json.loads(this_process())
    assert own["pid"] == os.getpid()
    assert not is_gone(this_process())
    dead = own | {"started": own["started"] - 1}
    assert is_gone(json.dumps(dead))
    for other in ({"boot": "another"}, {"space": "another container"}):
        assert not is_gone(json.dumps(dead | other))
    for nothing in (None, "", "{}", "[]", '{"pid": "x"}'):
        assert not is_gone(nothing)
