"""The node's API, as any HTTP client meets it (ASGI, the real application, store and SQLite)."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from party_client.api import create_app
from party_client.roles import Role
from party_client.settings import LOOPBACK, PartySettings, load_settings
from privacy.hosting.gate import Gate, cookie_name
from privacy.hosting.security_headers import SECURITY_HEADERS, KnownHosts, SecurityHeaders
from privacy.hosting.sessions import Sessions
from privacy.hosting.web import MAX_BODY_BYTES
from tests.desk_home import HIGH, PURPOSE, Opened, make_home, opened

PASSWORD = "a long enough password"
ORIGIN = "http://127.0.0.1:8480"
OPEN_ROUTES = {
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),  # on the node's own machine
    ("GET", "/v1/openapi.json"),
    ("HEAD", "/v1/openapi.json"),
    ("POST", "/v1/session"),  # with a password
}


@dataclass(frozen=True)
class Node:
    """A node with its application, and a token of each role."""

    home: Opened
    app: ASGIApp
    routes: list[BaseRoute]
    tokens: dict[Role, str]

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        role: Role | None = Role.ADMIN,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        client: tuple[str, int] = ("127.0.0.1", 5000),
    ) -> httpx.Response:
        """One request with the token of `role`."""
        sent = dict(headers or {})
        if role is not None:
            sent["authorization"] = f"Bearer {self.tokens[role]}"

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, client=client)
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as http:
                return await http.request(method, path, json=body, content=content, headers=sent)

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> PartySettings:
    return make_home(tmp_path_factory.mktemp("template"))


def open_node(home: Opened) -> Node:
    gate = Gate(
        home.access,
        Sessions(home.access),
        home.desk.note_sign_in,
        cookie_name("party", 8480, secure=False),
        secure=False,
    )
    app = create_app(home.desk, gate, home.settings)
    tokens = {
        role: home.access.create_token(f"t-{role}", role, created_by="test")[1] for role in Role
    }
    guarded = SecurityHeaders(KnownHosts(app, hosts=LOOPBACK), tls=False)
    return Node(home, guarded, app.routes, tokens)


@pytest.fixture
def node(template: PartySettings, tmp_path: Path) -> Iterator[Node]:
    shutil.copytree(template.home, tmp_path / "bank")
    with opened(load_settings(tmp_path / "bank")) as home:
        yield open_node(home)


@pytest.fixture(scope="module")
def fuzzed(template: PartySettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("fuzzed") / "bank"
    shutil.copytree(template.home, folder)
    with opened(load_settings(folder)) as home:
        yield open_node(home)


def problem(answer: httpx.Response, status: int, error: str) -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["error"]) == (status, status, error), body
    return str(body["detail"])


def endpoints(node: Node) -> list[tuple[str, str]]:
    """Every method and path that the application answers, with its parts filled in."""
    found = []
    for route in flat(node.routes):
        path = route.path.replace("{digest}", "d" * 64).replace("{name}", "nobody")
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


def flat(routes: Sequence[BaseRoute]) -> Iterator[Route]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from flat(included.routes)
        else:
            assert isinstance(route, Route), "a part that this test cannot look into"
            yield route


def lookup(node: Node, customer: str, role: Role = Role.OPERATOR) -> httpx.Response:
    body = {"customer": customer, "purpose": PURPOSE}
    return node.call("POST", "/v1/customers/lookup", body, role=role)


def test_every_route_asks_who_it_is_but_the_listed_ones(node: Node) -> None:
    asked = endpoints(node)
    assert len(asked) > 30
    assert set(asked) >= OPEN_ROUTES
    for method, path in set(asked) - OPEN_ROUTES:
        for headers in (
            {},
            {"authorization": "Bearer nonsense"},
            {"authorization": f"Basic {node.tokens[Role.ADMIN]}"},
            {"cookie": "fedtags-party-8480=nonsense"},
        ):
            answer = node.call(method, path, role=None, headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            problem(answer, 401, "NotSignedIn")
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_customer_is_looked_up_with_the_id_in_the_body_alone(node: Node) -> None:
    answer = lookup(node, "c001")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["customer"] == "c001"
    assert [tag["value"] for tag in found["tags"]] == ["high"]
    assert not [route for route in flat(node.routes) if "{customer" in route.path]


def test_roles_hold_at_the_api(node: Node) -> None:
    problem(lookup(node, "c001", Role.REVIEWER), 403, "AccessDenied")
    masked = lookup(node, "c001", Role.MARKETER)
    assert masked.status_code == 200
    assert "c001" not in masked.text
    export = {"tag": "churn_risk", "value": "high", "purpose": PURPOSE}
    for role, status in (("marketer", 403), ("reviewer", 403), ("operator", 200)):
        answer = node.call("POST", "/v1/segments/export", export, role=Role(role))
        assert answer.status_code == status
    problem(node.call("GET", "/v1/people", role=Role.OPERATOR), 403, "AccessDenied")


def test_an_export_streams_a_file(node: Node) -> None:
    body = {"tag": "churn_risk", "value": "high", "purpose": PURPOSE, "format": "csv"}
    answer = node.call("POST", "/v1/segments/export", body)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    assert len(answer.text.splitlines()) == len(HIGH)  # one without consent, one heading
    wrong = node.call("POST", "/v1/segments/export", body | {"tag": "no_such"})
    problem(wrong, 422, "ConfigError")


def test_an_opt_out_is_one_call(node: Node) -> None:
    answer = node.call(
        "POST", "/v1/customers/opt-out", {"customer": "c001", "reason": "asked by letter"}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["unlearned"] is False
    assert lookup(node, "c001").json()["tags"] == []


def test_a_body_above_the_limit_is_refused(node: Node) -> None:
    for size in (MAX_BODY_BYTES + 1, 10 * 1024 * 1024):
        content = json.dumps({"customer": "c" * size, "purpose": PURPOSE}).encode()
        answer = node.call(
            "POST",
            "/v1/customers/lookup",
            content=content,
            headers={"content-type": "application/json"},
        )
        problem(answer, 413, "ProtocolError")


@pytest.mark.parametrize(
    "customer", ["' OR '1'='1", '"; DROP TABLE customers; --', "c001'--", "%", "\u202ec001"]
)
def test_sql_in_a_customer_id_finds_nobody(node: Node, customer: str) -> None:
    answer = lookup(node, customer)
    assert answer.status_code == 200
    assert answer.json()["tags"] == []
    assert lookup(node, "c001").json()["tags"]


def test_an_answer_to_bad_input_does_not_repeat_it(node: Node) -> None:
    body = {"customer": "c001", "purpose": "Marketing!", "extra": "SECRET-VALUE"}
    detail = problem(node.call("POST", "/v1/customers/lookup", body), 422, "ProtocolError")
    assert "purpose" in detail
    assert "SECRET-VALUE" not in detail
    assert "Marketing!" not in detail


def test_a_revoked_token_opens_nothing_from_the_next_request_on(node: Node) -> None:
    assert lookup(node, "c001").status_code == 200
    assert node.call("DELETE", "/v1/tokens/t-operator").status_code == 200
    problem(lookup(node, "c001"), 401, "NotSignedIn")


def test_tokens_that_are_not_valid_are_noted_once_a_minute_for_each_address(node: Node) -> None:
    bad = {"authorization": "Bearer fedtags_guess"}
    for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        node.call("GET", "/v1/me", role=None, headers=bad, client=(address, 5000))
    lines = node.call("GET", "/v1/access-log").json()["lines"]
    noted = [one["address"] for one in lines if one["what"] == "use a token that is not valid"]
    assert noted == ["10.0.0.2", "10.0.0.1"]
    assert b"guess" not in node.home.settings.access_log.read_bytes()


def signed_in(node: Node, name: str = "anna") -> dict[str, str]:
    """Headers of a session."""
    answer = sign_in(node, name)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    return {"cookie": cookie, "x-csrf-token": answer.json()["csrf"]}


def test_an_administrators_token_makes_nobody_who_could_decide(node: Node) -> None:
    node.home.access.add_person("anna", "operator", PASSWORD)
    admin = "admin"
    for method, path, body in (
        ("POST", "/v1/people", {"name": "eve", "role": "operator", "password": PASSWORD}),
        ("PUT", "/v1/people/anna/password", {"password": "another long password"}),
        ("PUT", "/v1/people/anna/role", {"role": "admin"}),
        ("POST", "/v1/tokens", {"name": "crm", "role": "operator"}),
    ):
        problem(node.call(method, path, body, role=Role(admin)), 403, "AccessDenied")
    assert [one.name for one in node.home.access.people()] == ["anna"]


def test_a_new_tokens_secret_is_told_once(node: Node) -> None:
    node.home.access.add_person("anna", "admin", PASSWORD)
    body = {"name": "crm", "role": "operator", "days": 30}
    made = node.call("POST", "/v1/tokens", body, role=None, headers=signed_in(node))
    assert made.status_code == 201
    secret = made.json()["secret"]
    answer = node.call("GET", "/v1/me", role=None, headers={"authorization": f"Bearer {secret}"})
    assert answer.json()["name"] == "crm"
    assert secret not in node.call("GET", "/v1/tokens").text


def sign_in(node: Node, name: str = "anna", password: str = PASSWORD) -> httpx.Response:
    body = {"name": name, "password": password}
    return node.call("POST", "/v1/session", body, role=None)


def test_a_session_cookie_is_strict_and_changes_need_its_csrf_token(node: Node) -> None:
    node.home.access.add_person("anna", "admin", PASSWORD)
    answer = sign_in(node)
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Path=/" in cookie
    held = {"cookie": cookie.partition(";")[0]}
    csrf = answer.json()["csrf"]
    assert node.call("GET", "/v1/me", role=None, headers=held).json()["name"] == "anna"
    person = {"name": "bob", "role": "reviewer"}
    for headers in (
        held,
        held | {"x-csrf-token": ""},
        held | {"x-csrf-token": csrf[:-1] + "x"},
        held | {"x-csrf-token": csrf, "origin": "https://evil.example"},
        held | {"x-csrf-token": csrf, "origin": "null"},
        held | {"x-csrf-token": csrf, "sec-fetch-site": "cross-site"},
    ):
        refused = node.call("POST", "/v1/people", person, role=None, headers=headers)
        problem(refused, 403, "AccessDenied")
    headers = held | {"x-csrf-token": csrf, "origin": ORIGIN, "sec-fetch-site": "same-origin"}
    made = node.call("POST", "/v1/people", person, role=None, headers=headers)
    assert made.status_code == 201, made.text
    assert node.call("DELETE", "/v1/session", role=None, headers=held).status_code == 403
    assert node.call("DELETE", "/v1/session", role=None, headers=headers).status_code == 204
    problem(node.call("GET", "/v1/me", role=None, headers=held), 401, "NotSignedIn")


def test_a_person_changes_the_own_password_knowing_it(node: Node) -> None:
    node.home.access.add_person("anna", "reviewer", PASSWORD)
    signed = sign_in(node)
    headers = {
        "cookie": signed.headers["set-cookie"].partition(";")[0],
        "x-csrf-token": signed.json()["csrf"],
    }
    new = "another long password"
    path = "/v1/session/password"
    for body, status, error in (
        ({"current": "not this one", "new": new}, 401, "NotSignedIn"),
        ({"current": PASSWORD, "new": "short"}, 422, "ProtocolError"),
    ):
        problem(node.call("PUT", path, body, role=None, headers=headers), status, error)
    body = {"current": PASSWORD, "new": new}
    assert node.call("PUT", path, body, role=None, headers=headers).status_code == 204
    problem(node.call("GET", "/v1/me", role=None, headers=headers), 401, "NotSignedIn")
    problem(sign_in(node), 401, "NotSignedIn")
    assert sign_in(node, password=new).status_code == 200


def test_signing_in_from_another_sites_page_is_refused(node: Node) -> None:
    node.home.access.add_person("anna", "admin", PASSWORD)
    body = {"name": "anna", "password": PASSWORD}
    answer = node.call(
        "POST", "/v1/session", body, role=None, headers={"origin": "https://evil.example"}
    )
    problem(answer, 403, "AccessDenied")


def test_a_wrong_password_is_401_and_in_the_log_without_what_was_typed(node: Node) -> None:
    node.home.access.add_person("anna", "admin", PASSWORD)
    problem(sign_in(node, "anna", "a wrong password"), 401, "NotSignedIn")
    problem(sign_in(node, "my-secret-password", "x"), 401, "NotSignedIn")
    lines = node.call("GET", "/v1/access-log").json()["lines"]
    tried = [(one["who"], one["allowed"]) for one in lines if one["what"] == "sign in"]
    assert tried == [("unknown", False), ("anna", False)]
    assert b"my-secret-password" not in node.home.settings.access_log.read_bytes()


def test_a_token_cannot_decide_and_a_session_can(node: Node) -> None:
    path = f"/v1/plans/{'d' * 64}/decision"
    body = {"approve": True, "reason": "looked at it"}
    problem(node.call("POST", path, body, role=Role.OPERATOR), 403, "AccessDenied")
    node.home.access.add_person("anna", "operator", PASSWORD)
    signed = sign_in(node)
    headers = {
        "cookie": signed.headers["set-cookie"].partition(";")[0],
        "x-csrf-token": signed.json()["csrf"],
    }
    problem(node.call("POST", path, body, role=None, headers=headers), 404, "NotFound")


def test_every_answer_has_the_security_headers(node: Node) -> None:
    for method, path, role in (
        ("GET", "/health", None),
        ("GET", "/v1/me", Role.ADMIN),
        ("GET", "/v1/me", None),
        ("GET", "/nowhere", None),
    ):
        answer = node.call(method, path, role=role)
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "evil.example:80"])
def test_a_request_for_another_host_is_not_answered(node: Node, host: str) -> None:
    answer = node.call("GET", "/health", role=None, headers={"host": host})
    problem(answer, 421, "AccessDenied")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8480", "LOCALHOST:1", "[::1]:8480", "[::1]"]
)
def test_every_way_to_write_an_own_name_is_answered(node: Node, host: str) -> None:
    assert node.call("GET", "/health", role=None, headers={"host": host}).status_code == 200


def test_health_readiness_and_metrics_tell_no_row(node: Node) -> None:
    assert node.call("GET", "/health", role=None).json() == {"status": "ok", "missing": []}
    ready = node.call("GET", "/ready", role=None)
    assert (ready.status_code, ready.json()["status"]) == (503, "not ready")  # nothing runs here
    metrics = node.call("GET", "/metrics", role=None)
    assert metrics.status_code == 200
    assert metrics.text.startswith("# HELP")
    assert str(len(HIGH)) not in metrics.text.split()
    elsewhere = ("10.0.0.9", 5000)
    problem(node.call("GET", "/metrics", role=None, client=elsewhere), 401, "NotSignedIn")
    denied = node.call("GET", "/metrics", role=Role.MARKETER, client=elsewhere)
    problem(denied, 403, "AccessDenied")
    assert node.call("GET", "/metrics", role=Role.REVIEWER, client=elsewhere).status_code == 200


def test_the_api_describes_itself_in_openapi_3_1(node: Node) -> None:
    document = node.call("GET", "/v1/openapi.json", role=None).json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            described = operation["responses"]
            assert operation["description"], (method, path)
            if path.startswith("/v1/"):
                assert "application/problem+json" in described["401"]["content"], (method, path)
            good = next(one for code, one in described.items() if code.startswith("2"))
            schema = good.get("content", {}).get("application/json", {}).get("schema")
            assert schema != {}, (method, path)


def test_reads_answer_what_the_desk_says(node: Node) -> None:
    for path in (
        "/v1/overview",
        "/v1/plans",
        "/v1/plans?waiting=true",
        "/v1/budget",
        "/v1/ledger",
        "/v1/ledger?page=99",
        "/v1/egress",
        "/v1/egress?kind=refusal&run=r",
        "/v1/quality",
        "/v1/catalogue",
        "/v1/purposes",
        f"/v1/segments?purpose={PURPOSE}",
        "/v1/people",
        "/v1/tokens",
        "/v1/access-log?page=2",
    ):
        answer = node.call("GET", path)
        assert answer.status_code == 200, (path, answer.text)
    problem(node.call("GET", "/v1/ledger?page=0"), 422, "ProtocolError")
    problem(node.call("GET", "/v1/segments?purpose=unheard-of"), 422, "ConfigError")
    problem(node.call("GET", f"/v1/plans/{'e' * 64}"), 404, "NotFound")
    problem(node.call("GET", "/v1/plans/..%2f..%2fkeys"), 404, "ProtocolError")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NEAR_MISSES = st.sampled_from(
    [
        *(PURPOSE, "c001", "churn_risk", "high", "operator", "admin", "csv", "parquet", "bob"),
        *(
            "a" * 64,
            "\x00",
            "\ud800",
            "1e999",
            "-1",
            "../..",
            "' OR 1=1",
            "x" * 300,
            "x" * 2000,
            "\u202e",
        ),
        PASSWORD,
    ]
)
FIELDS = [
    *("customer", "purpose", "reason", "tag", "value", "format", "since", "approve", "seen"),
    *("name", "role", "password", "days"),
]
BODIES = st.dictionaries(st.sampled_from(FIELDS), NEAR_MISSES | ANYTHING, max_size=8) | ANYTHING


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=BODIES, data=st.data())
def test_no_body_makes_the_node_fail(fuzzed: Node, body: object, data: st.DataObject) -> None:
    changing = [one for one in endpoints(fuzzed) if one[0] in ("POST", "PUT", "DELETE")]
    method, path = data.draw(st.sampled_from([one for one in changing if "t-" not in one[1]]))
    content = json.dumps(body).encode()
    answer = fuzzed.call(
        method, path, content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code < 500, (method, path, answer.text)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 40_000,
        b"NaN",
        b"\x00" * 100,
        b'"\\ud800"',
    ],
)
def test_what_is_no_json_is_refused_as_such(node: Node, content: bytes) -> None:
    for path in ("/v1/customers/lookup", "/v1/session", "/v1/people"):
        answer = node.call(
            "POST", path, content=content, headers={"content-type": "application/json"}
        )
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(query=st.text(max_size=40), page=st.text(max_size=30))
def test_no_query_makes_the_node_fail(fuzzed: Node, query: str, page: str) -> None:
    for path in ("/v1/egress", "/v1/ledger", "/v1/segments", "/v1/plans", "/v1/access-log"):
        parts = httpx.QueryParams({"page": page, "purpose": query, "kind": query, "run": query})
        answer = fuzzed.call("GET", f"{path}?{parts}")
        assert answer.status_code < 500, (path, answer.text)
