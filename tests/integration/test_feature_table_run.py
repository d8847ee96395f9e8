"""A run on the parties' own feature tables, under a contract that the plan carries."""

import json
from pathlib import Path

import numpy as np
import pytest

from coordinator.rounds import RunRequest, run
from party_client.service import PartyService
from party_client.source_settings import SourceSettings
from privacy.errors import CohortError
from privacy.identity import sign_plan
from simulations.homes import Federation, offline_federation
from simulations.local_federation import MemoryChannel, MemoryRecorder

PLAN = b"""
format = 1
name = "deposit"
purpose = "marketing"

[task]
kind = "label"
label = "subscribed"

[[features.columns]]
name = "balance"
low = 0
high = 5000
transform = "log1p"
unit = "EUR"

[[features.columns]]
name = "job"
kind = "category"
categories = ["clerk", "nurse", "pilot"]

[training]
rounds = 3
local_steps = 10

[privacy]
epsilon = 2.0
evaluation_epsilon = 2.0
"""
# Each party's own names for the contract's columns.
NAMES = {
    "bank": ("client", "saldo", "profession", "y"),
    "insurer": ("id", "balance", "job", "subscribed"),
    "lender": ("kunde", "kontostand", "beruf", "ja"),
}


def write_table(home: Path, party: str, seed: int) -> SourceSettings:
    rng = np.random.default_rng(seed)
    customer, balance, job, label = NAMES[party]
    lines = [f"{customer},{balance},{job},{label}"]
    for number in range(600):
        money = rng.gamma(1.0, 800)
        work = ["clerk", "nurse", "pilot", "miner"][rng.integers(4)]
        chance = 1 / (1 + np.exp(-(np.log1p(money) - 6) - (2 if work == "pilot" else -1)))
        lines.append(f"{party}-{number},{money:.2f},{work},{int(rng.random() < chance)}")
    lines.append(f"{party}-rich,inf,pilot,1")  # beyond the contract's range: clamped and counted
    home.mkdir(parents=True)
    (home / "table.csv").write_text("\n".join(lines) + "\n")
    return SourceSettings(
        kind="table",
        path="table.csv",
        columns={"customer": customer, "balance": balance, "job": job, "subscribed": label},
    )


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    sources = {
        party: write_table(tmp_path / party, party, seed) for seed, party in enumerate(NAMES)
    }
    made = offline_federation(tmp_path, sources, dict.fromkeys(sources, 600))
    for home in made.homes.values():
        path = home / "policy.toml"
        text = path.read_text()
        text = text.replace('tasks = ["churn", "propensity"]', 'tasks = ["label"]')
        text = text.replace(
            "feature_columns = []", 'feature_columns = ["balance", "job", "subscribed"]'
        )
        text = text.replace("max_epsilon_per_run = 2.0", "max_epsilon_per_run = 4.0")
        path.write_text(text)
    return made


def start(federation: Federation, recorder: MemoryRecorder) -> object:
    services = {party: PartyService(home) for party, home in federation.homes.items()}
    request = RunRequest(
        "run-1",
        PLAN,
        federation.requester.public,
        sign_plan(federation.requester, "run-1", PLAN),
        federation.members,
    )
    channel = MemoryChannel({party: one.answer for party, one in services.items()})
    try:
        return run(request, channel, federation.coordinator, recorder)
    finally:
        for service in services.values():
            service.close()


def test_parties_train_on_their_own_tables(federation: Federation) -> None:
    recorder = MemoryRecorder()
    start(federation, recorder)
    assert recorder.phases[-1] == "publication"
    # The parties' own exact figures: the released one is too noisy for tables this small.
    reports = [
        json.loads((home / "reports" / "run-1.json").read_text())
        for home in federation.homes.values()
    ]
    assert sum(one["joint_auc"] for one in reports) / len(reports) > 0.6
    for home, report in zip(federation.homes.values(), reports, strict=True):
        amounts = [float(row.split(",")[1]) for row in (home / "table.csv").read_text().split()[1:]]
        assert report["clamped"] == {"balance": sum(amount > 5000 for amount in amounts)}


def test_two_customers_with_one_id_are_refused_without_naming_them(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    table = federation.homes["lender"] / "table.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[5]]) + "\n")
    with pytest.raises(CohortError, match=r"lender \(data\)") as caught:
        start(federation, MemoryRecorder())
    customer = lines[5].split(",")[0]
    assert customer not in caplog.text
    assert customer not in str(caught.value)
