"""The control plane's API, as any HTTP client meets it (ASGI, the real application and SQLite)."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from privacy import errors
from privacy.errors import FedtagsError
from privacy.hosting.problems import error_of, problem_of
from privacy.hosting.signed_requests import SignedRequestAuth
from privacy.identity import SigningKey, sign_plan
from tests.integration.control_plane_server import (
    PLAN,
    Coordinator,
    make_coordinator,
    open_coordinator,
)

ORIGIN = "https://127.0.0.1"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("template") / "coordinator"
    make_coordinator(home).service.close()
    return home


@pytest.fixture
def coordinator(template: Path, tmp_path: Path) -> Iterator[Coordinator]:
    """A home of its own for each test; init's keys are made once."""
    shutil.copytree(template, tmp_path / "coordinator")
    opened = open_coordinator(tmp_path / "coordinator")
    yield opened
    opened.service.close()


def call(
    coordinator: Coordinator,
    method: str,
    path: str,
    body: object = None,
    token: str | None = "",
    content: bytes | None = None,
    auth: httpx.Auth | None = None,
) -> httpx.Response:
    """One request; `token` "" means the admin's, None means none."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=coordinator.service.app)
        headers = {} if token is None else {"authorization": f"Bearer {token or coordinator.token}"}
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            return await client.request(
                method, path, json=body, content=content, headers=headers, auth=auth
            )

    return asyncio.run(ask())


def enrol(coordinator: Coordinator, *names: str) -> dict[str, SigningKey]:
    keys = {}
    for name in names:
        keys[name] = SigningKey.generate()
        token = coordinator.control.invite(name).token
        body = {
            "token": token,
            "party": name,
            "public_key": keys[name].public.hex(),
            "supernode_public_key": f"ecdsa-sha2-nistp384 {name:a<40}",
        }
        answer = call(
            coordinator,
            "POST",
            "/v1/enrolments",
            body,
            token=None,
            auth=SignedRequestAuth(name, keys[name]),
        )
        assert answer.status_code == 200, answer.text
    return keys


def submission(
    coordinator: Coordinator, run_id: str = "run-1", plan: bytes = PLAN
) -> dict[str, str]:
    key = SigningKey.load(coordinator.settings.requester_key)
    return {
        "run_id": run_id,
        "plan": plan.decode(),
        "requester_public_key": key.public.hex(),
        "requester_signature": sign_plan(key, run_id, plan).hex(),
    }


def problem(answer: httpx.Response, status: int, error: type[FedtagsError]) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"]) == (status, status), body
    assert (body["error"], body["exit_code"]) == (error.__name__, error.exit_code)
    return body


def test_submitted_plan_is_stored_and_handed_to_flower(coordinator: Coordinator) -> None:
    enrol(coordinator, "bank", "retailer", "shop")
    answer = call(coordinator, "POST", "/v1/runs", submission(coordinator))
    assert answer.status_code == 201, answer.text
    assert coordinator.executor.started == ["run-1"]
    run = call(coordinator, "GET", "/v1/runs/run-1").json()
    assert run["flower_run_id"] == "flower-run-1"
    assert run["requester"] == "data-science"
    assert run["members"] == ["bank", "retailer", "shop"]
    assert coordinator.control.runs.load_request("run-1").plan_source == PLAN
    listed = call(coordinator, "GET", "/v1/runs").json()["runs"]
    assert [item["run_id"] for item in listed] == ["run-1"]


def test_same_submission_again_starts_nothing_new(coordinator: Coordinator) -> None:
    enrol(coordinator, "bank", "retailer", "shop")
    first = call(coordinator, "POST", "/v1/runs", submission(coordinator))
    second = call(coordinator, "POST", "/v1/runs", submission(coordinator))
    assert first.json() == second.json()
    assert coordinator.executor.started == ["run-1"]


def test_second_run_is_refused_while_one_is_active(coordinator: Coordinator) -> None:
    enrol(coordinator, "bank", "retailer", "shop")
    call(coordinator, "POST", "/v1/runs", submission(coordinator))
    answer = call(coordinator, "POST", "/v1/runs", submission(coordinator, "run-2"))
    problem(answer, 409, errors.RunActiveError)
    assert coordinator.executor.started == ["run-1"]


def test_run_that_flower_cannot_take_is_failed_at_once(coordinator: Coordinator) -> None:
    enrol(coordinator, "bank", "retailer", "shop")
    coordinator.executor.broken = True
    answer = call(coordinator, "POST", "/v1/runs", submission(coordinator))
    problem(answer, 503, errors.NotRunningError)
    assert coordinator.control.runs.get("run-1").state == "failed"
    assert coordinator.control.runs.active_run() is None


def test_run_that_was_stored_but_never_started_is_failed_at_the_next_start(
    coordinator: Coordinator,
) -> None:
    coordinator.control.runs.create_run("run-1", PLAN, b"p" * 32, b"s" * 64)
    coordinator.control.recover()
    assert coordinator.control.runs.get("run-1").state == "failed"


def test_stop_asks_first_and_ends_at_once_when_forced(coordinator: Coordinator) -> None:
    enrol(coordinator, "bank", "retailer", "shop")
    call(coordinator, "POST", "/v1/runs", submission(coordinator))
    asked = call(coordinator, "POST", "/v1/runs/run-1/stop", {}).json()
    assert (asked["state"], asked["stop_requested"]) == ("created", True)
    assert coordinator.executor.stopped == []
    forced = call(coordinator, "POST", "/v1/runs/run-1/stop", {"force": True}).json()
    assert (forced["state"], forced["exit_code"]) == ("stopped", 24)
    assert coordinator.executor.stopped == ["flower-run-1"]
    problem(call(coordinator, "POST", "/v1/runs/run-1/stop", {}), 409, errors.RunError)


def test_a_paused_run_shows_whom_it_waits_for_and_can_be_resumed_or_stopped(
    coordinator: Coordinator,
) -> None:
    enrol(coordinator, "bank", "retailer", "shop")
    call(coordinator, "POST", "/v1/runs", submission(coordinator))
    detail = problem(call(coordinator, "POST", "/v1/runs/run-1/resume"), 409, errors.RunError)
    assert "not paused" in detail["detail"]
    recorder = coordinator.control.runs.recorder("run-1")
    recorder.phase("round", 2, 6)
    recorder.membership("bank", "left")
    recorder.pause(["bank"], datetime(2030, 1, 1, 14, 5, tzinfo=UTC))
    run = call(coordinator, "GET", "/v1/runs/run-1").json()
    assert (run["state"], run["waiting_for"]) == ("paused", ["bank"])
    assert run["pause_until"] == "2030-01-01T14:05:00Z"
    left = {"party": "bank", "event": "left", "phase": "round", "round": 2}
    assert left.items() <= run["membership"][0].items()
    resumed = call(coordinator, "POST", "/v1/runs/run-1/resume").json()
    assert (resumed["state"], resumed["resume_requested"]) == ("paused", True)
    assert recorder.resume_requested()
    stopped = call(coordinator, "POST", "/v1/runs/run-1/stop", {}).json()
    assert (stopped["state"], stopped["stop_requested"]) == ("paused", True)
    assert recorder.stop_requested()


def test_forced_stop_frees_the_slot_even_if_flower_refuses(coordinator: Coordinator) -> None:
    enrol(coordinator, "bank", "retailer", "shop")
    call(coordinator, "POST", "/v1/runs", submission(coordinator))
    coordinator.executor.broken = True
    answer = call(coordinator, "POST", "/v1/runs/run-1/stop", {"force": True})
    problem(answer, 503, errors.NotRunningError)
    assert coordinator.control.runs.get("run-1").state == "stopped"
    assert coordinator.control.runs.active_run() is None


def test_plan_with_too_few_parties_is_refused_before_a_run_exists(
    coordinator: Coordinator,
) -> None:
    enrol(coordinator, "bank", "shop")
    answer = call(coordinator, "POST", "/v1/runs", submission(coordinator))
    assert "at least 3" in problem(answer, 409, errors.CohortError)["detail"]
    named = PLAN + b'[cohort]\nparties = ["bank", "shop", "nobody"]\n'
    answer = call(coordinator, "POST", "/v1/plans/validate", {"plan": named.decode()})
    assert "nobody" in problem(answer, 409, errors.CohortError)["detail"]
    assert call(coordinator, "GET", "/v1/runs").json() == {"runs": [], "next": None}


def test_valid_plan_is_answered_with_its_digest_and_cohort(coordinator: Coordinator) -> None:
    enrol(coordinator, "bank", "retailer", "shop")
    answer = call(coordinator, "POST", "/v1/plans/validate", {"plan": PLAN.decode()}).json()
    assert answer["parties"] == ["bank", "retailer", "shop"]
    assert (answer["name"], answer["minimum"], len(answer["digest"])) == ("churn", 3, 64)


def test_unknown_key_in_a_plan_is_named_and_its_value_is_not(coordinator: Coordinator) -> None:
    plan = PLAN.decode() + 'sede = "SECRET-VALUE"\n'
    answer = call(coordinator, "POST", "/v1/plans/validate", {"plan": plan})
    detail = problem(answer, 422, errors.PlanError)["detail"]
    assert "sede" in detail
    assert "SECRET-VALUE" not in answer.text


def test_plan_signed_by_a_stranger_or_for_another_run_is_refused(
    coordinator: Coordinator,
) -> None:
    enrol(coordinator, "bank", "retailer", "shop")
    stranger = SigningKey.generate()
    body = submission(coordinator)
    body["requester_public_key"] = stranger.public.hex()
    body["requester_signature"] = sign_plan(stranger, "run-1", PLAN).hex()
    problem(call(coordinator, "POST", "/v1/runs", body), 401, errors.SignatureError)
    moved = submission(coordinator, "run-1") | {"run_id": "run-2"}
    problem(call(coordinator, "POST", "/v1/runs", moved), 401, errors.SignatureError)
    assert coordinator.control.runs.list_runs() == []


@pytest.mark.parametrize("token", [None, "wrong", "é"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/invitations"),
        ("GET", "/v1/parties"),
        ("GET", "/v1/members"),
        ("POST", "/v1/plans/validate"),
        ("POST", "/v1/runs"),
        ("GET", "/v1/runs"),
        ("GET", "/v1/runs/run-1"),
        ("POST", "/v1/runs/run-1/stop"),
        ("POST", "/v1/runs/run-1/resume"),
    ],
)
def test_nothing_is_answered_without_the_right_token(
    coordinator: Coordinator, token: str | None, method: str, path: str
) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=coordinator.service.app)
        headers = [] if token is None else [(b"authorization", b"Bearer " + token.encode())]
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
            return await client.request(
                method, path, json={"party": "bank", "plan": ""}, headers=headers
            )

    problem(asyncio.run(ask()), 401, errors.NotSignedIn)


# Everybody who reaches the port may call these; what a party's node calls it signs.
OPEN = {
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),  # on the coordinator's own machine
    ("POST", "/v1/session"),  # with a password
}
# Without a session there is nothing to end or to change, which these say by other means.
OF_A_SESSION = {
    ("DELETE", "/v1/session"),
    ("GET", "/v1/session/oidc"),
    ("GET", "/v1/session/oidc/callback"),
}


def test_every_route_but_health_needs_someone(coordinator: Coordinator) -> None:
    document = call(coordinator, "GET", "/v1/openapi.json").json()
    asked = 0
    for path, operations in document["paths"].items():
        for method in map(str.upper, operations):
            if (method, path) in OPEN | OF_A_SESSION:
                continue
            filled = path.replace("{run_id}", "run-1").replace("{name}", "bank")
            answer = call(coordinator, method, filled, token=None)
            # A wrong body is refused before what else the request must show can be looked at.
            early = path in ("/v1/enrolments", "/v1/session/password")
            assert answer.status_code == (422 if early else 401), (method, path, answer.text)
            asked += 1
    assert asked > 35
    assert call(coordinator, "GET", "/v1/openapi.json", token=None).status_code == 401


def test_party_reads_the_members_with_its_own_signature_only(coordinator: Coordinator) -> None:
    keys = enrol(coordinator, "bank", "shop")
    auth = SignedRequestAuth("bank", keys["bank"])
    answer = call(coordinator, "GET", "/v1/members", token=None, auth=auth)
    assert [member["name"] for member in answer.json()["members"]] == ["bank", "shop"]
    for wrong in (
        SignedRequestAuth("bank", keys["shop"]),
        SignedRequestAuth("nobody", keys["bank"]),
    ):
        answer = call(coordinator, "GET", "/v1/members", token=None, auth=wrong)
        problem(answer, 401, errors.SignatureError)
    problem(call(coordinator, "GET", "/v1/runs", token=None, auth=auth), 401, errors.NotSignedIn)


def test_enrolment_must_be_signed_with_the_key_that_it_names(coordinator: Coordinator) -> None:
    token = coordinator.control.invite("bank").token
    body = {
        "token": token,
        "party": "bank",
        "public_key": SigningKey.generate().public.hex(),
        "supernode_public_key": "ecdsa-sha2-nistp384 " + "a" * 40,
    }
    auth = SignedRequestAuth("bank", SigningKey.generate())
    answer = call(coordinator, "POST", "/v1/enrolments", body, token=None, auth=auth)
    problem(answer, 401, errors.SignatureError)
    assert coordinator.control.members.parties() == []
    assert coordinator.executor.registered == {}


def test_body_above_the_limit_is_refused_unread(coordinator: Coordinator) -> None:
    content = b'{"plan": "' + b"x" * 300_000 + b'"}'
    answer = call(coordinator, "POST", "/v1/plans/validate", content=content)
    problem(answer, 413, errors.ProtocolError)


def test_invalid_body_names_the_field_and_never_its_value(coordinator: Coordinator) -> None:
    answer = call(coordinator, "POST", "/v1/invitations", {"party": "SECRET VALUE"})
    assert "body.party" in problem(answer, 422, errors.ProtocolError)["detail"]
    assert "SECRET" not in answer.text
    answer = call(coordinator, "POST", "/v1/invitations", content=b"{not json")
    problem(answer, 422, errors.ProtocolError)


def test_unknown_path_is_a_problem_too(coordinator: Coordinator) -> None:
    problem(call(coordinator, "GET", "/v1/nothing"), 404, errors.NotFound)
    assert call(coordinator, "GET", "/docs").status_code == 404
    assert call(coordinator, "GET", "/openapi.json").status_code == 404


def test_unforeseen_error_says_nothing_of_its_cause(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run_id: str) -> str:
        raise ZeroDivisionError("SECRET CAUSE")

    enrol(coordinator, "bank", "retailer", "shop")
    monkeypatch.setattr(coordinator.executor, "start_run", broken)
    answer = call(coordinator, "POST", "/v1/runs", submission(coordinator))
    problem(answer, 500, FedtagsError)
    assert "SECRET" not in answer.text
    assert "SECRET CAUSE" in caplog.text
    assert coordinator.control.runs.active_run() is None


def test_every_error_survives_the_way_over_http() -> None:
    for kind in (value for value in vars(errors).values() if isinstance(value, type)):
        if kind is errors.PolicyRefusal:
            error: FedtagsError = errors.PolicyRefusal("epsilon", "too much")
        elif kind is errors.EvidenceError:
            error = errors.EvidenceError("plan.toml", "what to do")
        elif issubclass(kind, FedtagsError):
            error = kind("what to do")
        else:
            continue
        back = error_of(json.loads(json.dumps(problem_of(error)[1])))
        assert (type(back), str(back), back.exit_code) == (kind, str(error), kind.exit_code)


def test_database_holds_no_token(coordinator: Coordinator) -> None:
    token = coordinator.control.invite("bank").token
    coordinator.service.close()
    stored = b"".join(
        path.read_bytes() for path in coordinator.settings.home.glob("coordinator.db*")
    )
    assert b"bank" in stored
    assert token.encode() not in stored
    assert coordinator.token.encode() not in stored
