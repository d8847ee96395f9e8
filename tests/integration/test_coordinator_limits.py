"""What one who is let in cannot do to the others: read what is theirs, or hold the service up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator import desk_plans, disclosures
from coordinator.desk_plans import Cost, Costs
from coordinator.disclosures import DisclosureStore
from coordinator.evidence import MOST_WAITING, Evidence, PackRecord
from coordinator.live import MOST_OF_ONE
from models.plan import Plan, parse_plan
from privacy import errors
from privacy.disclosure import Disclosure, read_disclosure
from privacy.hosting.access import Principal
from tests.integration.control_plane_server import PLAN
from tests.integration.coordinator_asking import (
    ORIGIN,
    PASSWORD,
    Asked,
    asked,
    make_template,
    problem,
)

AS_BANK = "party-operator:bank"
PUBLISHED = PLAN + b"[publication]\ntags = ['churn_risk']\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template") / "coordinator")


@pytest.fixture
def api(template: Path, tmp_path: Path) -> Iterator[Asked]:
    with asked(template, tmp_path / "coordinator") as opened:
        yield opened


def ended(asking: Sequence[Future[Any]], count: int) -> list[Future[Any]]:
    """Those that have an answer, once there are `count`."""
    until = time.monotonic() + 60
    while len(found := [one for one in asking if one.done()]) < count:
        assert time.monotonic() < until, f"{len(found)} of {count}"
        time.sleep(0.01)
    return found


# A party's operator ------------------------------------------------------------------------------


def test_an_operator_reads_no_other_partys_reason_in_an_errors_words(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.call("POST", "/v1/runs", api.submission("run-1"))
    api.coordinator.control.runs.fail("run-1", errors.CohortError("refused: shop (min_rows)"))
    for path in ("runs", "runs/run-1", "overview", "parties/bank", "runs/run-1/events"):
        seen = api.call("GET", f"/v1/{path}", role=AS_BANK)
        assert seen.status_code == 200
        assert "CohortError" in seen.text
        assert "min_rows" not in seen.text, path
        assert "min_rows" in api.call("GET", f"/v1/{path}", role="reviewer").text


def test_an_operator_is_not_told_by_the_tags_which_other_runs_there_were(api: Asked) -> None:
    api.enrol("retailer", "shop", "cafe")
    api.finished("before-1", PUBLISHED)
    api.enrol("bank")
    api.finished("with-1", PUBLISHED)
    told = [run for tag in api.get("/v1/tags", AS_BANK) for run in tag["runs"]]
    assert set(told) == {"with-1"}
    everything = [run for tag in api.get("/v1/tags", "reviewer") for run in tag["runs"]]
    assert set(everything) == {"with-1", "before-1"}


# Launch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["churn-../../x", "churn-" + "x" * 60, "churn-A", "churn-1\n"])
def test_the_page_signs_no_run_of_a_name_that_no_run_can_have(api: Asked, run: str) -> None:
    api.enrol("bank", "retailer", "shop")
    api.coordinator.service.desk.access.add_person("dora", "data-scientist", PASSWORD)

    async def launch(name: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=api.coordinator.service.app)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            who = await client.post("/v1/session", json={"name": "dora", "password": PASSWORD})
            form = {"csrf": who.json()["csrf"], "run": name, "plan": PLAN.decode()}
            return await client.post("/launch/submit", data=form)

    assert 400 <= asyncio.run(launch(run)).status_code < 500
    assert api.get("/v1/runs")["runs"] == []
    assert asyncio.run(launch("churn-1")).status_code == 303
    assert [one["run_id"] for one in api.get("/v1/runs")["runs"]] == ["churn-1"]


# Costs of plans ----------------------------------------------------------------------------------


def test_a_party_that_tells_an_impossible_size_spoils_no_dry_run(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.coordinator.executor.online |= {"bank", "retailer"}
    api.disclose("bank", public_size=1, used=0.0)
    plan = PLAN.replace(b"epsilon = 1.0", b"epsilon = 0.001\nevaluation_epsilon = 0.001").decode()
    answer = api.call("POST", "/v1/plans/dry-run", {"plan": plan})
    assert answer.status_code == 200
    bank, retailer, _ = answer.json()["parties"]
    assert (bank["can_take_part"], bank["epsilon"]) == (False, None)
    assert "no noise multiplier reaches this epsilon" in bank["why"]
    assert retailer["can_take_part"]


def test_few_wait_for_a_cost_and_the_rest_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun = threading.Event(), threading.Event()

    def slow(_plan: Plan, public_size: int) -> Cost:
        begun.set()
        assert go.wait(30)
        return Cost(delta=1 / public_size)

    monkeypatch.setattr(desk_plans, "_cost", slow)
    costs, plan, later = Costs(), parse_plan(PLAN), float("inf")
    with ThreadPoolExecutor(40) as threads:
        asking = [threads.submit(costs.of, "digest", plan, size, later) for size in range(1, 41)]
        assert begun.wait(30)
        refused = ended(asking, 40 - desk_plans._MOST_WAITING)
        assert all(isinstance(one.exception(), errors.RateLimited) for one in refused)
        go.set()
    assert sum(one.exception() is None for one in asking) == desk_plans._MOST_WAITING


def test_one_dry_run_does_not_go_on_from_size_to_size(
    api: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.enrol("bank", "retailer", "shop")
    api.coordinator.executor.online |= {"bank", "retailer"}
    api.disclose("bank", public_size=6000, used=0.0)
    monkeypatch.setattr(desk_plans, "_LONGEST_S", 0.0)
    found = api.call("POST", "/v1/plans/dry-run", {"plan": PLAN.decode()}).json()["parties"]
    assert (found[0]["can_take_part"], found[0]["epsilon"]) == (True, None)
    assert "not computed yet" in found[0]["why"]
    monkeypatch.undo()
    found = api.call("POST", "/v1/plans/dry-run", {"plan": PLAN.decode()}).json()["parties"]
    assert found[0]["epsilon"] > 1


# What a party tells ------------------------------------------------------------------------------


def test_a_party_that_contradicts_itself_often_makes_no_page_dear(
    api: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.enrol("bank", "retailer", "shop")
    api.disclose("bank", public_size=6000, used=0.1)
    store = DisclosureStore(api.coordinator.settings.database_url)
    newest = store.newest()["bank"].disclosure
    assert newest.status is not None
    for number in range(60):
        place = {"ledger_position": 1 if number % 2 else 10 + number}
        status = newest.status.model_copy(update=place)
        sequence = newest.sequence + 1 + number
        said = newest.model_copy(update={"status": status, "sequence": sequence})
        store.keep(said, said.encoded(), signed_at=1, signature=b"s" * 64)
    assert len(store.contradictions("bank")) == 30
    store.close()
    read: list[bytes] = []

    def counted(body: bytes) -> Disclosure:
        read.append(body)
        return read_disclosure(body)

    monkeypatch.setattr(disclosures, "read_disclosure", counted)
    (budget,) = api.get("/v1/budgets")
    assert "ledger was cut" in budget["doubt"]
    assert len(read) <= 2


# Packs and followers -----------------------------------------------------------------------------


def test_few_wait_for_a_pack_and_packs_are_listed_meanwhile(
    api: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.enrol("bank", "retailer", "shop")
    api.call("POST", "/v1/runs", api.submission("run-1"))
    api.coordinator.control.runs.fail("run-1", errors.RunStopped("stopped"))
    go, begun, make = threading.Event(), threading.Event(), Evidence._export

    def slow(self: Evidence, run_id: str) -> PackRecord:
        begun.set()
        assert go.wait(60)
        return make(self, run_id)

    monkeypatch.setattr(Evidence, "_export", slow)
    desk, who = api.coordinator.service.desk, Principal("rita", "reviewer")
    with ThreadPoolExecutor(40) as threads:
        asking = [threads.submit(desk.take_evidence, who, "run-1") for _ in range(40)]
        try:
            assert begun.wait(30)
            assert threads.submit(desk.evidence_packs, who).result(30) == []
            refused = ended(asking, 40 - MOST_WAITING)
            assert all(isinstance(one.exception(), errors.RateLimited) for one in refused)
        finally:
            go.set()
    assert len({one.result()[1] for one in asking if one.exception() is None}) == 1


def test_one_person_follows_a_few_runs_at_once_and_no_more(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.finished("run-1")
    path = "/v1/runs/run-1/events"
    for _ in range(MOST_OF_ONE + 1):
        assert api.call("GET", path, role="reviewer").status_code == 200
    live = api.coordinator.service.desk.live
    for _ in range(MOST_OF_ONE):
        live.enter("t-reviewer")
    problem(api.call("GET", path, role="reviewer"), 429, errors.RateLimited)
    assert api.call("GET", path, role="data-scientist").status_code == 200
    live.leave("t-reviewer")
    assert api.call("GET", path, role="reviewer").status_code == 200


# Answers that are kept ---------------------------------------------------------------------------


def test_a_kept_answer_is_of_the_role_that_got_it(api: Asked) -> None:
    access = api.coordinator.service.desk.access
    access.add_person("twin", "admin", PASSWORD)
    _, secret = access.create_token("twin", "reviewer", created_by="test")
    key = {"idempotency-key": "one-request-of-mine"}

    async def invite() -> httpx.Response:
        transport = httpx.ASGITransport(app=api.coordinator.service.app)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            who = await client.post("/v1/session", json={"name": "twin", "password": PASSWORD})
            sent = {**key, "x-csrf-token": who.json()["csrf"]}
            return await client.post("/v1/invitations", json={"party": "bank"}, headers=sent)

    assert asyncio.run(invite()).status_code == 200
    shown = {**key, "authorization": f"Bearer {secret}"}
    again = api.call("POST", "/v1/invitations", {"party": "bank"}, role=None, headers=shown)
    problem(again, 403, errors.AccessDenied)
