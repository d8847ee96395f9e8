"""A real party's home for the browser: a run's tags, waiting plans, a ledger, four people.

Nothing that the node writes itself is put into a file here: the run goes through the real party
services, the waiting plans through their preflight, tags and quality through the node's own
functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.rounds import RunRequest, run
from models.plan import plan_digest
from models.tag_catalogue import load_catalogue
from party_client import quality_check
from party_client.approvals import decide
from party_client.local_tags import refresh_local_tags
from party_client.people import open_access
from party_client.policy import load_policy
from party_client.profile_store import open_profile_store
from party_client.service import PartyService
from party_client.settings import PartySettings, load_settings
from party_client.sources import open_source
from privacy.errors import RunError
from privacy.identity import sign_plan
from simulations.homes import Federation, offline_federation
from simulations.local_federation import MemoryChannel, MemoryRecorder
from simulations.population import LAST_DAY, write_market

PARTY = "bank"
CUSTOMERS = 700
PASSWORD = "correct horse battery"
PEOPLE = {"ann": "admin", "olivia": "operator", "marc": "marketer", "rita": "reviewer"}
# What a requester, or somebody with a form, might try.
SCRIPT = "<script>document.title='owned'</script><img src=//evil.example/x>"
HORIZON = 180
TODAY = datetime.now(UTC).date()


def plan(**changes: str) -> bytes:
    """The plan's TOML with other values for some of its places."""
    values = {
        "name": "market-churn",
        "description": "Who will buy nothing in the next 180 days (simulated market)",
        "rounds": "2",
        "epsilon": "0.5",
        "note": "",
        "cutoff": (TODAY - timedelta(days=HORIZON)).isoformat(),
    } | changes
    return """\
# {note}
format = 1
name = "{name}"
purpose = "retention"
description = "{description}"

[task]
kind = "churn"
horizon_days = 180
cutoff = 2024-12-31
cutoff_by_party = {{ bank = {cutoff} }}

[training]
rounds = {rounds}
local_steps = 4

[privacy]
epsilon = {epsilon}
evaluation_epsilon = 0.5

[publication]
tags = ["churn_risk"]
""".format(**values).encode()


FIRST = plan()
WAITING = plan(rounds="3", epsilon="0.6", description=SCRIPT, note=SCRIPT)
LATER = plan(name="market-churn-weekly", rounds="4")


@dataclass(frozen=True)
class Furnished:
    """The home, and customers who took part in the run and have its tag."""

    settings: PartySettings
    customers: tuple[str, ...]


def furnish(folder: Path, port: int) -> Furnished:
    """Make a federation in `folder` and everything that its bank's pages show."""
    sources = write_market(folder, CUSTOMERS)
    _move_to_today(folder / PARTY / "events.parquet")
    federation = offline_federation(folder, sources, dict.fromkeys(sources, CUSTOMERS))
    home = federation.homes[PARTY]
    _rewrite(home / "party.toml", "enabled = false", "enabled = true")
    _rewrite(home / "party.toml", "port = 8480", f"port = {port}")
    limit = '\n[[budget.limit]]\nname = "retention per quarter"\nepsilon = 3.0\n'
    limit += 'purpose = "retention"\nwindow = "quarter"\n'
    policy = home / "policy.toml"
    policy.write_text(policy.read_text(encoding="utf-8") + limit, encoding="utf-8")
    _rewrite(policy, 'approval = "automatic"', 'approval = "person"')
    settings = load_settings(home)
    with _services(federation) as services:
        _refused(federation, services, "run-2026-a", FIRST)
        digest = plan_digest(FIRST)
        decide(settings, digest, approve=True, person="olivia", reason="agreed with legal")
        _run(federation, services, "run-2026-b", FIRST)
        _refused(federation, services, "run-2026-c", WAITING)
        _refused(federation, services, "run-2026-d", LATER)
    with open_source(settings.source, home) as source:
        found = source.check(None, settings.party)
        report, review = quality_check.assess(
            source, None, party=PARTY, found=found, policy=load_policy(policy).quality
        )
        quality_check.save(report, review, settings.quality)
        store = open_profile_store(settings)
        catalogue = load_catalogue(settings.catalogue)
        refresh_local_tags(source, store, catalogue, party=PARTY, now=datetime.now(UTC))
        scored = {one.customer for one in store.export("churn_risk", None, purpose="retention")}
        store.close()
    customers = tuple(sorted(scored & _regulars(home / "events.parquet")))
    access = open_access(settings)
    for name, role in PEOPLE.items():
        access.add_person(name, role, PASSWORD)
    access.close()
    return Furnished(settings, customers)


def _move_to_today(path: Path) -> None:
    """The simulated market ends in 2025; the bank's part of it ends yesterday instead."""
    table = pq.read_table(path)
    days = (TODAY - timedelta(days=1) - LAST_DAY).days
    moved = np.asarray(table["booked_at"]) + np.timedelta64(days, "D")
    place = table.schema.get_field_index("booked_at")
    pq.write_table(table.set_column(place, "booked_at", pa.array(moved)), path)


def _regulars(path: Path) -> set[str]:
    """Customers with several purchases in the half year before the cut-off."""
    table = pq.read_table(path)
    end = np.datetime64(TODAY - timedelta(days=HORIZON), "s")
    booked = np.asarray(table["booked_at"])
    inside = (booked >= end - np.timedelta64(HORIZON, "D")) & (booked < end)
    bought = inside & (np.nan_to_num(np.asarray(table["amount_eur"], dtype=float)) > 0)
    names, counts = np.unique(table["client_no"].to_numpy()[bought].astype(str), return_counts=True)
    return set(names[counts >= 5].tolist())


def _rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")


@contextmanager
def _services(federation: Federation) -> Iterator[dict[str, PartyService]]:
    services = {party: PartyService(home) for party, home in federation.homes.items()}
    try:
        yield services
    finally:
        for service in services.values():
            service.close()


def _refused(
    federation: Federation, services: dict[str, PartyService], run_id: str, source: bytes
) -> None:
    """A person has to look first."""
    with pytest.raises(RunError):
        _run(federation, services, run_id, source)


def _run(
    federation: Federation, services: dict[str, PartyService], run_id: str, source: bytes
) -> None:
    key = federation.requester
    request = RunRequest(
        run_id, source, key.public, sign_plan(key, run_id, source), federation.members
    )
    channel = MemoryChannel({party: one.answer for party, one in services.items()})
    run(request, channel, federation.coordinator, MemoryRecorder())
