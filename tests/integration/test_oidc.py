"""Signing in at an OpenID Connect provider: the npm package oidc-provider as a process of its own,
and, for what a well-made provider never says, one that lies."""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import RSAKey

from coordinator import oidc
from coordinator.oidc import CALLBACK
from coordinator.people import open_access
from coordinator.settings import CoordinatorSettings, OidcSettings, load_settings
from coordinator.setup import initialise
from coordinator.sign_in import SIGN_IN_ELSEWHERE, open_gate, router
from privacy.errors import NotRunningError, RateLimited
from privacy.hosting import web
from privacy.hosting.access_log import AccessLog, AccessRecord, read_page
from tests.integration.oidc_servers import (
    SECRET,
    Liar,
    Provider,
    free_port,
    hmac_with,
    lying_provider,
    real_provider,
    unsigned,
)

OWN = "https://127.0.0.1:8470"
ROLES = {"admins": "admin", "modelling": "data-scientist", "compliance": "reviewer"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's home as init makes it; copied, because init takes its time."""
    made = tmp_path_factory.mktemp("coordinator") / "home"
    initialise(made, "demo", "data-science")
    (made / "keys" / "oidc.secret").write_text(SECRET + "\n")
    (made / "keys" / "oidc.secret").chmod(0o600)
    return made


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "home"))


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with real_provider(tmp_path_factory.mktemp("provider"), OWN + CALLBACK) as running:
        yield running


@dataclass
class Way:
    """The way in of one coordinator that has a provider, with a browser in front of it."""

    browser: TestClient
    log: AccessLog
    settings: CoordinatorSettings

    def begin(self, back: str = "/") -> str:
        answer = self.browser.get("/v1/session/oidc", params={"back": back}, follow_redirects=False)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    def come_back(self, url: str) -> httpx.Response:
        assert url.startswith(OWN + CALLBACK)
        answer: httpx.Response = self.browser.get(url, follow_redirects=False)
        return answer

    def sign_in(self, provider: Provider, login: str, back: str = "/") -> httpx.Response:
        return self.come_back(provider.sign_in(self.begin(back), login))

    def lie(self, iss: str | None = None) -> httpx.Response:
        """Come back from a provider whose token is for this very attempt unless it lies."""
        asked = parse_qs(urlsplit(self.begin()).query)
        query = {"code": asked["nonce"][0], "state": asked["state"][0]}
        query |= {} if iss is None else {"iss": iss}
        return self.come_back(f"{OWN}{CALLBACK}?{httpx.QueryParams(query)}")

    def come_back_alone(self) -> int:
        """What a code of a provider that is away comes to."""
        asked = parse_qs(urlsplit(self.begin()).query)
        query = {"code": "c", "state": asked["state"][0], "iss": self.issuer}
        return self.come_back(f"{OWN}{CALLBACK}?{httpx.QueryParams(query)}").status_code

    @property
    def issuer(self) -> str:
        assert self.settings.oidc is not None
        return self.settings.oidc.issuer

    def who(self) -> dict[str, Any] | None:
        answer = self.browser.get("/v1/session")
        return dict(answer.json()) if answer.status_code == 200 else None

    def newest(self) -> AccessRecord:
        self.log.flush()
        return read_page(self.settings.audit_log, 1, 1)[0][0]


@contextmanager
def way_in(home: Path, issuer: str, **changed: Any) -> Iterator[Way]:
    """The way in of `home` with `issuer` as its provider."""
    fields = {
        "issuer": issuer,
        "client_id": "fedtags",
        "client_secret": "file:keys/oidc.secret",
        "roles": ROLES,
    }
    provider = OidcSettings.model_validate({**fields, **changed})
    settings = load_settings(home).model_copy(update={"oidc": provider})
    access, log = open_access(settings), AccessLog(settings.audit_log)
    app = FastAPI()
    web.install(app)
    app.include_router(router(settings, open_gate(settings, access, log)))
    try:
        with TestClient(app, base_url=OWN) as browser:
            yield Way(browser, log, settings)
    finally:
        log.close()
        access.close()


@pytest.fixture
def way(home: Path, provider: Provider) -> Iterator[Way]:
    with way_in(home, provider.issuer, ca_certificate=str(provider.ca)) as opened:
        yield opened


# With the real provider --------------------------------------------------------------------------


