"""Who may ask what of the control plane's API, and what it answers: people, programs, parties."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.idempotency import Answers
from coordinator.roles import Permission, may
from models.charges import charges
from models.plan import parse_plan
from privacy import errors
from privacy.accounting import epsilon
from privacy.hosting.access import Principal
from privacy.hosting.security_headers import SECURITY_HEADERS
from privacy.hosting.signed_requests import SignedRequestAuth
from tests.integration.control_plane_server import PLAN
from tests.integration.coordinator_asking import (
    ORIGIN,
    PASSWORD,
    ROLES,
    Asked,
    asked,
    make_template,
    problem,
)

OTHER_PLAN = PLAN.replace(b"epsilon = 1.0", b"epsilon = 0.5")
KEY = {"idempotency-key": "one-request-of-mine"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template") / "coordinator")


@pytest.fixture
def api(template: Path, tmp_path: Path) -> Iterator[Asked]:
    with asked(template, tmp_path / "coordinator") as opened:
        yield opened


# Who may ---------------------------------------------------------------------------------------


# Each with what it needs; the party operators' permissions are the own party's.
READS = {
    "/v1/federation": Permission.SEE_FEDERATION,
    "/v1/overview": Permission.SEE_FEDERATION,
    "/v1/parties": Permission.SEE_PARTIES,
    "/v1/parties/bank": Permission.SEE_PARTIES,
    "/v1/invitations": Permission.INVITE_PARTY,
    "/v1/runs": Permission.SEE_RUNS,
    "/v1/runs/run-1": Permission.SEE_RUNS,
    "/v1/runs/run-1/plan": Permission.SEE_RUNS,
    "/v1/runs/run-1/evidence": Permission.SEE_EVIDENCE,
    "/v1/models": Permission.SEE_MODELS,
    "/v1/budgets": Permission.SEE_BUDGETS,
    "/v1/tags": Permission.SEE_TAGS,
    "/v1/evidence": Permission.SEE_EVIDENCE,
    "/v1/alerts": Permission.SEE_ALERTS,
    "/v1/people": Permission.SEE_PEOPLE,
    "/v1/tokens": Permission.SEE_PEOPLE,
    "/v1/audit": Permission.SEE_AUDIT,
    "/v1/audit/chain": Permission.SEE_AUDIT,
}
# Refused for what they name, not for who asks, wherever the role may.
CHANGES: dict[tuple[str, str], tuple[Permission, object]] = {
    ("POST", "/v1/invitations"): (Permission.INVITE_PARTY, {"party": "bank"}),
    ("DELETE", "/v1/parties/nobody"): (Permission.REMOVE_PARTY, None),
    ("POST", "/v1/plans/validate"): (Permission.CHECK_PLAN, {"plan": "x"}),
    ("POST", "/v1/plans/dry-run"): (Permission.CHECK_PLAN, {"plan": "x"}),
    ("POST", "/v1/plans/diff"): (Permission.CHECK_PLAN, {"plan": "x", "run": "run-1"}),
    ("POST", "/v1/runs/run-1/stop"): (Permission.CONTROL_RUN, {}),
    ("POST", "/v1/runs/run-1/resume"): (Permission.CONTROL_RUN, None),
    ("DELETE", "/v1/people/nobody"): (Permission.MANAGE_PEOPLE, None),
    ("DELETE", "/v1/tokens/nobody"): (Permission.MANAGE_PEOPLE, None),
}


def test_every_role_reads_what_it_may_and_nothing_else(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.finished("run-1")
    for role in ROLES:
        for path, permission in READS.items():
            answer = api.call("GET", path, role=role)
            other = path == "/v1/parties/bank" and role == "party-operator:shop"
            wanted = 404 if other else 200 if may(role, permission) else 403
            assert answer.status_code == wanted, (role, path, answer.text)
            if wanted == 403:
                assert permission.value in problem(answer, 403, errors.AccessDenied)


def test_every_role_changes_what_it_may_and_nothing_else(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.finished("run-1")
    for role in ROLES:
        for (method, path), (permission, body) in CHANGES.items():
            answer = api.call(method, path, body, role=role)
            allowed = may(role, permission)
            assert (answer.status_code != 403) == allowed, (role, method, path, answer.text)
            assert not answer.is_success
        started = api.call("POST", "/v1/runs", api.submission("run-1"), role=role)
        assert started.status_code == (201 if may(role, Permission.START_RUN) else 403)


def test_everything_that_was_asked_is_in_the_audit_log(api: Asked) -> None:
    api.call("GET", "/v1/parties", role="reviewer")
    api.call("POST", "/v1/invitations", {"party": "bank"}, role="reviewer")
    api.enrol("bank")
    lines = api.get("/v1/audit")["lines"]
    told = [(one["who"], one["what"], one["detail"], one["allowed"]) for one in lines]
    assert told[0][:2] == ("t-admin", Permission.SEE_AUDIT.value)
    assert ("bank", "enrol", "", True) in told
    assert ("t-reviewer", Permission.INVITE_PARTY.value, "bank", False) in told
    assert ("t-reviewer", Permission.SEE_PARTIES.value, "", True) in told
    assert api.get("/v1/audit/chain")["whole"] is True


def test_a_token_that_was_revoked_or_has_expired_opens_nothing(api: Asked) -> None:
    access = api.coordinator.service.desk.access
    api.get("/v1/runs", role="reviewer")
    access.revoke_token("t-reviewer")
    problem(api.call("GET", "/v1/runs", role="reviewer"), 401, errors.NotSignedIn)
    assert api.call("POST", "/v1/runs", {}, role="reviewer", headers=KEY).status_code == 401


def test_people_and_tokens_are_a_persons_to_make(api: Asked) -> None:
    body = {"name": "anna", "role": "reviewer", "password": PASSWORD}
    denied = problem(api.call("POST", "/v1/people", body), 403, errors.AccessDenied)
    assert "a person's" in denied
    desk = api.coordinator.service.desk
    desk.add_person(Principal("root", "admin", "command"), "ada", "admin", PASSWORD)
    signed_in = api.call("POST", "/v1/session", {"name": "ada", "password": PASSWORD}, role=None)
    cookie, csrf = signed_in.cookies, signed_in.json()["csrf"]
    session = {"cookie": "; ".join(f"{name}={value}" for name, value in cookie.items())}
    refused = api.call("POST", "/v1/people", body, role=None, headers=session)
    problem(refused, 403, errors.AccessDenied)
    session |= {"x-csrf-token": csrf, "origin": ORIGIN}
    made = api.call("POST", "/v1/people", body, role=None, headers=session)
    assert (made.status_code, made.json()["role"]) == (201, "reviewer")
    token = api.call(
        "POST", "/v1/tokens", {"name": "ci", "role": "reviewer"}, role=None, headers=session
    ).json()
    api.tokens["ci"] = token["secret"]
    assert api.get("/v1/session", role="ci")["role"] == "reviewer"
    foreign = api.call(
        "POST", "/v1/people", body, role=None, headers=session | {"origin": "https://evil.test"}
    )
    problem(foreign, 403, errors.AccessDenied)


# Requests that come twice ----------------------------------------------------------------------


def test_a_repeated_request_is_answered_with_the_first_ones_answer(api: Asked) -> None:
    first = api.call("POST", "/v1/invitations", {"party": "bank"}, headers=KEY)
    second = api.call("POST", "/v1/invitations", {"party": "bank"}, headers=KEY)
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert len(api.get("/v1/invitations")) == 1
    wrong = api.call("POST", "/v1/invitations", {"party": "shop"}, headers=KEY)
    assert "another request" in problem(wrong, 422, errors.ConfigError)
    others = api.call("POST", "/v1/runs", {"party": "bank"}, headers=KEY)
    assert others.status_code == 422  # another path, so its body was looked at
    api.coordinator.service.close()
    stored = b"".join(one.read_bytes() for one in api.coordinator.settings.home.glob("*.db*"))
    assert first.json()["token"].encode() not in stored


def test_somebody_elses_key_answers_nothing(api: Asked) -> None:
    api.call("POST", "/v1/invitations", {"party": "bank"}, headers=KEY)
    denied = api.call(
        "POST", "/v1/invitations", {"party": "bank"}, headers=KEY, role="data-scientist"
    )
    problem(denied, 403, errors.AccessDenied)


def test_a_request_that_failed_can_be_made_again_with_its_key(api: Asked) -> None:
    api.enrol("bank", "shop")
    problem(
        api.call("POST", "/v1/runs", api.submission("run-1"), headers=KEY), 409, errors.CohortError
    )
    api.enrol("retailer")
    started = api.call("POST", "/v1/runs", api.submission("run-1"), headers=KEY)
    assert started.status_code == 201
    assert api.coordinator.executor.started == ["run-1"]


def test_the_same_request_while_the_first_is_answered_waits_its_turn(api: Asked) -> None:
    answers = Answers(api.coordinator.service.desk.access)
    begun = answers.begin("token admin t-admin", "/v1/invitations", KEY["idempotency-key"], b"{}")
    assert begun is not None
    answer = api.call("POST", "/v1/invitations", content=b"{}", headers=KEY)
    assert "already" in problem(answer, 409, errors.ProtocolError)


@pytest.mark.parametrize("key", ["short", "x" * 129, "with blanks in it, and"])
def test_a_key_out_of_bounds_is_refused(api: Asked, key: str) -> None:
    headers = {"idempotency-key": key}
    answer = api.call("POST", "/v1/invitations", {"party": "bank"}, headers=headers)
    assert "Idempotency-Key" in problem(answer, 422, errors.ProtocolError)
    assert api.get("/v1/invitations") == []


# Runs ------------------------------------------------------------------------------------------


def test_of_two_who_submit_at_once_one_has_the_run(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    found: dict[str, int] = {}
    together = threading.Barrier(2)

    def submit(run_id: str) -> None:
        body, token = api.submission(run_id), api.token("admin")
        together.wait()
        assert token
        found[run_id] = api.call("POST", "/v1/runs", body).status_code

    api.token("admin")
    threads = [threading.Thread(target=submit, args=(run_id,)) for run_id in ("run-1", "run-2")]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(found.values()) == [201, 409]
    winner = next(run_id for run_id, status in found.items() if status == 201)
    assert api.coordinator.executor.started == [winner]


def test_runs_are_told_page_by_page_without_a_gap(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    for number in range(5):
        api.finished(f"run-{number}", OTHER_PLAN if number == 2 else PLAN)
    seen, cursor = [], ""
    while True:
        page = api.get(f"/v1/runs?limit=2{cursor}")
        seen += [one["run_id"] for one in page["runs"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == ["run-4", "run-3", "run-2", "run-1", "run-0"]
    assert api.get("/v1/runs?state=failed")["runs"] == []
    assert len(api.get("/v1/runs?party=bank")["runs"]) == 5
    assert api.get("/v1/runs?party=nobody")["runs"] == []
    lines, cursor = [], ""
    for _ in range(4):
        page = api.get(f"/v1/audit?limit=3{cursor}")
        lines += [one["number"] for one in page["lines"]]
        cursor = f"&cursor={page['next']}"
    # Each request adds a line, which must neither repeat nor hide one on a later page.
    assert lines == list(range(lines[0], lines[0] - 12, -1))


def test_a_failed_run_says_why_and_what_to_do(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.call("POST", "/v1/runs", api.submission("run-1"))
    api.coordinator.control.runs.fail("run-1", errors.PartyTimeout("bank did not answer in 180 s"))
    run = api.get("/v1/runs/run-1")
    failure = run["failure"]
    assert (failure["error"], failure["exit_code"]) == ("PartyTimeout", 15)
    assert failure["message"] == run["message"] == "bank did not answer in 180 s"
    assert "in time" in failure["cause"]
    assert "timeout_seconds" in failure["next_step"]


def test_a_run_shows_its_parties_figures_and_phases(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.finished("run-1")
    run = api.get("/v1/runs/run-1")
    assert run["figures"] == [{"name": "auc", "value": 0.75, "standard_error": 0.01}]
    assert [(one["phase"], one["round"]) for one in run["phases"]] == [
        ("preflight", None),
        ("round", 1),
    ]
    bank = next(one for one in run["parties"] if one["party"] == "bank")
    assert bank == {
        "party": "bank", "status": "finished", "reason": None, "bytes_up": 1100,
        "bytes_down": 250, "private": False,
    }  # fmt: skip
    assert run["asked"] == {"training": 1.0, "evaluation": 1.0}
    assert api.get("/v1/runs/run-1/plan")["text"] == PLAN.decode()


def test_a_stopped_run_that_is_stopped_again_is_refused_in_words(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.call("POST", "/v1/runs", api.submission("run-1"))
    assert api.call("POST", "/v1/runs/run-1/stop", {"force": True}).json()["state"] == "stopped"
    again = api.call("POST", "/v1/runs/run-1/stop", {"force": True})
    assert "already ended" in problem(again, 409, errors.RunError)
    problem(api.call("POST", "/v1/runs/never/stop", {}), 404, errors.NotFound)
    problem(api.call("POST", "/v1/runs/never/resume"), 404, errors.NotFound)


def test_runs_are_compared_side_by_side_with_their_plans(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.finished("run-1")
    api.finished("run-2", OTHER_PLAN, auc=0.8)
    found = api.get("/v1/compare?run=run-2&run=run-1")["runs"]
    assert [one["run"]["run_id"] for one in found] == ["run-2", "run-1"]
    assert [one["figures"][0]["value"] for one in found] == [0.8, 0.75]
    assert found[0]["changes"] == []
    assert found[1]["changes"] == [{"key": "privacy.epsilon", "before": "0.5", "after": "1.0"}]
    assert (found[0]["bytes_up"], found[0]["bytes_down"]) == (3300, 750)
    assert api.call("GET", "/v1/compare?run=run-1").status_code == 422
    answer = api.call("GET", "/v1/compare?run=run-1&run=run-1")
    problem(answer, 422, errors.ConfigError)
    problem(api.call("GET", "/v1/compare?run=run-1&run=never"), 404, errors.NotFound)


def test_models_are_versions_of_a_plans_name_with_lineage(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.finished("run-1")
    api.finished("run-2", OTHER_PLAN)
    models = api.get("/v1/models")["models"]
    assert [(one["run_id"], one["version"]) for one in models] == [("run-2", 2), ("run-1", 1)]
    assert models[0]["parties"] == ["bank", "retailer", "shop"]
    assert (models[0]["task"], models[0]["digests"]) == ("churn", {})
    page = api.get("/v1/models?limit=1")
    assert api.get(f"/v1/models?cursor={page['next']}")["models"][0]["run_id"] == "run-1"


# A party operator ------------------------------------------------------------------------------


def test_a_party_operator_sees_the_own_party_and_its_runs_alone(api: Asked) -> None:
    api.enrol("retailer", "shop", "cafe")
    api.finished("before")
    api.enrol("bank")
    api.finished("with")
    as_bank = "party-operator:bank"
    assert [one["name"] for one in api.get("/v1/parties", as_bank)["parties"]] == ["bank"]
    assert [one["run_id"] for one in api.get("/v1/runs", as_bank)["runs"]] == ["with"]
    assert api.get("/v1/runs?party=shop", as_bank)["runs"] == []
    for path in ("before", "before/plan", "before/cost", "before/events", "before/evidence"):
        answer = api.call("GET", f"/v1/runs/{path}", role=as_bank)
        problem(answer, 404, errors.NotFound)
    problem(api.call("GET", "/v1/compare?run=with&run=before", role=as_bank), 404, errors.NotFound)
    run = api.get("/v1/runs/with", as_bank)
    assert all(set(one["bytes_up"]) == {"bank"} for one in run["exchanges"])
    assert run["outcome"]["refused"] == {}
    assert set(run["outcome"]["ledger_heads"]) == {"bank"}
    private = {one["party"]: (one["private"], one["bytes_up"]) for one in run["parties"]}
    assert private["bank"] == (False, 1100)
    assert private["shop"] == (True, None)
    overview = api.get("/v1/overview", as_bank)
    assert [one["name"] for one in overview["parties"]] == ["bank"]
    assert [one["run_id"] for one in overview["last_runs"]] == ["with"]


# Parties ---------------------------------------------------------------------------------------


def test_a_removed_party_is_in_no_new_run_and_its_history_stays(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop", "cafe")
    api.finished("run-1")
    removed = api.call("DELETE", "/v1/parties/cafe").json()
    assert (removed["state"], removed["runs"][0]["run_id"]) == ("removed", "run-1")
    assert "cafe" not in api.coordinator.executor.registered
    assert [one["name"] for one in api.get("/v1/parties")["parties"]] == [
        "bank", "retailer", "shop",
    ]  # fmt: skip
    assert len(api.get("/v1/parties?removed=true")["parties"]) == 4
    problem(api.call("DELETE", "/v1/parties/cafe"), 404, errors.NotFound)
    api.finished("run-2")
    assert "cafe" not in api.get("/v1/runs/run-2")["members"]
    assert "cafe" in api.get("/v1/runs/run-1")["members"]
    members = api.get("/v1/members")["members"]
    assert "cafe" not in {one["name"] for one in members}


def test_a_party_of_the_active_run_is_not_removed(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.call("POST", "/v1/runs", api.submission("run-1"))
    answer = api.call("DELETE", "/v1/parties/shop")
    assert "run-1" in problem(answer, 409, errors.RunActiveError)
    assert "shop" in api.coordinator.executor.registered


def test_a_removed_party_comes_back_with_its_old_keys_only(api: Asked) -> None:
    api.enrol("bank", "retailer")
    api.call("DELETE", "/v1/parties/bank")
    own = api.keys.pop("bank")
    with pytest.raises(AssertionError, match="other keys"):
        api.enrol("bank")
    assert api.coordinator.control.members.party("bank") is None
    api.keys["bank"] = own
    api.enrol("bank")
    assert [one["name"] for one in api.get("/v1/parties")["parties"]] == ["bank", "retailer"]


def test_a_removed_partys_requests_and_invitations_end(api: Asked) -> None:
    api.enrol("bank")
    api.call("POST", "/v1/invitations", {"party": "shop"})
    api.call("DELETE", "/v1/parties/bank")
    auth = SignedRequestAuth("bank", api.keys["bank"])
    answer = api.call("GET", "/v1/members", role=None, auth=auth)
    problem(answer, 401, errors.SignatureError)
    assert [one["party"] for one in api.get("/v1/invitations")] == ["shop"]


def test_parties_are_up_or_down_and_tell_what_they_tell(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.coordinator.executor.online.add("bank")
    api.disclose("bank", public_size=6000, used=0.25)
    parties = {one["name"]: one for one in api.get("/v1/parties")["parties"]}
    assert (parties["bank"]["state"], parties["shop"]["state"]) == ("up", "down")
    assert (parties["bank"]["public_size"], parties["bank"]["budget_used"]) == (6000, 0.25)
    assert parties["shop"]["told_at"] is parties["shop"]["public_size"] is None
    assert [one["party"] for one in api.get("/v1/budgets")] == ["bank"]
    assert api.get("/v1/budgets", "party-operator:shop") == []
    detail = api.get("/v1/parties/bank")
    assert detail["told"]["status"]["public_size"] == 6000
    assert detail["budget"]["over_time"][-1]["used"] == 0.25
    overview = api.get("/v1/overview")
    assert (overview["up"], overview["down"]) == (1, 2)


# Plans -----------------------------------------------------------------------------------------


def test_a_dry_run_tells_each_partys_cost_and_starts_nothing(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.coordinator.executor.online |= {"bank", "retailer"}
    api.disclose("bank", public_size=6000, used=0.25)
    api.disclose("retailer", public_size=6000, used=0.999)
    found = api.call("POST", "/v1/plans/dry-run", {"plan": PLAN.decode()}).json()
    parties = {one["party"]: one for one in found["parties"]}
    made = charges(parse_plan(PLAN), 6000)
    assert parties["bank"]["epsilon"] == epsilon(made.mechanisms, made.delta)
    assert parties["bank"]["delta"] == made.delta
    assert parties["bank"]["can_take_part"]
    assert parties["bank"]["budget_after"] > 0.25
    assert parties["bank"]["runs_left"] > 0
    assert not parties["retailer"]["can_take_part"]
    assert "no room" in parties["retailer"]["why"]
    assert (parties["shop"]["can_take_part"], parties["shop"]["epsilon"]) == (False, None)
    assert "not connected" in parties["shop"]["why"]
    assert (found["enough"], found["asked"]) == (False, {"training": 1.0, "evaluation": 1.0})
    assert api.get("/v1/runs")["runs"] == []
    assert api.coordinator.executor.started == []


def test_a_plan_is_compared_with_a_runs(api: Asked) -> None:
    api.enrol("bank", "retailer", "shop")
    api.finished("run-1")
    body = {"plan": OTHER_PLAN.decode(), "run": "run-1"}
    found = api.call("POST", "/v1/plans/diff", body).json()
    assert found["changes"] == [{"key": "privacy.epsilon", "before": "1.0", "after": "0.5"}]
    missing = api.call("POST", "/v1/plans/diff", body | {"run": "never"})
    problem(missing, 404, errors.NotFound)


@pytest.mark.parametrize(
    "plan",
    [
        PLAN.decode() + '\nx = "<script>alert(1)</script>"',
        PLAN.decode().replace('"churn"', '"<img src=x onerror=alert(1)>"', 1),
        PLAN.decode().replace('"churn"', '"churn\\u001b[2J"', 1),
        "format = 1\n" * 3,
        "a = " + "[" * 20_000,
        "a = " + "9" * 20_000,
        '"\\u001b[2J" = 1',
        "\x00",
        "",
    ],
)
def test_a_hostile_plan_is_refused_and_not_repeated(api: Asked, plan: str) -> None:
    for path in ("/v1/plans/validate", "/v1/plans/dry-run"):
        answer = api.call("POST", path, {"plan": plan})
        detail = problem(answer, 422, errors.PlanError)
        assert "script" not in detail
        assert "onerror" not in detail
        assert "\x1b" not in detail


def test_a_plan_of_five_megabytes_is_refused_unread(api: Asked) -> None:
    content = b'{"plan": "' + b"x" * 5_000_000 + b'"}'
    answer = api.call("POST", "/v1/plans/validate", content=content)
    problem(answer, 413, errors.ProtocolError)


@pytest.mark.parametrize(
    "query",
    ["cursor=x", "cursor=bnVsbA", "cursor=WyIiLCIiXQ", "limit=0", "limit=501", "state=x",
     "plan=A", "cursor=" + "a" * 500, "party=%00"],
)  # fmt: skip
def test_a_wrong_query_is_refused_in_words(api: Asked, query: str) -> None:
    answer = api.call("GET", f"/v1/runs?{query}")
    assert answer.status_code == 422, answer.text
    body: dict[str, Any] = answer.json()
    assert query.partition("=")[0] in body["detail"]


# What stands around every answer ---------------------------------------------------------------


def test_every_answer_carries_the_security_headers_and_foreign_hosts_get_none(api: Asked) -> None:
    for path, role in (("/v1/runs", "admin"), ("/v1/runs", None), ("/nothing", "admin")):
        answer = api.call("GET", path, role=role)
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name].startswith(value)
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "max-age" in answer.headers["strict-transport-security"]
    answer = api.call("GET", "/health", role=None, headers={"host": "evil.test"})
    problem(answer, 421, errors.AccessDenied)


def test_an_address_that_a_client_states_is_not_believed(api: Asked) -> None:
    api.call("GET", "/v1/parties", headers={"x-forwarded-for": "203.0.113.9"})
    lines = api.get("/v1/audit")["lines"]
    assert {one["address"] for one in lines if one["who"] == "t-admin"} == {"127.0.0.1"}
