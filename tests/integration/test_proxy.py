"""The proxy in front: from a partner's place, exactly what a party's node needs.

The real nginx before the real SuperLink and the real control plane, and requests as an attacker
would write them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from coordinator.proxied import ADDRESS_HEADER, PARTY_ROUTES, SECRET_HEADER, SIDE_HEADER, FromProxy
from coordinator.proxy import FLEET_ACTIONS, read_proxy_secret, write_proxy_config
from coordinator.readiness import ask_ready
from coordinator.run_store import RunStore
from coordinator.settings import CONFIG_NAME, CoordinatorSettings, load_settings
from coordinator.superlink import SuperLinkFiles, superlink_child
from party_client.enrolment import join
from privacy.errors import ConfigError, RunStopped
from privacy.hosting.api_client import ApiClient
from privacy.hosting.enrolment import Invite
from privacy.hosting.signed_requests import SignedRequestAuth
from privacy.hosting.supervision import Supervisor
from privacy.identity import SigningKey, sign_plan

from .conftest import PLAN
from .control_plane_server import make_coordinator, make_party, open_coordinator, served
from .proxy_server import NAME, Answer, behind_a_proxy, exchange, proxied

PROTOBUF = "application/protobuf"
LIST_RUNS = ListRunsRequest().SerializeToString()


@dataclass(frozen=True)
class Behind:
    """A coordinator behind its proxy. `direct`: the SuperLink's own address, no partner's."""

    settings: CoordinatorSettings
    direct: str
    token: str
    runs: RunStore

    def partner(self, *lines: str, body: bytes = b"", raw: bytes = b"") -> list[Answer]:
        """Answers to a request that a partner writes by hand."""
        sent = raw or "\r\n".join([*lines, "", ""]).encode() + body
        return exchange(self.settings.proxy.partners_port, self.settings.ca_certificate, sent)

    def people(self, *lines: str) -> list[Answer]:
        """Answers to a request on the people's side."""
        sent = "\r\n".join([*lines, "", ""]).encode()
        return exchange(self.settings.proxy.people_port, self.settings.ca_certificate, sent)

    def post(self, target: str, body: bytes = b"", *more: str) -> Answer:
        """The one answer to a partner's POST."""
        lines = (f"POST {target} HTTP/1.1", f"Host: {NAME}", f"Content-Type: {PROTOBUF}")
        (answer,) = self.partner(*lines, f"Content-Length: {len(body)}", *more, body=body)
        return answer


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """SuperLink, control plane and nginx, all real and running."""
    home = tmp_path_factory.mktemp("proxy") / "coordinator"
    made = make_coordinator(home)
    made.control.members.close()
    made.control.runs.close()
    settings = behind_a_proxy(home)
    files = SuperLinkFiles(
        home=home,
        host=settings.host,
        port=settings.superlink.port,
        ca_certificate=settings.ca_certificate,
        server_certificate=settings.server_certificate,
        server_key=settings.server_key,
        superexec_secret=settings.superexec_secret,
    )
    with Supervisor(home, "superlink-alone") as supervisor:
        supervisor.start(superlink_child(files))
        with served(open_coordinator(home)) as coordinator, proxied(settings):
            direct = f"https://{settings.superlink_address}"
            yield Behind(settings, direct, coordinator.token, coordinator.control.runs)


def from_the_proxy(answer: Answer) -> bool:
    """Whether nginx answered by itself: nothing behind it saw the request."""
    if answer.headers.get("content-type") == "application/problem+json":
        keys = set(json.loads(answer.body or "{}"))  # nothing, if it was asked by HEAD
        return not keys or keys == {"type", "title", "status", "detail", "error"}
    # Its own page, for what was not even a request line.
    return b"<center>nginx</center>" in answer.body


def direct(behind: Behind, method: str, path: str, content: bytes = b"") -> httpx.Response:
    context = ssl.create_default_context(cafile=str(behind.settings.ca_certificate))
    headers = {"content-type": PROTOBUF, "accept": PROTOBUF}
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.request(method, behind.direct + path, content=content, headers=headers)