def test_a_person_signs_in_with_the_role_that_the_providers_groups_give(
    way: Way, provider: Provider
) -> None:
    answer = way.sign_in(provider, "anna", back="/runs?page=2")
    assert answer.status_code == 200, answer.text
    assert 'content="0;url=/runs?page=2"' in answer.text
    cookies = answer.headers.get_list("set-cookie")
    [session] = [one.lower() for one in cookies if "coordinator-8470" in one]
    for flag in ("__host-", "httponly", "secure", "samesite=strict"):
        assert flag in session
    who = way.who()
    assert who is not None
    assert (who["name"], who["role"]) == ("anna@fed.example", "data-scientist")
    record = way.newest()
    assert (record.who, record.what, record.allowed) == (
        "anna@fed.example",
        SIGN_IN_ELSEWHERE,
        True,
    )


def test_of_several_roles_the_first_one_of_the_settings_counts(
    way: Way, provider: Provider
) -> None:
    assert way.sign_in(provider, "chief").status_code == 200
    who = way.who()
    assert who is not None
    assert who["role"] == "admin"


@pytest.mark.parametrize(
    ("login", "said"),
    [
        ("visitor", "gives a role here"),
        ("unsure", "not verified your e-mail"),
        ("nameless", "no claim email"),
    ],
)
def test_whom_the_settings_give_nothing_is_refused_and_on_record(
    way: Way, provider: Provider, login: str, said: str
) -> None:
    answer = way.sign_in(provider, login)
    assert answer.status_code == 403
    assert said in answer.text
    assert way.who() is None
    assert (way.newest().what, way.newest().allowed) == (SIGN_IN_ELSEWHERE, False)


def test_somebody_else_with_the_same_address_does_not_become_that_person(
    way: Way, provider: Provider
) -> None:
    assert way.sign_in(provider, "anna").status_code == 200
    way.browser.cookies.clear()
    answer = way.sign_in(provider, "impostor")
    assert answer.status_code == 403
    assert "belongs to somebody else" in answer.text
    assert way.who() is None


def test_a_code_is_of_no_use_in_another_browser(way: Way, provider: Provider) -> None:
    url = provider.sign_in(way.begin(), "anna")
    way.browser.cookies.clear()
    assert way.come_back(url).status_code == 401
    way.begin()  # the thief's own attempt
    assert way.come_back(url).status_code == 401
    assert way.who() is None


def test_an_answer_counts_once(way: Way, provider: Provider) -> None:
    attempt = way.begin()
    cookies = dict(way.browser.cookies)
    url = provider.sign_in(attempt, "anna")
    assert way.come_back(url).status_code == 200
    way.browser.cookies.clear()
    assert way.come_back(url).status_code == 401  # the attempt's cookie is gone
    for name, value in cookies.items():
        way.browser.cookies.set(name, value)
    answer = way.come_back(url)  # and with it the provider knows that the code was used
    assert answer.status_code == 401
    assert "invalid_grant" in answer.text
    assert way.who() is None


