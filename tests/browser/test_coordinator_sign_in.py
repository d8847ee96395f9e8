"""Signing in at a provider with a real browser, which alone knows which cookies travel when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from coordinator.oidc import CALLBACK
from tests.integration.control_plane_server import (
    Coordinator,
    make_coordinator,
    open_coordinator,
    served,
)
from tests.integration.oidc_servers import SECRET, Provider, free_port, real_provider

WHO = "/v1/session"


@pytest.fixture
def provider_port() -> int:
    return free_port()


@pytest.fixture
def coordinator(tmp_path: Path, provider_port: int) -> Iterator[Coordinator]:
    """A control plane whose people sign in on another site: the provider has another host name."""
    home = tmp_path / "home"
    made = make_coordinator(home)
    made.control.members.close()
    with (home / "coordinator.toml").open("a") as settings:
        settings.write(
            f'\n[oidc]\nissuer = "http://localhost:{provider_port}"\nclient_id = "fedtags"\n'
            'client_secret = "file:keys/oidc.secret"\n[oidc.roles]\nmodelling = "data-scientist"\n'
        )
    secret = home / "keys" / "oidc.secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    with served(open_coordinator(home)) as running:
        yield running


@pytest.fixture
def provider(coordinator: Coordinator, provider_port: int, tmp_path: Path) -> Iterator[Provider]:
    back = coordinator.settings.people_url + CALLBACK
    with real_provider(tmp_path, back, host="localhost", port=provider_port, tls=False) as running:
        yield running


@pytest.fixture
def page(coordinator: Coordinator, browser: Browser) -> Iterator[Page]:
    context = browser.new_context(
        base_url=coordinator.settings.people_url, ignore_https_errors=True
    )
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def through_the_provider(page: Page, login: str) -> None:
    page.goto(f"/v1/session/oidc?back={WHO}")
    page.fill('input[name="login"]', login)
    page.fill('input[name="password"]', "x")
    page.click('button[type="submit"]')
    page.click('button[type="submit"]')  # what the client may know


def test_a_person_comes_back_from_the_provider_and_is_signed_in_on_the_next_page(
    page: Page, provider: Provider, coordinator: Coordinator
) -> None:
    through_the_provider(page, "anna")
    page.wait_for_url(coordinator.settings.people_url + WHO)
    who = json.loads(page.inner_text("body"))
    assert (who["name"], who["role"]) == ("anna@fed.example", "data-scientist")
    cookies = {one["name"]: one for one in page.context.cookies(coordinator.settings.people_url)}
    [session] = cookies.values()
    assert (session["sameSite"], session["secure"], session["httpOnly"]) == ("Strict", True, True)


def test_somebody_without_a_role_reads_why(page: Page, provider: Provider) -> None:
    through_the_provider(page, "visitor")
    page.wait_for_url(f"**{CALLBACK}*")
    assert page.inner_text("h1") == "You are not signed in"
    assert "gives a role here" in page.inner_text("p >> nth=0")