# What is open -----------------------------------------------------------------------------------


def test_the_fleet_actions_are_all_of_flowers() -> None:
    flowers = {
        path.removeprefix("/v1/fleet/")
        for _, path in PROTOBUF_REQUEST_TYPES
        if path.startswith("/v1/fleet/")
    }
    assert set(FLEET_ACTIONS) == flowers


@pytest.mark.parametrize("action", FLEET_ACTIONS)
def test_a_fleet_action_reaches_the_superlink_which_wants_a_nodes_signature(
    behind: Behind, action: str
) -> None:
    answer = behind.post(f"/v1/fleet/{action}")
    assert answer.status == 401
    assert b"SuperNode authentication" in answer.body


def test_a_party_enrols_and_asks_for_the_members_through_the_proxy(
    behind: Behind, tmp_path: Path
) -> None:
    party = make_party(tmp_path / "bank", "bank")
    invite = make_invite(behind, "bank")
    pinned = join(party, invite)
    assert set(pinned.members) == {"bank"}
    key = SigningKey.load(party.identity_key)
    with ApiClient(
        behind.settings.invited_control_url, invite.ca_certificate, SignedRequestAuth("bank", key)
    ) as api:
        answer = api.call("GET", "/v1/members")
    assert isinstance(answer, dict)
    assert [one["name"] for one in answer["members"]] == ["bank"]


def make_invite(behind: Behind, party: str) -> Invite:
    with people_api(behind) as api:
        return Invite.model_validate(api.call("POST", "/v1/invitations", {"party": party}))


def people_api(behind: Behind) -> ApiClient:
    from privacy.hosting.api_client import BearerAuth

    authority = behind.settings.ca_certificate.read_text()
    return ApiClient(behind.settings.people_url, authority, BearerAuth(behind.token))


def test_an_invite_names_the_proxy(behind: Behind) -> None:
    invite = make_invite(behind, "shop")
    port = behind.settings.proxy.partners_port
    assert invite.superlink == f"{NAME}:{port}"
    assert invite.control_url == f"https://{NAME}:{port}"


def test_the_coordinators_people_reach_the_control_plane(behind: Behind) -> None:
    with people_api(behind) as api:
        answer = api.call("GET", "/v1/runs")
    assert isinstance(answer, dict)
    assert not answer.get("runs", answer.get("items"))


def test_a_runs_progress_comes_through_as_it_happens(behind: Behind) -> None:
    requester = SigningKey.load(behind.settings.requester_key)
    behind.runs.create_run("run-1", PLAN, requester.public, sign_plan(requester, "run-1", PLAN))
    context = ssl.create_default_context(cafile=str(behind.settings.ca_certificate))
    headers = {"authorization": f"Bearer {behind.token}"}
    url = f"{behind.settings.people_url}/v1/runs/run-1/events"
    with (
        httpx.Client(verify=context, trust_env=False, timeout=20, headers=headers) as client,
        client.stream("GET", url) as answer,
    ):
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert any(line.startswith("data:") for line in lines)
        behind.runs.recorder("run-1").phase("round", 1, 2)
        # The stream is still open: a proxy that kept answers back would show nothing.
        assert any(line.startswith("data:") and "round" in line for line in lines)
        behind.runs.fail("run-1", RunStopped("enough"))


def test_the_audit_log_has_the_address_of_whoever_asked(behind: Behind) -> None:
    """Not one that a client states, whichever way it comes."""
    context = ssl.create_default_context(cafile=str(behind.settings.ca_certificate))
    forged = {"x-forwarded-for": "203.0.113.9", "forwarded": "for=203.0.113.9"}
    forged |= {"x-real-ip": "203.0.113.9", "authorization": "Bearer nobody's"}
    ways = {
        "127.0.0.2": behind.settings.people_url,
        "127.0.0.3": behind.settings.control_url,
    }
    for address, url in ways.items():
        transport = httpx.HTTPTransport(verify=context, local_address=address)
        with httpx.Client(transport=transport, trust_env=False, headers=forged) as client:
            assert client.get(f"{url}/v1/runs").status_code == 401
    deadline = time.monotonic() + 10
    seen: set[str] = set()
    while not set(ways) <= seen and time.monotonic() < deadline:
        text = behind.settings.audit_log.read_text()
        seen = set(re.findall(r'"from":"([^"]+)"', text))
        time.sleep(0.1)
    assert set(ways) <= seen
    assert "203.0.113.9" not in seen


