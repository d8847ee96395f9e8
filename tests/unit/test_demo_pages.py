"""A demo that is left up: its people can sign in where it says, and Ctrl-C ends the waiting."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from coordinator.people import open_access as coordinator_access
from coordinator.settings import load_settings as coordinator_settings
from coordinator.setup import initialise as initialise_coordinator
from party_client.people import open_access as party_access
from party_client.settings import load_settings as party_settings
from party_client.setup import initialise as initialise_party
from privacy.hosting.sessions import Sessions
from simulations import demo
from simulations.demo_pages import as_text, let_people_in, wait_for_signal
from simulations.homes import configure_source


def test_people_sign_in_with_what_is_printed(tmp_path: Path) -> None:
    scenario = demo.market(tmp_path, 300)
    scenario = demo.Scenario(
        scenario.title, {"bank": scenario.sources["bank"]}, {"bank": 500}, (), simulated=True
    )
    control, superlink, console = demo._free_ports(3)
    initialise_coordinator(
        tmp_path / "coordinator", "demo", "data-science", "127.0.0.1", control, superlink
    )
    initialise_party(tmp_path / "bank", "bank", 500)
    configure_source(tmp_path / "bank", scenario.sources["bank"])
    assert not party_settings(tmp_path / "bank").web.enabled
    demo._open_console(tmp_path / "bank", console)
    web = party_settings(tmp_path / "bank").web
    assert (web.enabled, web.host, web.port) == (True, "127.0.0.1", console)

    found = let_people_in(demo.FinishedDemo(tmp_path, scenario, (), {}))
    assert [(one.of, one.address) for one in found] == [
        ("coordinator", f"https://127.0.0.1:{control}/"),
        ("bank", f"http://127.0.0.1:{console}/"),
    ]
    roles = [{person.name: person.role for person in one.people} for one in found]
    assert roles == [
        {
            "scientist": "data-scientist",
            "reviewer": "reviewer",
            "bank-operator": "party-operator:bank",
        },
        {"operator": "operator", "reviewer": "reviewer"},
    ]
    printed = as_text(found)
    for pages, access in zip(
        found,
        (
            coordinator_access(coordinator_settings(tmp_path / "coordinator")),
            party_access(party_settings(tmp_path / "bank")),
        ),
        strict=True,
    ):
        try:
            for person in pages.people:
                assert f"password {person.password}" in printed
                opened = Sessions(access).sign_in(person.name, person.password, "127.0.0.1")
                assert opened.session.principal.role == person.role
        finally:
            access.close()
    assert len({person.password for one in found for person in one.people}) == 5
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    written = [path.read_bytes() for path in kept]
    for one in found:
        assert all(
            person.password.encode() not in content for person in one.people for content in written
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_ends_with_a_signal_and_gives_the_handlers_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
    timer.start()
    wait_for_signal()
    timer.join()
    assert signal.getsignal(number) is before


def test_free_ports_are_different_ones() -> None:
    assert len(set(demo._free_ports(20))) == 20