def test_an_attempt_ends_after_ten_minutes(
    way: Way, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = provider.sign_in(way.begin(), "anna")
    later = time.time() + oidc.ATTEMPT_SECONDS + 1
    with monkeypatch.context() as patch:
        patch.setattr(oidc.time, "time", lambda: later)
        assert way.come_back(url).status_code == 401


def test_the_request_carries_pkce_state_and_nonce_and_none_of_the_cookie(way: Way) -> None:
    asked = {name: one[0] for name, one in parse_qs(urlsplit(way.begin()).query).items()}
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert asked["redirect_uri"] == OWN + CALLBACK
    assert asked["scope"] == "openid profile email"
    [cookie] = way.browser.cookies.values()
    secret = cookie.strip('"').partition(".")[0]
    assert all(secret not in value for value in asked.values())
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3


def test_the_provider_gives_no_token_for_another_verifier(
    way: Way, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = provider.sign_in(way.begin(), "anna")
    honest = oidc.OidcClient._derived

    def forgotten(self: oidc.OidcClient, what: str, opened: str) -> str:
        return "0" * 64 if what == "verifier" else honest(self, what, opened)

    monkeypatch.setattr(oidc.OidcClient, "_derived", forgotten)
    assert way.come_back(url).status_code == 401


@pytest.mark.parametrize(
    "back", ["//evil.example", "/\\evil.example", "https://evil.example", '/"']
)
def test_the_page_leads_on_to_this_site_only(way: Way, provider: Provider, back: str) -> None:
    answer = way.sign_in(provider, "anna", back=back)
    assert 'content="0;url=/"' in answer.text
    assert "evil" not in answer.text


def test_a_refusal_at_the_provider_is_said_without_its_text(way: Way) -> None:
    state = parse_qs(urlsplit(way.begin()).query)["state"][0]
    query = httpx.QueryParams(state=state, error="access_denied<script>", iss=way.issuer)
    answer = way.come_back(f"{OWN}{CALLBACK}?{query}")
    assert answer.status_code == 401
    assert "access_denied" in answer.text
    assert "<script>" not in answer.text


@pytest.mark.parametrize(
    "changed",
    [
        {"client_id": "post"},
        {"client_id": "es256"},
        {"client_id": "public", "client_secret": None},
        {"name_claim": "sub"},
    ],
    ids=lambda changed: str(next(iter(changed.values()))),
)
def test_other_kinds_of_clients_and_names_work_as_well(
    home: Path, provider: Provider, changed: dict[str, Any]
) -> None:
    people = {"client_id": "fedtags", "ca_certificate": str(provider.ca), **changed}
    with way_in(home, provider.issuer, **people) as way:
        login = "chief"
        if changed.get("name_claim"):
            login = "nameless"
        assert way.sign_in(provider, login).status_code == 200
        assert way.who() is not None


def test_a_wrong_client_secret_opens_nothing(home: Path, provider: Provider) -> None:
    (home / "keys" / "wrong.secret").write_text("not the secret")
    (home / "keys" / "wrong.secret").chmod(0o600)
    wrong = {"client_secret": "file:keys/wrong.secret", "ca_certificate": str(provider.ca)}
    with way_in(home, provider.issuer, **wrong) as way:
        answer = way.sign_in(provider, "anna")
        assert answer.status_code == 401
        assert "invalid_client" in answer.text


def test_a_provider_whose_certificate_is_by_nobody_known_is_not_asked(
    home: Path, provider: Provider
) -> None:
    with way_in(home, provider.issuer) as way:
        answer = way.browser.get("/v1/session/oidc", follow_redirects=False)
        assert answer.status_code == 503
        assert "does not answer" in answer.text


def test_the_provider_may_change_its_keys_and_may_put_the_claims_into_the_token(
    home: Path, tmp_path: Path
) -> None:
    port = free_port()
    with way_in(home, f"http://127.0.0.1:{port}") as way:
        with real_provider(tmp_path, OWN + CALLBACK, port=port, tls=False) as provider:
            assert way.sign_in(provider, "chief").status_code == 200
        assert way.come_back_alone() == 503
        with real_provider(
            tmp_path, OWN + CALLBACK, port=port, tls=False, claims_in_token=True
        ) as provider:
            way.browser.cookies.clear()
            assert way.sign_in(provider, "chief").status_code == 200
            assert way.who() is not None


# With one that lies ------------------------------------------------------------------------------


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying_provider() as running:
        yield running


@pytest.fixture
def lied_to(home: Path, liar: Liar) -> Iterator[Way]:
    with way_in(home, liar.issuer) as opened:
        yield opened


def test_the_liar_is_believed_as_long_as_it_does_not_lie(lied_to: Way) -> None:
    assert lied_to.lie().status_code == 200
    assert lied_to.who() is not None


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://login.example"},
        {"iss": None},
        {"aud": "another-client"},
        {"aud": ["fedtags", "another-client"]},
        {"aud": None},
        {"azp": "another-client"},
        {"exp": 1},
        {"exp": None},
        {"exp": "never"},
        {"exp": float("nan")},
        {"iat": 2**40},
        {"nbf": 2**40},
        {"nonce": "of another attempt"},
        {"nonce": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "s" * 256},
        {"at_hash": "of another token"},
    ],
    ids=lambda claims: json.dumps(claims)[:40],
)
def test_a_claim_that_is_not_about_this_attempt_opens_nothing(
    lied_to: Way, liar: Liar, claims: dict[str, Any]
) -> None:
    liar.claims = claims
    answer = lied_to.lie()
    assert (answer.status_code, lied_to.who()) == (401, None)
    assert (lied_to.newest().who, lied_to.newest().allowed) == ("unknown", False)