def test_this_machine_scrapes_metrics_and_asks_whether_it_is_ready(behind: Behind) -> None:
    context = ssl.create_default_context(cafile=str(behind.settings.ca_certificate))
    with httpx.Client(verify=context, trust_env=False) as client:
        answer = client.get(f"{behind.settings.control_url}/metrics")
    assert answer.status_code == 200
    found = {
        one.name: one.value
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
    }
    assert found["fedtags_coordinator_up"] == 1
    assert found["fedtags_coordinator_ready"] == 1
    assert found["fedtags_coordinator_certificate_left_seconds"] > 30 * 86400
    assert ask_ready(behind.settings) == []


# What is closed ---------------------------------------------------------------------------------


def test_what_is_tried_below_works_without_the_proxy(behind: Behind) -> None:
    """Otherwise a 404 from the proxy would prove nothing."""
    assert direct(behind, "POST", "/v1/control/list-runs", LIST_RUNS).status_code == 200
    assert direct(behind, "GET", "/docs").status_code == 200
    started = direct(behind, "POST", "/v1/control/start-run", StartRunRequest().SerializeToString())
    assert started.status_code not in (401, 403, 404)


def test_no_other_route_of_the_superlink_is_reached(behind: Behind) -> None:
    document = direct(behind, "GET", "/openapi.json").json()
    routes = [(method, path) for path, one in document["paths"].items() for method in one]
    routes += [("get", "/docs"), ("get", "/openapi.json"), ("get", "/redoc"), ("post", "/")]
    closed = [one for one in routes if not one[1].startswith("/v1/fleet/")]
    assert len(closed) > 40
    for method, path in closed:
        for verb in {method.upper(), "GET", "POST"}:
            (answer,) = behind.partner(
                f"{verb} {path} HTTP/1.1", f"Host: {NAME}", "Content-Length: 0", "Connection: close"
            )
            assert (answer.status, from_the_proxy(answer)) == (404, True), (verb, path)


def test_no_other_route_of_the_control_plane_is_reached(behind: Behind) -> None:
    """Nor with an admin's token: a stolen one is of no use from a partner's place."""
    token = f"Authorization: Bearer {behind.token}"
    paths = ("/v1/runs", "/v1/parties", "/v1/health", "/v1/openapi.json", "/metrics", "/ready")
    paths += ("/v1/plans/validate", "/v1/invitations", "/v1/session", "/v1/people", "/health", "/")
    for path in paths:
        for verb in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "X"):
            answers = behind.partner(
                f"{verb} {path} HTTP/1.1", f"Host: {NAME}", token, "Connection: close"
            )
            assert [one.status for one in answers] in ([404], [405]), (verb, path)


@pytest.mark.parametrize(("method", "path"), PARTY_ROUTES)
def test_a_partys_route_has_one_method_and_takes_no_token(
    behind: Behind, method: str, path: str
) -> None:
    for verb in {"GET", "POST", "PUT", "DELETE", "HEAD"} - {method}:
        (answer,) = behind.partner(f"{verb} {path} HTTP/1.1", f"Host: {NAME}", "Connection: close")
        assert answer.status == 404
    token = f"Authorization: Bearer {behind.token}"
    (answer,) = behind.partner(
        f"{method} {path} HTTP/1.1", f"Host: {NAME}", token, "Content-Length: 0"
    )
    assert answer.status in (400, 401, 422), "a person's token is not handed on"


