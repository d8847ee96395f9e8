"""A whole run through the proxy, each party behind a forward proxy of its own with a client
certificate, all by the commands and files that the how-to page gives."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from coordinator.proxy import write_proxy_config
from coordinator.run_store import RunStore
from coordinator.settings import CoordinatorSettings
from coordinator.setup import initialise
from party_client.supernode import free_port
from privacy.identity import SigningKey, fingerprint
from simulations.demo import Command
from simulations.homes import configure_source
from simulations.population import write_market
from tests.servers import require_or_skip

from .conftest import PLAN
from .proxy_server import NAME, behind_a_proxy, exchange, nginx

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "mutual-tls-for-parties.md"
FORWARD = ROOT / "deploy" / "nginx" / "party-forward-proxy.conf"


def run_page(where: str, number: int, folder: Path, **changed: str) -> None:
    """Run the page's command block `number` (from 0) of those for `where`, in `folder`."""
    blocks = re.findall(
        rf"<!-- run: {where} -->\n```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    text = blocks[number]
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    ended = subprocess.run(
        ["bash", "-eu", "-c", text], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def forward_proxy(folder: Path, port: int, settings: CoordinatorSettings) -> None:
    """Write the shipped configuration as a party's operator changes it."""
    text = FORWARD.read_text()
    text = text.replace("fed.example:8443", f"{NAME}:{settings.proxy.partners_port}")
    text = text.replace("fed.example", NAME).replace("127.0.0.1:9443", f"127.0.0.1:{port}")
    (folder / FORWARD.name).write_text(text)
    (folder / "temp").mkdir()


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.deployed
@pytest.mark.timeout(900)
def test_a_whole_run_goes_through_both_proxies(tmp_path: Path, running: ExitStack) -> None:
    require_or_skip("nginx", shutil.which("nginx") is not None)
    home, keys = tmp_path / "c", tmp_path / "keys"
    keys.mkdir()
    run_page("coordinator", 0, keys)
    initialise(home, "demo", "data-science", control_port=free_port(), superlink_port=free_port())
    shutil.copy(keys / "partners-ca.crt", home)
    settings = behind_a_proxy(home, partners_ca="partners-ca.crt")
    coordinator = Command("fedtags-coordinator", home)
    running.callback(coordinator, "stop", check=False)
    coordinator("start", "--detach")
    folder = write_proxy_config(settings).folder
    running.enter_context(nginx(folder, settings.proxy.partners_port, settings.proxy.people_port))
    without_a_certificate_nobody_is_answered(settings)

    sources = write_market(tmp_path, 700)
    nodes = {party: Command("fedtags-party", tmp_path / party) for party in sources}
    for party, node in nodes.items():
        own = tmp_path / f"{party}-proxy"
        own.mkdir()
        join(party, node, coordinator, own, keys, settings, running)
        configure_source(node.home, sources[party])
    shown = {
        party: fingerprint(SigningKey.load(node.home / "keys" / "identity.pem").public)
        for party, node in nodes.items()
    }
    for party, node in nodes.items():
        others = [f"{name}={one}" for name, one in shown.items() if name != party]
        node("join", *(part for one in others for part in ("--confirm", one)))
        running.callback(node, "stop", check=False)
        node("start", "--detach")

    plan = tmp_path / "plan.toml"
    plan.write_bytes(PLAN)
    coordinator("plan", "submit", str(plan), "--watch")
    store = RunStore(settings.database_url)
    running.callback(store.close)
    assert [run.state for run in store.list_runs()] == ["finished"]
    log = [json.loads(line) for line in (folder / "access.log").read_text().splitlines()]
    fleet = [one for one in log if one["path"].startswith("/v1/fleet/") and one["status"] == 200]
    assert {one["certificate"] for one in fleet} == {f"CN={party}" for party in sources}
    assert {"/v1/fleet/push-object", "/v1/fleet/pull-object"} <= {one["path"] for one in fleet}


def join(
    party: str,
    node: Command,
    coordinator: Command,
    own: Path,
    keys: Path,
    settings: CoordinatorSettings,
    running: ExitStack,
) -> None:
    """The page's steps 2 to 5 for one party."""
    port = free_port()
    run_page("party", 0, own, **{"CN=bank": f"CN={party}"})
    shutil.copy(own / "client.csr", keys)
    run_page("coordinator", 1, keys)
    shutil.copy(keys / "client.crt", own)
    run_page("party", 1, own)
    invite = own / f"{party}.invite.json"
    coordinator("party", "invite", party, "--output", str(invite))
    run_page(
        "party", 2, own, **{"bank.invite.json": invite.name, "127.0.0.1:9443": f"127.0.0.1:{port}"}
    )
    forward_proxy(own, port, settings)
    running.enter_context(nginx(own, port, main=FORWARD.name))
    node("init", "--party", party, "--public-size", "700")
    node("join", str(invite), "--format", "json")


def without_a_certificate_nobody_is_answered(settings: CoordinatorSettings) -> None:
    (answer,) = exchange(
        settings.proxy.partners_port,
        settings.ca_certificate,
        f"GET /v1/members HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode(),
    )
    assert answer.status == 400
    # One by another authority is refused as TLS goes.
    context = ssl.create_default_context(cafile=str(settings.ca_certificate))
    context.load_cert_chain(settings.server_certificate, settings.server_key)
    with (
        socket.create_connection(("127.0.0.1", settings.proxy.partners_port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        connection.sendall(b"GET /v1/members HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = connection.recv(4096)
    assert said.startswith(b"HTTP/1.1 400")