def test_only_the_providers_own_key_signs(lied_to: Way, liar: Liar) -> None:
    public = liar.key.as_pem(private=False).decode()
    other = RSAKey.generate_key(2048, {"kid": "1"})
    for sign in (
        unsigned,
        hmac_with(SECRET),
        hmac_with(public),
        lambda head, body: jwt.encode(head, body, other),
        lambda head, body: jwt.encode(head, body, liar.key)[:-4] + "AAAA",
        lambda head, body: "not.a.token",
        lambda head, body: "",
    ):
        liar.sign = sign
        answer = lied_to.lie()
        assert (answer.status_code, lied_to.who()) == (401, None)


def test_an_unknown_key_makes_the_coordinator_ask_once_for_the_keys(
    lied_to: Way, liar: Liar
) -> None:
    assert lied_to.lie().status_code == 200
    lied_to.browser.cookies.clear()
    before = liar.asked.count("/keys")
    liar.header = {"kid": "unheard of"}
    assert lied_to.lie().status_code == 401
    assert liar.asked.count("/keys") == before + 1


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ({"issuer": "https://login.example"}, 422),
        ({"authorization_endpoint": "http://login.example/authorize"}, 422),
        ({"authorization_endpoint": None}, 422),
        ({"authorization_endpoint": "x" * 2_000_000}, 503),
    ],
    ids=["issuer", "plain", "missing", "long"],
)
def test_a_provider_that_is_not_the_one_of_the_settings_gets_nobody(
    lied_to: Way, liar: Liar, metadata: dict[str, Any], status: int
) -> None:
    liar.metadata = metadata
    answer = lied_to.browser.get("/v1/session/oidc", follow_redirects=False)
    assert answer.status_code == status


@pytest.mark.parametrize("told", [None, "https://login.example"])
def test_an_answer_from_another_provider_is_not_taken(
    lied_to: Way, liar: Liar, told: str | None
) -> None:
    liar.metadata = {"authorization_response_iss_parameter_supported": True}
    assert lied_to.lie(iss=told).status_code == 401
    assert lied_to.lie(iss=liar.issuer).status_code == 200


def test_two_people_in_one_answer_are_nobody(lied_to: Way, liar: Liar) -> None:
    liar.metadata = {"userinfo_endpoint": f"{liar.issuer}/userinfo"}
    liar.claims = {"groups": None}
    liar.userinfo = {"sub": "chief", "groups": ["admins"]}
    assert lied_to.lie().status_code == 401
    liar.userinfo = {"sub": "anna", "groups": ["admins"], "email": "chief@fed.example"}
    assert lied_to.lie().status_code == 200
    who = lied_to.who()
    assert who is not None
    assert (who["name"], who["role"]) == ("anna@fed.example", "admin")


@pytest.mark.parametrize("groups", [7, None, {"modelling": True}, [["modelling"]], "Modelling"])
def test_a_claim_of_another_shape_gives_no_role(lied_to: Way, liar: Liar, groups: object) -> None:
    liar.claims = {"groups": groups}
    assert lied_to.lie().status_code == 403
    assert lied_to.who() is None


@pytest.mark.parametrize("cookie", ["", "x", "a.b.c", "a.1.", "!", "." * 50, "é", "a" * 5000])
def test_a_cookie_of_nobodys_making_is_no_attempt(lied_to: Way, cookie: str) -> None:
    asked = parse_qs(urlsplit(lied_to.begin()).query)
    lied_to.browser.cookies.clear()
    name = "__Host-fedtags-coordinator-oidc-8470"
    url = f"{CALLBACK}?{httpx.QueryParams(code='c', state=asked['state'][0])}"
    header = {"cookie": f"{name}={cookie}".encode()}
    answer = lied_to.browser.get(url, headers=header)
    assert answer.status_code == 401
    assert re.search("attempt to sign in has ended", answer.text)


def test_a_provider_that_does_not_answer_holds_only_a_few_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(oidc, "_WAIT_SECONDS", 0.05)
    few = oidc._AT_ONCE
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(few) as pool:
        fields = {
            "issuer": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "client_id": "fedtags",
            "roles": ROLES,
        }
        settings = OidcSettings.model_validate(fields)
        client = oidc.OidcClient(settings, None, OWN + CALLBACK, lambda what, value: "0" * 64)
        waiting = [pool.submit(client.begin) for _ in range(few)]
        held = [silent.accept()[0] for _ in range(few)]
        with pytest.raises(RateLimited):
            client.begin()
        for connection in held:
            connection.close()
        for one in waiting:
            with pytest.raises(NotRunningError):
                one.result()
