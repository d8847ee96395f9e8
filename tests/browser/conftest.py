"""The real web process over a real home, and people with browsers of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from party_client.supernode import free_port

from .acting import sign_in
from .party_home import Furnished, furnish

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The first look at a plan calibrates its noise: seconds, and more on a busy machine.
WAIT_MS = 60_000
expect.set_options(timeout=WAIT_MS)
# A page that answers with a refusal is an error to the browser, too; the test reads that page.
REFUSALS = "Failed to load resource: the server responded with a status of 4"


@dataclass(frozen=True)
class Console:
    """The web process of `furnished`."""

    address: str
    furnished: Furnished


# Of each file alone: what one file decides about a plan is no other file's.
@pytest.fixture(scope="module")
def console(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """`python -m party_client.web` on a home that has everything."""
    port = free_port()
    furnished = furnish(tmp_path_factory.mktemp("federation"), port)
    log = furnished.settings.home / "web.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "party_client.web", "--home", str(furnished.settings.home)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, f"{address}/sign-in", log)
        yield Console(address, furnished)
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            assert httpx.get(address).status_code == 200
            return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the web process does not answer: {log.read_text()}")


# Its event loop runs in this thread: no later file of this process may find it running.
@pytest.fixture(scope="module")
def playwright_session() -> Iterator[Playwright]:
    with sync_playwright() as session:
        yield session


@pytest.fixture(scope="module")
def browser(chromium: str, playwright_session: Playwright) -> Iterator[Browser]:
    """The distribution's Chromium with a fresh profile."""
    found = playwright_session.chromium.launch(executable_path=chromium, args=ARGUMENTS)
    yield found
    found.close()


@dataclass
class Watched:
    """What the pages of one test asked for, and what went wrong in them."""

    address: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("request", lambda one: self.requests.append(one.url))
        page.on("console", lambda one: self.complaints.append(one.text))
        page.on("pageerror", lambda one: self.complaints.append(str(one)))

    def check(self) -> None:
        """Nothing left this origin, no customer stood in an address, nothing was blocked."""
        host = urlsplit(self.address).netloc
        assert {urlsplit(one).netloc for one in self.requests} <= {host}
        assert [one for one in self.complaints if not one.startswith(REFUSALS)] == []


Open = Callable[..., Page]
Picture = Callable[[Page, str], None]


@pytest.fixture
def visit(console: Console, browser: Browser) -> Iterator[Open]:
    """Open a window, signed in as `name` if given; what it did is looked at when the test ends."""
    watched = Watched(console.address)
    contexts = []

    def open_window(
        name: str | None = None, language: str = "en-GB", width: int = 1200, scheme: str = "light"
    ) -> Page:
        context = browser.new_context(
            base_url=console.address,
            viewport={"width": width, "height": 900},
            locale=language,
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        watched.watch(page)
        page.goto("/")
        if name is not None:
            sign_in(page, name)
        return page

    yield open_window
    for context in contexts:
        context.close()
    watched.check()
    customers = console.furnished.customers
    assert not any(one in url for one in customers[:5] for url in watched.requests)


@pytest.fixture
def picture() -> Picture:
    """Save the window as docs show it: FEDTAGS_SCREENSHOTS=docs/images pytest tests/browser."""
    folder = os.environ.get("FEDTAGS_SCREENSHOTS")

    def take(page: Page, name: str) -> None:
        if folder:
            path = Path(folder) / f"console-{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=path)

    return take
