"""A small simulated federation without a network: the real party services in this process."""

import hashlib
import hmac
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinator.channel import Channel
from coordinator.rounds import RunOutcome, RunRequest, run
from party_client.profile_store import ProfileStore, open_profile_store
from party_client.service import PartyService
from party_client.settings import load_settings
from privacy.identity import SigningKey, sign_plan
from privacy.randomness import Entropy, system_entropy
from simulations.homes import Federation, offline_federation
from simulations.local_federation import MemoryChannel, MemoryRecorder
from simulations.population import write_market

PLAN = b"""
format = 1
name = "churn-test"
purpose = "marketing"

[task]
kind = "churn"
horizon_days = 180
cutoff = 2024-12-31

[training]
rounds = 2
local_steps = 4

[privacy]
epsilon = 1.0
evaluation_epsilon = 1.0

[publication]
tags = ["churn_risk"]
"""


# Nobody is waited for once too few parties are left.
HASTY = PLAN + b"\n[cohort]\npause_minutes = 0\n"


def changed(plan: bytes, old: str, new: str) -> bytes:
    """`plan` with one text replaced; fails if the text is not there once."""
    text = plan.decode()
    assert text.count(old) == 1
    return text.replace(old, new).encode()


def tags_in(store: ProfileStore) -> int:
    """How many customers have the plan's tag; none before consent was ever taken over."""
    if not store.consent_known():
        return 0
    return len(list(store.export("churn_risk", purpose="marketing")))


@dataclass
class LocalRun:
    """A federation folder of its own, and services started on demand."""

    federation: Federation
    services: dict[str, PartyService] = field(default_factory=dict)
    entropy: Callable[[str], Entropy] = lambda party: system_entropy
    wrap: Callable[[MemoryChannel], Channel] = lambda channel: channel
    recorder: MemoryRecorder = field(default_factory=MemoryRecorder)

    def service(self, party: str) -> PartyService:
        if party not in self.services:
            home = self.federation.homes[party]
            self.services[party] = PartyService(home, self.entropy(party))
        return self.services[party]

    def restart(self, party: str) -> PartyService:
        if party in self.services:
            self.services.pop(party).close()
        return self.service(party)

    def channel(self) -> MemoryChannel:
        return MemoryChannel({party: self.service(party).answer for party in self.federation.homes})

    def run(
        self, plan: bytes = PLAN, run_id: str = "run-1", requester: SigningKey | None = None
    ) -> RunOutcome:
        key = requester or self.federation.requester
        request = RunRequest(
            run_id, plan, key.public, sign_plan(key, run_id, plan), self.federation.members
        )
        return run(request, self.wrap(self.channel()), self.federation.coordinator, self.recorder)

    def close(self) -> None:
        for service in self.services.values():
            service.close()


def with_stores(federation: Federation) -> Federation:
    """The same homes, in which each profile store has its tables already: no copy makes them."""
    for home in federation.homes.values():
        open_profile_store(load_settings(home)).close()
    return federation


@pytest.fixture(scope="session")
def market_template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Federation]:
    """Homes of three parties over a simulated market of 700 customers each, made once."""
    folder = tmp_path_factory.mktemp("market")
    sources = write_market(folder, 700)
    return folder, with_stores(offline_federation(folder, sources, dict.fromkeys(sources, 700)))


@pytest.fixture
def local(market_template: tuple[Path, Federation], tmp_path: Path) -> Iterator[LocalRun]:
    """A copy of the template, so that each test has ledgers and stores of its own."""
    folder, federation = market_template
    copy = tmp_path / "m"
    shutil.copytree(folder, copy)
    homes = {party: copy / party for party in federation.homes}
    run_here = LocalRun(
        Federation(homes, federation.coordinator, federation.requester, federation.members)
    )
    yield run_here
    run_here.close()


def repeatable(party: str) -> Entropy:
    """Randomness for tests alone: a function of the party and the label."""
    return lambda label: hmac.new(party.encode(), label.encode(), hashlib.sha256).digest()
