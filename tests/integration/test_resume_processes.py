"""Real processes: the ServerApp, the SuperLink or the whole coordinator is killed in mid-run.

Every run ends as one that was left alone: each round once in every party's ledger, one model.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from coordinator.processes import SERVICE_NAME
from coordinator.run_store import RunRecord, RunStore
from coordinator.settings import load_settings as coordinator_settings
from coordinator.tables import metrics
from party_client.settings import load_settings
from privacy.hosting.database import reading
from privacy.hosting.processes import stat_fields
from privacy.ledger import Ledger
from simulations.demo import Command, _each, _set_up, _stop, market

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(900)]

PARTIES = ("bank", "ecommerce", "retailer")
ROUNDS = 4
PLAN = f"""
format = 1
name = "churn"
purpose = "marketing"
[task]
kind = "churn"
cutoff = 2024-12-31
[training]
rounds = {ROUNDS}
local_steps = 4
[privacy]
epsilon = 0.3
evaluation_epsilon = 0.3
[cohort]
pause_minutes = 10
[publication]
tags = ["churn_risk"]
"""
# After a restart of everything the parties' nodes connect again within half a minute.
PATIENCE_S = 300.0


@dataclass
class Deployed:
    """A coordinator and three parties, every role a process."""

    coordinator: Command
    nodes: dict[str, Command]
    plan: Path
    store: RunStore

    def submit(self) -> str:
        shown = self.coordinator("plan", "submit", str(self.plan), "--format", "json")
        found: str = json.loads(shown)["run_id"]
        return found

    def until(self, run_id: str, what: Callable[[RunRecord], bool]) -> RunRecord:
        deadline = time.monotonic() + PATIENCE_S
        while not what(record := self.store.get(run_id)):
            assert time.monotonic() < deadline, record
            time.sleep(0.05)
        return record

    def in_round_two(self, run_id: str) -> RunRecord:
        return self.until(run_id, lambda one: one.phase == "round" and (one.round or 0) >= 2)

    def pid(self, name: str) -> int:
        path = self.coordinator.home / "run" / f"{name}.pid"
        found: int = json.loads(path.read_text())["pid"]
        return found

    def family(self, root: int) -> set[int]:
        """The process and all that descend from it."""
        parents = {}
        for entry in Path("/proc").glob("[0-9]*"):
            fields = stat_fields(int(entry.name))
            if fields:
                parents[int(entry.name)] = int(fields[1])
        found = {root}
        while more := {one for one, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def ledgers(self, run_id: str) -> dict[str, list[tuple[str, int]]]:
        """What each party's ledger says of a run: its intents and commits, by round."""
        found = {}
        for party, node in self.nodes.items():
            ledger = Ledger(load_settings(node.home).ledger)
            ledger.verify()
            found[party] = [
                (one.kind, one.body["round"])
                for one in ledger.entries()
                if one.kind in ("intent", "commit") and one.body["run"] == run_id
            ]
        return found


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("r")
    scenario = market(folder, 500)
    coordinator = Command("fedtags-coordinator", folder / "coordinator")
    nodes = {party: Command("fedtags-party", folder / party) for party in scenario.sources}
    plan = folder / "plan.toml"
    plan.write_text(PLAN)
    store = None
    try:
        _set_up(coordinator, nodes, scenario, False, lambda text: None)
        _each(nodes, lambda party, node: node("start", "--detach"))
        store = RunStore(coordinator_settings(coordinator.home).database_url)
        yield Deployed(coordinator, nodes, plan, store)
    finally:
        _stop(coordinator, nodes)
        if store is not None:
            store.close()


def check_whole(deployed: Deployed, run_id: str, attempts: int) -> None:
    record = deployed.until(run_id, lambda one: not one.active)
    assert record.state == "finished", record.message
    assert record.attempt >= attempts
    assert record.outcome is not None
    assert tuple(record.outcome["parties"]) == PARTIES
    asked = [(one.phase, one.round) for one in deployed.store.exchanges_of(run_id)]
    assert [one for one in asked if one[0] == "round"] == [("round", n + 1) for n in range(ROUNDS)]
    with reading(deployed.store._engine) as connection:
        told = connection.execute(
            select(metrics.c.name).where(metrics.c.run_id == run_id)
        ).scalars()
        assert sorted(told) == sorted(deployed.store.metrics_of(run_id))
    reports = [
        json.loads((node.home / "reports" / f"{run_id}.json").read_text())
        for node in deployed.nodes.values()
    ]
    assert len({one["model_digest"] for one in reports}) == 1
    # The evaluation's round is 0 in a ledger.
    numbers = [*range(1, ROUNDS + 1), 0]
    once = [(kind, number) for number in numbers for kind in ("intent", "commit")]
    assert deployed.ledgers(run_id) == dict.fromkeys(PARTIES, once)


def test_a_killed_server_app_is_replaced_and_the_run_goes_on(deployed: Deployed) -> None:
    run_id = deployed.submit()
    record = deployed.in_round_two(run_id)
    assert record.process is not None
    os.kill(json.loads(record.process)["pid"], signal.SIGKILL)
    check_whole(deployed, run_id, attempts=2)


def test_a_killed_superlink_is_started_again_and_the_run_goes_on(deployed: Deployed) -> None:
    run_id = deployed.submit()
    deployed.in_round_two(run_id)
    os.kill(deployed.pid(f"{SERVICE_NAME}.superlink"), signal.SIGKILL)
    check_whole(deployed, run_id, attempts=1)
    log = (deployed.coordinator.home / "logs" / f"{SERVICE_NAME}.log").read_text()
    assert "superlink ended unexpectedly (signal 9); starting it again" in log


def test_after_everything_was_killed_the_run_goes_on_at_the_next_start(deployed: Deployed) -> None:
    run_id = deployed.submit()
    deployed.in_round_two(run_id)
    for pid in deployed.family(deployed.pid(SERVICE_NAME)):
        os.kill(pid, signal.SIGKILL)
    assert deployed.store.get(run_id).active
    deployed.coordinator("start", "--detach")
    check_whole(deployed, run_id, attempts=2)
