"""The control benchmark measures what it says: a filled store, and answers of the real process."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.people import open_access
from coordinator.roles import Role
from coordinator.run_store import RunStore
from coordinator.settings import load_settings
from models.plan import parse_plan
from privacy.identity import verify_plan
from simulations.benchmarks import control, control_client, control_data

PARTIES, RUNS = 10, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "FEW_RUNS", 3)
        control.seed(made, PARTIES, RUNS)
    return made


def test_the_measured_store_holds_runs_with_all_that_they_record(folder: Path) -> None:
    settings = load_settings(folder / "many")
    runs = RunStore(settings.database_url)
    try:
        stored = [runs.get(control_data.run_name(number)) for number in range(RUNS)]
        assert [one.state for one in stored] == ["finished", "failed", *["finished"] * (RUNS - 2)]
        assert set(runs.members_of("run-00000")) == {
            control_data.party_name(one) for one in range(PARTIES)
        }
        exchanges = runs.exchanges_of("run-00000")
        assert [one.phase for one in exchanges][:3] == ["preflight", "keys", "round"]
        assert all(len(one.bytes_up) == PARTIES for one in exchanges)
        assert all(
            len(one.bytes_up) == control_data.COHORT for one in runs.exchanges_of("run-00002")
        )
        assert set(runs.metrics_of("run-00002")) == {"auc", "auc_standard_error", "calibration"}
        asked = runs.load_request("run-00002")
        verify_plan(
            asked.requester_public, asked.requester_signature, asked.run_id, asked.plan_source
        )
    finally:
        runs.close()


def test_every_party_has_disclosed_about_the_runs(folder: Path) -> None:
    settings = load_settings(folder / "many")
    with control_data.opened(settings) as stores:
        runs, told = stores.runs, stores.disclosures
        newest = told.newest()
        assert set(newest) == {one.name for one in stores.members.parties()}
        assert len(newest) == PARTIES
        for one in newest.values():
            assert len(one.disclosure.told) == 7
            assert one.disclosure.budget is not None
            assert one.disclosure.budget.last_run is not None
            assert one.disclosure.models
            for held in one.disclosure.models:
                stored = runs.get(held.run)
                assert stored.plan_digest == held.plan
                assert (
                    one.party in parse_plan(runs.load_request(held.run).plan_source).cohort.parties
                )
        assert len(told.budget_over_time("party-000")) == control_data.BUDGETS_TOLD
        assert told.contradictions() == ()


def test_adding_stores_each_party_and_run_and_leaves_what_is_read_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ADDED", 2)
    monkeypatch.setattr(control, "FEW_RUNS", 3)
    figures = control.adding(folder, PARTIES, RUNS)
    assert min(figures.values()) > 0
    assert figures["add_run_ratio"] == figures["add_run_ms"] / figures["add_run_few_ms"]
    for name, runs in (("few", 3), ("many", RUNS)):
        with control_data.opened(load_settings(folder / f"{name}-to-add-to")) as stores:
            assert len(stores.members.parties()) == PARTIES + 2
            assert len(stores.runs.list_runs()) == runs + 2
        with control_data.opened(load_settings(folder / name)) as stores:
            assert len(stores.runs.list_runs()) == runs


def test_every_read_is_answered_by_the_real_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_client, "RATE", 20)
    monkeypatch.setattr(control, "SECONDS", 1)
    figures = control.reading(folder, PARTIES, RUNS)
    assert figures["read_requests"] == 20
    assert 0 < figures["read_p50_ms"] <= figures["read_p99_ms"]
    for name in (*control.API, *control.PAGES):
        assert 0 < figures[f"{name}_p50_ms"] <= figures[f"{name}_p99_ms"]
    assert figures["page_kb"] > 10
    assert 20 < figures["idle_mb"] < 2000
    access = open_access(load_settings(folder / "many"))
    try:
        assert {one.name: one.role for one in access.people()} == {
            control.NAME: Role.DATA_SCIENTIST
        }
    finally:
        access.close()


def test_an_answer_other_than_200_ends_the_benchmark(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "API", {"unknown": "/v1/runs/no-such-run"})
    monkeypatch.setattr(control, "NAME", "another")
    with pytest.raises(RuntimeError, match=r"/v1/runs/no-such-run: .* 404"):
        control.reading(folder, PARTIES, RUNS)