SPELLINGS = (
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/%2E%2E%2Fcontrol%2Flist-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "/v1/fleet/.%2e/control/list-runs",
    "/v1/fleet/%252e%252e/control/list-runs",
    "/v1/fleet/..%5ccontrol/list-runs",
    "/v1/fleet/..\\control\\list-runs",
    "/v1/fleet/..;/control/list-runs",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/fleet/pull-messages;/../../control/list-runs",
    "/v1/fleet/pull-messages%00/../../control/list-runs",
    "/v1/fleet/pull-messages?/../../control/list-runs",
    "/v1/fleet/pull-messages#/../../control/list-runs",
    "/v1/fleet/./../control/list-runs",
    "//v1/control/list-runs",
    "/v1//control/list-runs",
    "/v1/./control/list-runs",
    "/v1/control/list-runs/",
    "/v1/control/list%2druns",
    "/v1/contro%6c/list-runs",
    "/V1/CONTROL/LIST-RUNS",
    "/v1/control/list-runs?x=/v1/fleet/pull-messages",
    "/v1/control/list-runs#/v1/fleet/pull-messages",
    "/v1/control/../fleet/../control/list-runs",
    "/./v1/control/list-runs",
    "/%76%31/control/list-runs",
    "\\v1\\control\\list-runs",
    "https://localhost/v1/control/list-runs",
    "http://127.0.0.1/v1/control/list-runs",
    "https://127.0.0.1:{superlink}/v1/control/list-runs",
    "https://user@localhost/v1/control/list-runs",
    "https://localhost/v1/fleet/../control/list-runs",
    "control/list-runs",
    "*",
    "/",
)


@pytest.mark.parametrize("target", SPELLINGS)
def test_no_spelling_of_a_path_leads_past_the_proxy(behind: Behind, target: str) -> None:
    target = target.format(superlink=behind.settings.superlink.port)
    answer = behind.post(target, LIST_RUNS, "Connection: close")
    assert answer.status in (400, 404)
    assert from_the_proxy(answer)


@pytest.mark.parametrize(
    "target",
    [
        "//v1/fleet/pull-messages",
        "/v1/fleet//pull-messages",
        "/v1/fleet/./pull-messages",
        "/v1/fleet/x/../pull-messages",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull%2dmessages",
        "/v1/fleet/pull-messages?a=b",
        "/V1/fleet/pull-messages",
        "/v1/fleet/PULL-MESSAGES",
        "/v1/fleet/pull-messages%0a",
        "/v1/control/../fleet/pull-messages",
    ],
)
def test_an_open_path_has_one_spelling(behind: Behind, target: str) -> None:
    answer = behind.post(target, b"", "Connection: close")
    assert (answer.status, from_the_proxy(answer)) == (404, True)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:{superlink}", "evil.example", "localhost:8471", "", "a b", "localhost, evil"],
)
def test_a_host_header_chooses_no_other_server(behind: Behind, host: str) -> None:
    named = host.format(superlink=behind.settings.superlink.port)
    (answer,) = behind.partner(
        "POST /v1/control/list-runs HTTP/1.1", f"Host: {named}", "Content-Length: 0"
    )
    assert answer.status in (400, 404)
    assert from_the_proxy(answer)


