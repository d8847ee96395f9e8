"""A run store that version 0.1 wrote must open, with everything in it, in every later version."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from coordinator.member_store import MemberStore
from coordinator.run_store import RunStore
from coordinator.tables import metadata
from privacy.errors import RunActiveError
from privacy.hosting import access_tables
from privacy.hosting.database import open_engine

VECTOR = Path(__file__).parents[1] / "vectors" / "coordinator-0001.db"


@pytest.fixture
def url(tmp_path: Path) -> str:
    shutil.copy(VECTOR, tmp_path / "coordinator.db")
    return f"sqlite:///{tmp_path / 'coordinator.db'}"


def test_database_of_revision_0001_upgrades_to_todays_tables(url: str) -> None:
    for module in (Path(__file__).parents[2] / "coordinator").glob("*_tables.py"):
        importlib.import_module(f"coordinator.{module.stem}")
    tables = [metadata, access_tables.metadata]
    RunStore(url).close()
    with open_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables) == []


def test_runs_of_revision_0001_are_all_there(url: str) -> None:
    store = RunStore(url)
    states = {run.run_id: run.state for run in store.list_runs()}
    assert states == {"run-1": "finished", "run-2": "failed", "run-3": "running"}
    finished, failed, active = (store.get(f"run-{number}") for number in (1, 2, 3))
    assert finished.outcome == {"parties": ["bank", "shop"], "auc": 0.75}
    assert store.metrics_of("run-1") == {"auc": 0.75}
    assert (failed.error, failed.exit_code) == ("PartyTimeout", 15)
    assert (active.stop_requested, active.flower_run_id) == (True, "13")
    assert (active.resume_requested, active.waiting_for, active.pause_until) == (False, (), None)
    assert store.membership_of("run-1") == []
    last = store.exchanges_of("run-1")[-1]
    assert (last.phase, last.round, last.seconds) == ("round", 1, 1.5)
    assert last.bytes_up == {"bank": 3_000_000_000, "shop": 7}
    with pytest.raises(RunActiveError):
        store.create_run("run-4", store.load_request("run-1").plan_source, b"r" * 32, b"s" * 64)


def test_members_of_revision_0001_are_all_there(url: str) -> None:
    members = MemberStore(url, bytes(range(32)))
    assert [party.name for party in members.parties()] == ["bank", "retailer", "shop"]
    assert members.parties()[0].public_key == b"bank".ljust(32, b".")
    assert [requester.name for requester in members.requesters()] == ["data-science"]
