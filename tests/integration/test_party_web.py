"""The node's web process as people meet it: a real port, real TLS, and how it ends."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from party_client.settings import PartySettings, load_settings
from party_client.supernode import free_port
from party_client.web import build_app, make_server, open_gate
from privacy.errors import CertificateError
from privacy.hosting.access_log import read_page, verify_log
from privacy.hosting.certificates import create_authority, create_server_certificate
from privacy.hosting.processes import accepts_connections
from tests.desk_home import PURPOSE, make_home, opened

PASSWORD = "a long enough password"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> PartySettings:
    return make_home(tmp_path_factory.mktemp("template"))


@dataclass(frozen=True)
class Served:
    """A home whose web part can be reached on `port`."""

    settings: PartySettings
    port: int


@pytest.fixture
def home(template: PartySettings, tmp_path: Path) -> Served:
    folder = tmp_path / "bank"
    shutil.copytree(template.home, folder)
    port = free_port()
    file = folder / "party.toml"
    file.write_text(file.read_text().replace("port = 8480", f"port = {port}"))
    return Served(load_settings(folder), port)


@contextmanager
def process(served: Served, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "party_client.web", "--home", str(served.settings.home)]
    with log.open("wb") as file, subprocess.Popen(argv, stderr=file, stdout=file) as child:
        try:
            deadline = time.monotonic() + 120
            while not accepts_connections("127.0.0.1", served.port):
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield child
        finally:
            child.kill()


def test_a_day_at_the_console_port(home: Served, tmp_path: Path) -> None:
    with opened(home.settings) as before:
        before.access.add_person("anna", "operator", PASSWORD)
        _, secret = before.access.create_token("crm", "operator", created_by="test")
    url = f"http://127.0.0.1:{home.port}"
    log = tmp_path / "web.log"
    body = {"customer": "c001", "purpose": PURPOSE}
    with process(home, log) as child, httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/health").json()["status"] == "ok"
        assert http.get("/health", headers={"host": "evil.example"}).status_code == 421
        assert "server" not in http.get("/health").headers
        with_token = {"authorization": f"Bearer {secret}"}
        found = http.post("/v1/customers/lookup", json=body, headers=with_token)
        assert [tag["value"] for tag in found.json()["tags"]] == ["high"]
        signed = http.post("/v1/session", json={"name": "anna", "password": PASSWORD})
        assert signed.status_code == 200, signed.text
        assert http.post("/v1/customers/lookup", json=body).status_code == 403
        csrf = {"x-csrf-token": signed.json()["csrf"]}
        assert http.post("/v1/customers/lookup", json=body, headers=csrf).status_code == 200
        assert http.get("/").headers["content-type"].startswith("text/html")
        huge = b'{"customer": "' + b"c" * 10_000_000 + b'"}'
        with_type = with_token | {"content-type": "application/json"}
        try:
            refused = http.post("/v1/customers/lookup", content=huge, headers=with_type)
        except httpx.WriteError:
            pass  # the connection was closed before all of it was sent
        else:
            assert refused.status_code == 413
        last = http.get("/v1/budget", headers=with_token)
        assert last.status_code == 200
        child.send_signal(signal.SIGTERM)  # at once: the line of that request waits in memory
        assert child.wait(timeout=30) == 0
    seen = [one.what for one in read_page(home.settings.access_log, 1, 50)[0]]
    assert seen[0] == "see the budget"
    assert seen.count("read a customer") == 2
    verify_log(home.settings.access_log)
    told = log.read_text()
    for text in ("c001", secret, PASSWORD, "/v1/customers"):
        assert text not in told


def test_a_home_without_its_certificate_is_not_served(home: Served) -> None:
    file = home.settings.home / "party.toml"
    text = file.read_text().replace("[web]", '[web]\ncertificate = "web.crt"\nkey = "web.key"', 1)
    file.write_text(text)
    settings = load_settings(home.settings.home)
    with opened(settings) as found, pytest.raises(CertificateError, match=r"web\.crt"):
        build_app(settings, found.desk, open_gate(settings, found.desk))


@contextmanager
def served(settings: PartySettings) -> Iterator[None]:
    """A server with a certificate, in a thread."""
    with opened(settings) as found:
        gate = open_gate(settings, found.desk)
        server = make_server(settings, build_app(settings, found.desk, gate))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield
        finally:
            server.should_exit = True
            thread.join(timeout=20)


def test_with_a_certificate_it_is_tls_1_3_and_the_cookie_stays_on_it(home: Served) -> None:
    folder = home.settings.home
    authority, key = folder / "authority.crt", folder / "authority.key"
    create_authority(authority, key, "bank")
    create_server_certificate(folder / "web.crt", folder / "web.key", authority, key)
    file = folder / "party.toml"
    text = file.read_text().replace("[web]", '[web]\ncertificate = "web.crt"\nkey = "web.key"', 1)
    file.write_text(text)
    settings = load_settings(folder)
    with opened(settings) as before:
        before.access.add_person("anna", "operator", PASSWORD)
    trusted = ssl.create_default_context(cafile=str(authority))
    old = ssl.create_default_context(cafile=str(authority))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    url = f"https://127.0.0.1:{home.port}"
    with served(settings):
        with httpx.Client(base_url=url, verify=trusted, trust_env=False) as http:
            answer = http.post("/v1/session", json={"name": "anna", "password": PASSWORD})
            cookie = answer.headers["set-cookie"]
            assert cookie.startswith("__Host-fedtags-party-")
            assert "; Secure" in cookie
            assert answer.headers["strict-transport-security"].startswith("max-age=")
            assert http.get("/v1/me").json()["name"] == "anna"
        with (
            httpx.Client(base_url=url, verify=old, trust_env=False) as http,
            pytest.raises(httpx.ConnectError),
        ):
            http.get("/health")


def test_two_nodes_of_one_host_do_not_share_a_cookie(template: PartySettings) -> None:
    with opened(template) as found:
        one = open_gate(template, found.desk).cookie
        web = template.web.model_copy(update={"port": template.web.port + 1})
        other = open_gate(template.model_copy(update={"web": web}), found.desk).cookie
    assert one != other