INNER = (
    b"POST /v1/control/list-runs HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/protobuf\r\nContent-Length: 0\r\n\r\n"
)
FIRST = (
    b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/protobuf\r\n"
)
SMUGGLED: Mapping[str, bytes] = {
    "length and chunks": FIRST
    + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (len(INNER) + 5)
    + INNER,
    "chunks and length": FIRST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
    + b"%x\r\n" % len(INNER)
    + INNER
    + b"\r\n0\r\n\r\n",
    "two lengths": FIRST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "a length with a sign": FIRST + b"Content-Length: +0\r\n\r\n" + INNER,
    "a length of two numbers": FIRST + b"Content-Length: 0, 0\r\n\r\n" + INNER,
    "an unknown coding": FIRST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + INNER,
    "two codings": FIRST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"
    + INNER,
    "a coding after a space": FIRST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + INNER,
    "a folded coding": FIRST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + INNER,
    "a vertical tab": FIRST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + INNER,
    "line feeds alone": FIRST.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n" + INNER,
    "a carriage return in a header": FIRST + b"X: a\rContent-Length: 5\r\n\r\n" + INNER,
    "a chunk's size that overflows": FIRST
    + b"Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n"
    + INNER,
    "a chunk's extension": FIRST + b"Transfer-Encoding: chunked\r\n\r\n0;a=\r\n\r\n" + INNER,
    "an upgrade": FIRST
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    + b"Content-Length: 0\r\n\r\n"
    + INNER,
    "a second request behind the first": FIRST + b"Content-Length: 0\r\n\r\n" + INNER,
    "version 1.0 with chunks": FIRST.replace(b"1.1", b"1.0")
    + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + INNER,
    "no version": b"POST /v1/control/list-runs\r\n\r\n",
    "http/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + INNER,
    "a tunnel": b"CONNECT 127.0.0.1:8471 HTTP/1.1\r\nHost: localhost\r\n\r\n" + INNER,
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_no_request_is_smuggled_in_another(behind: Behind, how: str) -> None:
    """Every answer on the connection is the SuperLink's refusal of the first request, for want of
    a node's signature, or the proxy's own."""
    before = forwarded(behind)
    answers = behind.partner(raw=SMUGGLED[how])
    assert all(one.status in (400, 401, 404, 405, 413, 501, 505) for one in answers), answers
    told = [one for one in answers if one.status == 401]
    assert len(told) <= 1
    assert all(from_the_proxy(one) for one in answers if one.status != 401)
    assert forwarded(behind) == before, "the SuperLink was asked for its runs"


def forwarded(behind: Behind) -> int:
    """How often the SuperLink was asked for its runs."""
    log = (behind.settings.home / "logs" / "superlink.log").read_text()
    return len(re.findall("ListRuns", log))


def test_the_superlinks_log_tells_when_it_is_asked_for_its_runs(behind: Behind) -> None:
    before = forwarded(behind)
    direct(behind, "POST", "/v1/control/list-runs", LIST_RUNS)
    assert forwarded(behind) == before + 1


def test_a_body_that_is_too_large_is_refused_before_it_is_sent_on(behind: Behind) -> None:
    for path, size in (("/v1/enrolments", 200_000), ("/v1/fleet/push-object", 40_000_000)):
        (answer,) = behind.partner(
            f"POST {path} HTTP/1.1", f"Host: {NAME}", f"Content-Length: {size}", "Connection: close"
        )
        assert (answer.status, from_the_proxy(answer)) == (413, True)


def test_older_tls_is_refused_on_both_sides(behind: Behind) -> None:
    context = ssl.create_default_context(cafile=str(behind.settings.ca_certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for port in (behind.settings.proxy.partners_port, behind.settings.proxy.people_port):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            pytest.raises(ssl.SSLError),
        ):
            context.wrap_socket(plain, server_hostname=NAME)


def test_the_peoples_side_answers_to_its_name_only_and_shows_no_metrics(behind: Behind) -> None:
    for host in ("evil.example", "rebound.example:8444"):
        (answer,) = behind.people("GET /v1/health HTTP/1.1", f"Host: {host}")
        assert (answer.status, from_the_proxy(answer)) == (404, True)
    for path in ("/metrics", "/ready", "/metrics?", "//metrics", "/%6detrics", "/x/../metrics"):
        (answer,) = behind.people(f"GET {path} HTTP/1.1", f"Host: {NAME}", "Connection: close")
        assert (answer.status, from_the_proxy(answer)) == (404, True), path
    (answer,) = behind.people("GET /v1/health HTTP/1.1", f"Host: {NAME}", "Connection: close")
    assert answer.status == 200


# Whose address counts ---------------------------------------------------------------------------

SECRET = b"5" * 64


def through(headers: Mapping[str, str], method: str = "GET", path: str = "/v1/runs") -> Scope | int:
    """What an application behind FromProxy sees of a request, or the status it was refused with."""
    seen: list[Scope] = []
    status: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 4711),
    }
    asyncio.run(FromProxy(app, secret=SECRET)(scope, receive, send))
    return seen[0] if seen else status[0]


