"""Providers to sign in at: the npm package oidc-provider as a process, and one that lies."""

from __future__ import annotations

import base64
import fcntl
import hmac
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import RSAKey

from privacy.hosting.certificates import create_authority, create_server_certificate
from tests.servers import require_or_skip

PACKAGE = "oidc-provider@9.13.3"
SCRIPT = Path(__file__).with_name("oidc_provider.mjs")
SECRET = "the-clients-own-secret"
PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "anna": {"email": "Anna@Fed.Example", "email_verified": True, "groups": ["staff", "modelling"]},
    "chief": {"email": "chief@fed.example", "groups": ["compliance", "admins"]},
    "visitor": {"email": "visitor@fed.example", "groups": ["staff"]},
    "unsure": {"email": "unsure@fed.example", "email_verified": False, "groups": ["modelling"]},
    "nameless": {"groups": ["modelling"]},
    "impostor": {"email": "anna@fed.example", "groups": ["admins"]},
}


def free_port() -> int:
    """A port of the loopback address that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def library() -> Path:
    """The installed package's entry, installed once into a cache. Skips aloud without node."""
    require_or_skip("node", bool(shutil.which("node") and shutil.which("npm")))
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = base / "fedtags-tests" / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    entry = folder / "node_modules" / "oidc-provider" / "lib" / "index.js"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes may come here at once
        if not (folder / "installed").exists():
            (folder / "package.json").write_text('{"private": true}')
            line = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
            done = subprocess.run(line, cwd=folder, capture_output=True, timeout=240, check=False)
            require_or_skip("node", done.returncode == 0)
            (folder / "installed").touch()
    return entry


@dataclass
class Provider:
    """A running provider. `ca`: whom its certificate is by; None for plain HTTP."""

    issuer: str
    ca: Path | None

    def _trust(self) -> ssl.SSLContext | bool:
        return True if self.ca is None else ssl.create_default_context(cafile=str(self.ca))

    def sign_in(self, url: str, login: str) -> str:
        """Go through the provider's pages as a browser does; returns where it sends back to."""
        own = urlsplit(self.issuer).netloc
        with httpx.Client(verify=self._trust(), timeout=20) as browser:
            for _ in range(12):
                answer = browser.get(url)
                if answer.status_code == 200:
                    form = answer.text.partition('<form autocomplete="off" action="')[2]
                    action = urljoin(url, form.partition('"')[0])
                    fields = {"prompt": "login", "login": login, "password": "x"}
                    if 'value="consent"' in answer.text:
                        fields = {"prompt": "consent"}
                    answer = browser.post(action, data=fields)
                assert answer.is_redirect, answer.text
                url = urljoin(url, answer.headers["location"])
                if urlsplit(url).netloc != own:
                    return url
        raise AssertionError("the provider never sent the browser back")


@contextmanager
def real_provider(
    folder: Path,
    redirect_uri: str,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    tls: bool = True,
    claims_in_token: bool = False,
) -> Iterator[Provider]:
    """oidc-provider on a free port, until the block ends. Clients: `fedtags` (secret by Basic),
    `post` (secret in the body), `public` (none), `es256` (signed on a curve)."""
    port = port or free_port()
    issuer = f"{'https' if tls else 'http'}://{host}:{port}"
    one = {"redirect_uris": [redirect_uri], "client_secret": SECRET}
    config: dict[str, Any] = {
        "library": str(library()),
        "issuer": issuer,
        "port": port,
        "people": PEOPLE,
        "claimsInToken": claims_in_token,
        "clients": [
            {**one, "client_id": "fedtags"},
            {**one, "client_id": "post", "token_endpoint_auth_method": "client_secret_post"},
            {**one, "client_id": "es256", "id_token_signed_response_alg": "ES256"},
            {
                "client_id": "public",
                "redirect_uris": [redirect_uri],
                "token_endpoint_auth_method": "none",
            },
        ],
    }
    ca = None
    if tls:
        ca = folder / "provider-ca.crt"
        key, certificate = folder / "provider.key", folder / "provider.crt"
        if not ca.exists():
            create_authority(ca, folder / "provider-ca.key", "provider")
            create_server_certificate(
                certificate, key, ca, folder / "provider-ca.key", ["127.0.0.1"]
            )
        config |= {"key": str(key), "certificate": str(certificate)}
    process = subprocess.Popen(
        ["node", str(SCRIPT), json.dumps(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    drained = threading.Thread(target=process.stderr.read, daemon=True)  # type: ignore[union-attr]
    drained.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        while line and line.strip() != "listening":
            line = process.stdout.readline()
        assert line, "the provider ended at start"
        yield Provider(issuer, ca)
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()  # type: ignore[union-attr]
        drained.join(timeout=5)
        process.stderr.close()  # type: ignore[union-attr]


@dataclass
class Liar:
    """A provider that answers whatever a test sets: `claims` and `header` of the next ID token,
    `sign` instead of its own key, `metadata` and `userinfo` as they are asked for."""

    issuer: str
    key: RSAKey
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    sign: Callable[[dict[str, Any], dict[str, Any]], str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def token(self, nonce: str) -> dict[str, Any]:
        """The token endpoint's answer."""
        now = int(time.time())
        honest = {
            "iss": self.issuer,
            "aud": "fedtags",
            "sub": "anna",
            "exp": now + 300,
            "iat": now,
            "nonce": nonce,
            "email": "anna@fed.example",
            "groups": ["modelling"],
        }
        claims = {k: v for k, v in {**honest, **self.claims}.items() if v is not None}
        header = {"alg": "RS256", "kid": "1", **self.header}
        sign = self.sign or (lambda head, body: jwt.encode(head, body, self.key))
        return {"access_token": "a", "token_type": "Bearer", "id_token": sign(header, claims)}


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    """A token that says of itself that nobody signed it."""
    return _signed_part({**header, "alg": "none"}, claims) + "."


def hmac_with(secret: str) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    """A signature under a secret that others have too: the client's, or a public key's text."""

    def sign(header: dict[str, Any], claims: dict[str, Any]) -> str:
        signed = _signed_part({**header, "alg": "HS256"}, claims)
        return f"{signed}.{_base64(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"

    return sign


def _signed_part(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return ".".join(_base64(json.dumps(one).encode()) for one in (header, claims))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def lying_provider() -> Iterator[Liar]:
    """A provider on a loopback port whose words are all a test's. Any code is good; the code is
    the nonce that goes into the token."""
    port = free_port()
    liar = Liar(f"http://127.0.0.1:{port}", RSAKey.generate_key(2048, {"kid": "1", "use": "sig"}))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            liar.asked.append(self.path)
            base = liar.issuer
            if self.path.endswith("openid-configuration"):
                self._answer(
                    {
                        "issuer": base,
                        "authorization_endpoint": f"{base}/authorize",
                        "token_endpoint": f"{base}/token",
                        "jwks_uri": f"{base}/keys",
                        **liar.metadata,
                    }
                )
            elif self.path == "/keys":
                self._answer({"keys": [liar.key.as_dict(private=False)]})
            else:
                self._answer(liar.userinfo)

        def do_POST(self) -> None:
            liar.asked.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._answer(liar.token(parse_qs(body)["code"][0]))

        def _answer(self, value: object) -> None:
            raw = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield liar
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
