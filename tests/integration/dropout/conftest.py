"""Four parties' real services over memory, and a channel between them that fails as told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coordinator.aggregate import Adder
from coordinator.exchange import Exchanges
from coordinator.rounds import Conduct, RunOutcome, RunRequest
from models.plan import parse_plan
from privacy.framing import statement_of
from privacy.identity import sign_plan
from privacy.ledger_state import RunState
from privacy.messages import REFUSAL
from simulations.homes import Federation, offline_federation
from simulations.local_federation import Fault, FaultyChannel, MemoryChannel
from simulations.population import write_market
from tests.integration.conftest import PLAN, LocalRun, changed, with_stores

ROUNDS = 3
SMALL = changed(changed(PLAN, "rounds = 2", "rounds = 3"), "local_steps = 4", "local_steps = 2")
# Noised weights cost a little, and the parties' policies allow a plan no more than 2 in all.
EVALUATION_EPSILON = 0.8
SMALL = changed(SMALL, "evaluation_epsilon = 1.0", f"evaluation_epsilon = {EVALUATION_EPSILON}")


def with_cohort(plan: bytes = SMALL, **values: int | bool) -> bytes:
    """`plan` with a [cohort] part of these values."""
    lines = [f"{name} = {str(value).lower()}" for name, value in values.items()]
    return plan + b"\n[cohort]\n" + "\n".join(lines).encode() + b"\n"


# Three of four are enough, and nobody is waited for.
FOUR = with_cohort(minimum=3, pause_minutes=0)
# The same for two of them, who accept that.
TWO = with_cohort(minimum=2, accept_two_party=True, pause_minutes=0)
PATIENT = with_cohort(minimum=4, pause_minutes=60)
SINGLE = b"\n[aggregation]\nsingle_opening = true\n"
NOISED = b'\n[aggregation]\nweights = "noised_size"\n'


@dataclass
class Faulty(LocalRun):
    """A federation whose services are found anew at every message, so that they can restart."""

    faults: list[Fault] = field(default_factory=list)
    log: list[tuple[str, int, int, frozenset[str]]] = field(default_factory=list)
    said: list[tuple[str, bytes]] = field(default_factory=list)

    def answer(self, party: str, frame: bytes) -> bytes:
        reply = self.service(party).answer(frame)
        if reply != REFUSAL:
            self.said.append((party, statement_of(reply)))
        return reply

    def services_channel(self) -> MemoryChannel:
        return MemoryChannel(
            {party: partial(self.answer, party) for party in self.federation.homes}
        )

    def conduct(self, plan: bytes, adder: Adder, exchanges: type[Exchanges] = Exchanges) -> Conduct:
        """A run whose coordinator may lie; over what `wrap` makes of the services' channel."""
        key, run_id = self.federation.requester, "run-1"
        signature = sign_plan(key, run_id, plan)
        request = RunRequest(run_id, plan, key.public, signature, self.federation.members)
        channel = self.wrap(self.services_channel())
        signer = self.federation.coordinator
        return Conduct(exchanges(request, parse_plan(plan), channel, signer, self.recorder), adder)

    def start(self, plan: bytes, *faults: Fault, run_id: str = "run-1") -> RunOutcome:
        """A run in which these things go wrong."""
        faulty = FaultyChannel(self.services_channel(), list(faults), self.log)
        self.wrap = lambda _: faulty
        outcome = self.run(plan, run_id)
        assert not faulty.faults, "a fault did not strike"
        return outcome

    def run_of(self, party: str, run_id: str = "run-1") -> RunState:
        return self.service(party).node.ledger.state().runs[run_id]

    def report(self, party: str, run_id: str = "run-1") -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(
            (self.federation.homes[party] / "reports" / f"{run_id}.json").read_text()
        )
        return found

    def models(self, *parties: str) -> set[str]:
        """Digests of the models that these parties published."""
        return {self.report(party)["model_digest"] for party in parties}

    def edit_policy(self, party: str, old: str, new: str) -> None:
        path = self.federation.homes[party] / "policy.toml"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def accept_two(self, *parties: str) -> None:
        for party in parties:
            self.edit_policy(party, "minimum_cohort = 3", "minimum_cohort = 2")
            self.edit_policy(party, "accept_two_party = false", "accept_two_party = true")


@pytest.fixture(scope="session")
def four_template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Federation]:
    """The market's three parties and a grocer, which is the retailer of another market."""
    folder, other = tmp_path_factory.mktemp("four"), tmp_path_factory.mktemp("other")
    sources = write_market(folder, 500)
    sources["grocer"] = write_market(other, 500, seed=7)["retailer"]
    shutil.copytree(other / "retailer", folder / "grocer")
    return folder, with_stores(offline_federation(folder, sources, dict.fromkeys(sources, 500)))


@pytest.fixture
def four(four_template: tuple[Path, Federation], tmp_path: Path) -> Iterator[Faulty]:
    """A copy of the template, so that each test has ledgers and stores of its own."""
    folder, made = four_template
    copy = tmp_path / "four"
    shutil.copytree(folder, copy)
    homes = {party: copy / party for party in made.homes}
    federation = Federation(homes, made.coordinator, made.requester, made.members)
    running = Faulty(federation)
    yield running
    running.close()