def client_of(found: Scope | int) -> str:
    assert not isinstance(found, int)
    names = {name for name, _ in found["headers"]}
    assert not names & {SECRET_HEADER.encode(), SIDE_HEADER.encode(), ADDRESS_HEADER.encode()}
    return str(found["client"][0])


def test_an_address_is_the_proxys_word_or_that_of_the_connection() -> None:
    claimed = {ADDRESS_HEADER: "203.0.113.9", SIDE_HEADER: "people"}
    assert client_of(through(claimed)) == "127.0.0.1"
    assert client_of(through({**claimed, SECRET_HEADER: "6" * 64})) == "127.0.0.1"
    assert client_of(through({**claimed, SECRET_HEADER: ""})) == "127.0.0.1"
    assert client_of(through({**claimed, SECRET_HEADER: "5" * 64})) == "203.0.113.9"
    no_address = {**claimed, SECRET_HEADER: "5" * 64, ADDRESS_HEADER: "a\x1b[2J"}
    assert client_of(through(no_address)) == "unknown"


def test_the_control_plane_too_lets_partners_reach_nothing_else() -> None:
    partner = {SECRET_HEADER: "5" * 64, SIDE_HEADER: "partners", ADDRESS_HEADER: "203.0.113.9"}
    assert through(partner) == 404
    assert through({**partner, SIDE_HEADER: ""}) == 404, "a side that is not said is a partner's"
    assert through(partner, "POST", "/v1/members") == 404
    for method, path in PARTY_ROUTES:
        assert client_of(through(partner, method, path)) == "203.0.113.9"


# The file ---------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = make_coordinator(tmp_path / "c")
    made.control.members.close()
    made.control.runs.close()
    return tmp_path / "c"


def test_the_folder_is_whole_and_private_and_can_be_written_again(home: Path) -> None:
    settings = behind_a_proxy(home)
    first = write_proxy_config(settings)
    for path in (first.folder, *first.folder.iterdir()):
        assert path.stat().st_mode & 0o077 == 0 or path.suffix in (".crt", ".conf")
    for name in ("secret.conf", "partners.key"):
        assert (first.folder / name).stat().st_mode & 0o777 == 0o600
    text = first.main.read_text()
    assert read_proxy_secret(settings).decode() not in text
    assert str(settings.home) not in text.partition("worker_processes")[2]
    certificate = (first.folder / "partners.crt").read_bytes()
    again = write_proxy_config(settings)
    assert again == first
    assert (first.folder / "partners.crt").read_bytes() == certificate
    renamed = settings.model_copy(
        update={"proxy": settings.proxy.model_copy(update={"name": "fed.example"})}
    )
    write_proxy_config(renamed)
    assert (first.folder / "partners.crt").read_bytes() != certificate


def test_what_nginx_cannot_be_told_is_refused_and_names_the_setting(home: Path) -> None:
    for key, value in (("people_certificate", 'a"b'), ("people_key", "a$b")):
        pair = {"people_certificate": "a.crt", "people_key": "a.key", key: value}
        settings = load_settings(home)
        told = settings.model_copy(update={"proxy": settings.proxy.model_copy(update=pair)})
        with pytest.raises(ConfigError, match=f"proxy.{key}"):
            write_proxy_config(told)
    told = settings.model_copy(
        update={"proxy": settings.proxy.model_copy(update={"partners_ca": "none.crt"})}
    )
    with pytest.raises(ConfigError, match=r"proxy\.partners_ca"):
        write_proxy_config(told)


@pytest.mark.parametrize("name", ["fed.example;", "a b", 'a"', "a\\nb", "$host", "{"])
def test_a_name_that_would_be_nginx_code_is_no_name(home: Path, name: str) -> None:
    config = home / CONFIG_NAME
    text = config.read_text()
    config.write_text(text.replace("[proxy]\n", f"[proxy]\npeople_name = '{name}'\n"))
    with pytest.raises(ConfigError, match="people_name"):
        load_settings(home)
