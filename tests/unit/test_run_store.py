"""The run store: one active run, two processes, ends that stay."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from coordinator.member_store import MemberStore
from coordinator.rounds import RunOutcome
from coordinator.run_store import RunStore
from coordinator.tables import metadata
from privacy.errors import PartyTimeout, RunActiveError, RunError, RunStopped, StoreError
from privacy.hosting import access_tables
from privacy.hosting.database import open_engine

PLAN = b"""
format = 1
name = "churn"
purpose = "retention"
[task]
kind = "churn"
cutoff = 2024-06-01
[privacy]
epsilon = 1.0
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'coordinator.db'}"


@pytest.fixture
def store(url: str) -> RunStore:
    return RunStore(url)


def create(store: RunStore, run_id: str = "run-1") -> None:
    store.create_run(run_id, PLAN, b"p" * 32, run_id.encode().ljust(64, b"s"))


def test_second_run_is_refused_while_one_is_active(store: RunStore) -> None:
    create(store, "run-1")
    with pytest.raises(RunActiveError, match="run-1"):
        create(store, "run-2")
    store.fail("run-1", RunError("over"))
    create(store, "run-2")
    assert [record.run_id for record in store.list_runs()] == ["run-2", "run-1"]


def test_of_many_simultaneous_submissions_exactly_one_becomes_a_run(url: str) -> None:
    RunStore(url).close()
    results: list[str] = []
    barrier = threading.Barrier(8)

    def submit(number: int) -> None:
        store = RunStore(url)
        barrier.wait()
        try:
            create(store, f"run-{number}")
            results.append("created")
        except RunActiveError:
            results.append("refused")
        finally:
            store.close()

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["created"] + ["refused"] * 7


def test_database_itself_refuses_a_second_active_run(url: str, store: RunStore) -> None:
    create(store)
    engine = open_engine(url)
    with pytest.raises(Exception, match="UNIQUE"), engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO runs (run_id, plan_name, plan_source, plan_digest, requester_public, "
                "requester_signature, state, active_slot, stop_requested, created_at) "
                "SELECT 'other', plan_name, plan_source, plan_digest, requester_public, "
                "requester_signature, state, active_slot, stop_requested, created_at FROM runs"
            )
        )
    assert len(store.list_runs()) == 1


def test_same_submission_again_returns_the_stored_run(store: RunStore) -> None:
    create(store)
    create(store)
    assert len(store.list_runs()) == 1
    with pytest.raises(StoreError, match="used before"):
        store.create_run("run-1", PLAN, b"p" * 32, b"another".ljust(64, b"s"))


def test_request_holds_the_parties_enrolled_when_the_run_was_created(url: str) -> None:
    members = MemberStore(url, b"k" * 32)
    for name in ("bank", "shop"):
        token = members.invite(name, timedelta(hours=1)).token
        members.enrol(token, name, name.encode().ljust(32, b"x"), f"node {name}", lambda: None)
    store = RunStore(url)
    create(store)
    token = members.invite("late", timedelta(hours=1)).token
    members.enrol(token, "late", b"l" * 32, "node late", lambda: None)
    request = store.load_request("run-1")
    assert request.plan_source == PLAN
    assert request.members == {"bank": b"bank".ljust(32, b"x"), "shop": b"shop".ljust(32, b"x")}
    assert (request.requester_public, request.requester_signature[:5]) == (b"p" * 32, b"run-1")


