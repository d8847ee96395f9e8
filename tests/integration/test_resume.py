"""A run survives its coordinator's death at every step: same model, same spends, nothing twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from coordinator.channel import Channel
from coordinator.checkpoint_tables import checkpoint_attachments, checkpoints
from coordinator.checkpoints import entry_to_bytes
from coordinator.rounds import RunOutcome, run
from privacy.errors import (
    CohortError,
    PartyTimeout,
    RunError,
    RunInterrupted,
    RunStopped,
    StoreError,
)
from simulations.homes import Federation

from .conftest import PLAN, LocalRun, changed, repeatable
from .resuming import RUN, Coordinator, Killed, Life, ledger_of

FOREVER = 10**9
PLANS = {
    "single opening": PLAN + b"\n[aggregation]\nsingle_opening = true\n",
    "noised weights": changed(PLAN, "evaluation_epsilon = 1.0", "evaluation_epsilon = 0.5")
    + b'\n[aggregation]\nweights = "noised_size"\n',
}
# All three must be there: one that is lost is waited for.
WAITS = PLAN + b"\n[cohort]\npause_minutes = 60\n"

Make = Callable[..., Coordinator]


@pytest.fixture
def coordinator_of(market_template: tuple[Path, Federation], tmp_path: Path) -> Iterator[Make]:
    """Federations alike, with the same randomness, each with a coordinator and a stored run."""
    made: list[Coordinator] = []

    def make(plan: bytes = PLAN, url: str | None = None) -> Coordinator:
        source, template = market_template
        folder = tmp_path / f"copy-{len(made)}"
        shutil.copytree(source, folder)
        homes = {party: folder / party for party in template.homes}
        federation = Federation(homes, template.coordinator, template.requester, template.members)
        local = LocalRun(federation, entropy=repeatable)
        made.append(Coordinator(local, url or f"sqlite:///{folder}.db", plan))
        made[-1].create()
        return made[-1]

    yield make
    for one in made:
        one.close()


def digests(coordinator: Coordinator) -> set[str]:
    homes = coordinator.local.federation.homes.values()
    reports = [json.loads((home / "reports" / f"{RUN}.json").read_text()) for home in homes]
    return {one["model_digest"] for one in reports}


def assert_alike(
    undisturbed: Coordinator, whole: RunOutcome, killed: Coordinator, taken_up: RunOutcome
) -> None:
    assert taken_up.evaluation == whole.evaluation
    assert taken_up.auc == whole.auc
    assert (taken_up.left, taken_up.returned) == (whole.left, whole.returned)
    assert digests(killed) == digests(undisturbed)
    assert killed.record() == undisturbed.record()
    for party in undisturbed.local.federation.homes:
        assert ledger_of(killed.local, party) == ledger_of(undisturbed.local, party)
        spent = [one.local.service(party).node.ledger.spent() for one in (killed, undisturbed)]
        assert spent[0] == spent[1]
    assert (killed.state(), killed.left_over()) == ("finished", 0)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_killed_at_every_step_a_run_ends_as_if_nothing_had_happened(
    coordinator_of: Make, plan: bytes
) -> None:
    undisturbed, killed = coordinator_of(plan), coordinator_of(plan)
    whole = undisturbed.attempt(Life(FOREVER))
    taken_up = killed.conduct()
    assert_alike(undisturbed, whole, killed, taken_up)
    assert killed.attempts > 5 * len(undisturbed.record()["exchanges"])
    # What was asked twice was asked byte for byte, and what was heard was not asked again.
    frames = {one[3] for one in undisturbed.sent}
    assert len({one[3] for one in killed.sent}) == len(frames)
    assert len(killed.sent) > len(undisturbed.sent)


@dataclass
class Absent:
    """The bank misses a message of round 2, perhaps by a restart, and the first call back."""

    coordinator: Coordinator
    loses: str
    restarts: bool = False

    def __call__(self, party: str, kind: str, number: int, attempt: int) -> str:
        if party != "bank":
            return "nothing"
        if (kind, number, attempt) == ("train-round", 2, 1):
            if self.restarts:
                self.coordinator.local.restart("bank")
                self.restarts = False
            return self.loses
        phases = [one[0] for one in self.coordinator.record()["exchanges"]]
        return "request" if kind == "regroup" and phases.count("return") < 1 else "nothing"


@pytest.mark.parametrize(
    ("loses", "restarts"), [("reply", False), ("request", True)], ids=["line", "restart"]
)
def test_killed_at_every_step_of_a_pause_and_a_return_it_ends_as_if_nothing_had_happened(
    coordinator_of: Make, loses: str, restarts: bool
) -> None:
    undisturbed, killed = coordinator_of(WAITS), coordinator_of(WAITS)
    for one in (undisturbed, killed):
        one.loses = Absent(one, loses, restarts)
    whole = undisturbed.attempt(Life(FOREVER))
    assert whole.returned == {"bank": "round 2"}
    assert_alike(undisturbed, whole, killed, killed.conduct())


def test_it_is_the_same_on_postgresql(coordinator_of: Make, postgresql_url: str) -> None:
    undisturbed, killed = coordinator_of(), coordinator_of(url=postgresql_url)
    whole = undisturbed.attempt(Life(FOREVER))
    for steps in (7, 12, 17, 25):
        with pytest.raises(Killed):
            killed.attempt(Life(steps))
    assert_alike(undisturbed, whole, killed, killed.attempt(Life(FOREVER)))


def die_after(coordinator: Coordinator, exchanges: int) -> None:
    """Processes that die one step later each, until so many exchanges are answered."""
    steps = 0
    while coordinator.heard() < exchanges:
        with pytest.raises(Killed):
            coordinator.attempt(Life(steps))
        steps += 1


def test_what_is_kept_is_ciphertext_that_is_still_needed_and_goes_with_the_run(
    coordinator_of: Make,
) -> None:
    coordinator = coordinator_of()
    # Preflight, seals, confirmations, round 1 and round 2.
    die_after(coordinator, 5)
    assert coordinator.count(checkpoint_attachments) == 2
    coordinator.store.fail(RUN, RunStopped("by force"))
    assert coordinator.left_over() == 0


def test_a_process_that_was_replaced_can_neither_write_nor_end_the_run(
    coordinator_of: Make,
) -> None:
    coordinator = coordinator_of()
    die_after(coordinator, 3)
    store, attempt = coordinator.store, coordinator.attempts

    @dataclass
    class Replaced:
        """While the old process waits for answers, the run is taken up by another one."""

        channel: Channel

        def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            replies = self.channel.exchange(frames, timeout_s)
            if coordinator.state() != "finished":
                coordinator.attempt(Life(FOREVER))
            return replies

    request, signer = store.load_request(RUN), coordinator.local.federation.coordinator
    zombie = store.recorder(RUN, attempt)
    with pytest.raises(RunError, match="ended from outside"):
        run(request, Replaced(coordinator.local.channel()), signer, zombie, zombie)
    before = coordinator.record()
    with pytest.raises(RunError, match="ended from outside"):
        store.recorder(RUN, attempt).metric("auc", 0.0)
    assert not store.fail(RUN, RunError("late"), attempt)
    with pytest.raises(StoreError):
        store.finish(RUN, {}, attempt)
    assert coordinator.record() == before
    assert coordinator.state() == "finished"
    assert (len(digests(coordinator)), len(before["metrics"])) == (1, 3)


def test_while_another_process_conducts_the_run_an_old_one_is_interrupted(
    coordinator_of: Make,
) -> None:
    coordinator = coordinator_of()
    with pytest.raises(Killed):
        coordinator.attempt(Life(12))
    old = coordinator.store.recorder(RUN, 1)
    assert coordinator.store.begin_attempt(RUN, 1, "flower-2")
    assert not coordinator.store.begin_attempt(RUN, 1, "flower-3")
    with pytest.raises(RunInterrupted, match="another process"):
        old.phase("round", 2, 2)
    assert not coordinator.store.fail(RUN, RunError("late"), 1)
    assert not coordinator.store.interrupted(RUN, 1, "late")
    assert coordinator.state() == "recovering"


def test_a_stop_that_is_asked_for_while_nobody_conducts_the_run_is_told_to_the_parties(
    coordinator_of: Make,
) -> None:
    coordinator = coordinator_of()
    die_after(coordinator, 3)
    coordinator.store.request_stop(RUN)
    sent = len(coordinator.sent)
    with pytest.raises(RunStopped):
        coordinator.attempt(Life(FOREVER))
    assert [one[1] for one in coordinator.sent[sent:]] == ["abort"] * 3
    for party in coordinator.local.federation.homes:
        # No round had begun: what was reserved is free again.
        assert coordinator.local.service(party).node.ledger.state().runs[RUN].state == "refunded"
    assert (coordinator.state(), coordinator.left_over()) == ("stopped", 0)


def test_a_run_that_its_parties_gave_up_meanwhile_ends_with_what_they_say(
    coordinator_of: Make,
) -> None:
    coordinator = coordinator_of(PLAN + b"\n[cohort]\npause_minutes = 0\n")
    die_after(coordinator, 4)
    coordinator.local.run(PLAN, "run-2")
    with pytest.raises(CohortError, match="refused"):
        coordinator.attempt(Life(FOREVER))
    assert (coordinator.state(), coordinator.left_over()) == ("failed", 0)


def test_parties_that_were_restarted_meanwhile_come_back_to_the_run(coordinator_of: Make) -> None:
    coordinator = coordinator_of(WAITS)
    die_after(coordinator, 4)
    for party in coordinator.local.federation.homes:
        coordinator.local.restart(party)
    outcome = coordinator.attempt(Life(FOREVER))
    assert set(outcome.returned) == set(coordinator.local.federation.homes)
    assert (len(digests(coordinator)), coordinator.state()) == (1, "finished")


def test_a_pause_whose_time_ran_out_while_nobody_asked_asks_once_more(
    coordinator_of: Make,
) -> None:
    coordinator = coordinator_of(PLAN + b"\n[cohort]\npause_minutes = 0\n")

    def away(party: str, kind: str, number: int, attempt: int) -> str:
        missed = (kind, number, attempt) == ("train-round", 2, 1) or (calls and kind == "regroup")
        return "request" if party == "bank" and missed else "nothing"

    calls = True
    coordinator.loses = away
    # Preflight, seals, confirmations, two rounds, a call in vain, and the moment that the pause
    # ends, which is at once: killed before it decides that.
    die_after(coordinator, 7)
    calls = False
    assert coordinator.attempt(Life(FOREVER)).returned == {"bank": "round 2"}


def test_a_pause_whose_time_ran_out_ends_the_run_when_it_asked_once_more_in_vain(
    coordinator_of: Make,
) -> None:
    coordinator = coordinator_of(PLAN + b"\n[cohort]\npause_minutes = 0\n")
    coordinator.loses = lambda party, kind, number, attempt: (
        "request"
        if party == "bank" and (kind == "regroup" or (kind, number) == ("train-round", 2))
        else "nothing"
    )
    die_after(coordinator, 7)
    with pytest.raises(PartyTimeout, match="bank"):
        coordinator.attempt(Life(FOREVER))
    assert [one[0] for one in coordinator.record()["exchanges"]].count("return") == 2
    assert coordinator.state() == "failed"


@pytest.mark.parametrize("damage", ["another attachment", "no attachment", "another entry"])
def test_a_checkpoint_that_was_altered_is_found(coordinator_of: Make, damage: str) -> None:
    coordinator = coordinator_of()
    die_after(coordinator, 5)
    with coordinator.store._engine.begin() as connection:
        if damage == "another attachment":
            connection.execute(update(checkpoint_attachments).values(content=b"another"))
        elif damage == "no attachment":
            connection.execute(delete(checkpoint_attachments))
        else:
            entry = coordinator.store.recorder(RUN).load().entries[1]
            other = update(checkpoints).where(checkpoints.c.number == 1)
            connection.execute(other.values(content=entry_to_bytes(entry)))
    expected = RunError if damage == "another entry" else StoreError
    with pytest.raises(expected, match=r"checkpoint|taken up"):
        coordinator.attempt(Life(FOREVER))