def test_recorder_writes_what_another_process_reads(url: str, store: RunStore) -> None:
    create(store)
    recorder = store.recorder("run-1")
    assert store.get("run-1").state == "created"
    recorder.phase("round", 2, 8)
    recorder.exchange("round", 2, 1.5, {"bank": 10, "shop": 20}, {"bank": 30, "shop": 40})
    recorder.metric("auc", 0.5)
    recorder.metric("auc", 0.75)
    script = (
        "import sys; from coordinator.run_store import RunStore; s = RunStore(sys.argv[1]);"
        "r = s.get('run-1'); e = s.exchanges_of('run-1')[0];"
        "print(r.state, r.phase, r.round, r.total_rounds, e.seconds, dict(e.bytes_up),"
        " dict(e.bytes_down), dict(s.metrics_of('run-1')));"
        "s.request_stop('run-1')"
    )
    seen = subprocess.run(
        [sys.executable, "-c", script, url], capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == (
        "running round 2 8 1.5 {'bank': 10, 'shop': 20} {'bank': 30, 'shop': 40} {'auc': 0.75}"
    )
    assert recorder.stop_requested()


def test_a_stop_wish_is_seen_by_a_recorder_that_looked_before(store: RunStore) -> None:
    create(store)
    recorder = store.recorder("run-1")
    assert not recorder.stop_requested()
    store.request_stop("run-1")
    for _ in range(100):
        if recorder.stop_requested():
            return
        threading.Event().wait(0.02)
    pytest.fail("the wish to stop was not seen within two seconds")


def test_an_end_stays(store: RunStore) -> None:
    create(store)
    assert store.fail("run-1", PartyTimeout("bank did not answer; start its node"))
    ended = store.get("run-1")
    assert (ended.state, ended.error, ended.exit_code) == ("failed", "PartyTimeout", 15)
    assert ended.message == "bank did not answer; start its node"
    assert not store.fail("run-1", RunStopped("too late"))
    with pytest.raises(StoreError, match="already ended"):
        store.finish("run-1", {})
    with pytest.raises(RunError, match="already ended"):
        store.request_stop("run-1")
    with pytest.raises(RunError, match="ended from outside"):
        store.recorder("run-1").phase("round", 1, 8)
    assert store.get("run-1") == ended


def test_outcome_comes_back_as_plain_values(store: RunStore) -> None:
    create(store)
    figures = (0.75, 0.02, None)
    heads = {"bank": b"\x01\xff"}
    outcome = RunOutcome(("bank", "shop"), {"late": "budget"}, (1, 2), *figures, heads)
    store.finish("run-1", outcome)
    record = store.get("run-1")
    assert record.state == "finished"
    assert record.ended_at is not None
    assert record.outcome == {
        "parties": ["bank", "shop"],
        "refused": {"late": "budget"},
        "evaluation": [1, 2],
        "auc": 0.75,
        "auc_standard_error": 0.02,
        "calibration": None,
        "ledger_heads": {"bank": "01ff"},
        "left": {},
        "returned": {},
        "unpublished": [],
        "two_party": False,
    }


def test_a_paused_run_is_active_and_says_whom_it_waits_for(store: RunStore) -> None:
    create(store)
    recorder = store.recorder("run-1")
    recorder.phase("round", 3, 8)
    recorder.membership("bank", "left")
    until = datetime(2030, 1, 1, 14, 5, tzinfo=UTC)
    recorder.pause(["shop", "bank"], until)
    paused = store.get("run-1")
    assert (paused.state, paused.active) == ("paused", True)
    assert (paused.phase, paused.round, paused.total_rounds) == ("pause", 3, 8)
    assert (paused.waiting_for, paused.pause_until) == (("bank", "shop"), until)
    with pytest.raises(RunActiveError):
        create(store, "run-2")
    recorder.phase("round", 3, 8)
    recorder.membership("bank", "returned")
    running = store.get("run-1")
    assert (running.state, running.waiting_for, running.pause_until) == ("running", (), None)
    told = [(one.party, one.event, one.phase, one.round) for one in store.membership_of("run-1")]
    assert told == [("bank", "left", "round", 3), ("bank", "returned", "round", 3)]


def test_a_wish_to_resume_is_heard_once_and_only_while_the_run_is_paused(store: RunStore) -> None:
    create(store)
    recorder = store.recorder("run-1")
    recorder.phase("round", 3, 8)
    with pytest.raises(RunError, match=r"run-1 is not paused \(running\)"):
        store.request_resume("run-1")
    recorder.pause(["bank"], datetime.now(UTC))
    assert not recorder.resume_requested()
    assert store.request_resume("run-1").resume_requested
    assert recorder.resume_requested()
    assert not recorder.resume_requested()
    store.fail("run-1", PartyTimeout("bank is away"))
    ended = store.get("run-1")
    assert (ended.state, ended.waiting_for, ended.pause_until) == ("failed", (), None)
    with pytest.raises(RunError, match=r"not paused \(failed\)"):
        store.request_resume("run-1")


def test_an_operators_stop_is_its_own_state(store: RunStore) -> None:
    create(store)
    store.fail("run-1", RunStopped("stopped"))
    assert (store.get("run-1").state, store.get("run-1").exit_code) == ("stopped", 24)


def test_unknown_run_is_named_in_the_error(store: RunStore) -> None:
    asked = (store.get, store.load_request, store.recorder)
    for ask in (*asked, store.request_stop, store.request_resume):
        with pytest.raises(StoreError, match="no run nothing"):
            ask("nothing")


def test_migrations_make_exactly_the_tables_that_the_code_uses(url: str, store: RunStore) -> None:
    for module in (Path(__file__).parents[2] / "coordinator").glob("*_tables.py"):
        importlib.import_module(f"coordinator.{module.stem}")
    tables: Any = [metadata, access_tables.metadata]
    with open_engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables) == []


def test_database_of_a_newer_version_is_refused_unchanged(url: str, store: RunStore) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="newer version"):
        RunStore(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == (
            "9999"
        )


def test_a_file_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "coordinator.db"
    path.write_bytes(b"this is not a database, and longer than a header" * 10)
    with pytest.raises(StoreError, match="cannot be read"):
        RunStore(f"sqlite:///{path}")
