"""Bad input, by the commands that people type: the exit code, what to do about it, nothing lost.

Faults that the commands' own functions raise are tested where they live; here each goes the whole
way, through the installed programs, and no customer's data may appear on the screen.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from party_client.enrolment import join
from party_client.profile_store import Publication, TagBatch, open_profile_store
from party_client.settings import PartySettings
from party_client.source_settings import SourceSettings
from simulations.homes import configure_source
from tests.integration.control_plane_server import (
    PLAN,
    Coordinator,
    make_coordinator,
    make_party,
    served,
)

# What lies in the sources below and must never be shown.
CUSTOMERS = ("KD-4711", "KD-4712")
SECRETS = (*CUSTOMERS, "1234.56", "2024-06-07")
EVENTS = "who,at,sum\nKD-4711,2024-06-07,1234.56\nKD-4712,2024-06-07,1234.56\n"
TABLE = "who,age\nKD-4711,1234.56\nKD-4712,1234.56\n"


def run(program: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One installed program, as a process of its own."""
    return subprocess.run(
        [Path(sys.executable).with_name(program), "--home", home, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def failed(result: subprocess.CompletedProcess[str], exit_code: int, words: str) -> None:
    assert result.returncode == exit_code, (result.returncode, result.stderr)
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    shown = result.stdout + result.stderr
    assert [secret for secret in SECRETS if secret in shown] == []


def files(folder: Path) -> dict[Path, bytes]:
    """All but the egress log: what is about to be sent is in it, whether or not it gets out."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "egress.jsonl")
    return {path: path.read_bytes() for path in found}


def processes_naming(folder: Path) -> list[str]:
    """Command lines of the live processes that mention `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(folder) in line and path.parent.name != str(os.getpid()):
            found.append(line)
    return found


# Sources -----------------------------------------------------------------------------------------


@pytest.fixture
def bank(tmp_path: Path) -> PartySettings:
    return make_party(tmp_path / "bank", "bank")


EVENT_COLUMNS = {"customer": "who", "time": "at", "amount": "sum"}


@pytest.mark.parametrize(
    ("content", "source", "exit_code", "words"),
    [
        (None, {}, 10, "does not exist: check source.path"),
        (EVENTS, {"columns": EVENT_COLUMNS | {"amount": "price"}}, 19, "'price' (for amount)"),
        ("who,at,sum\n", {}, 19, "check source.path"),
        ("", {}, 19, "is empty: export it again"),
        (TABLE + "KD-4711,1234.56\n", {"kind": "table"}, 19, "exactly one row per customer"),
        ("who,age\n", {"kind": "table"}, 19, "the feature table is empty"),
    ],
    ids=[
        *("missing file", "wrong column", "empty log", "empty file"),
        *("two customers with one id", "empty table"),
    ],
)
def test_an_unusable_source_is_named_and_what_to_check(
    bank: PartySettings, content: str | None, source: dict[str, Any], exit_code: int, words: str
) -> None:
    if content is not None:
        (bank.home / "records.csv").write_text(content)
    values = {"path": "records.csv", "columns": EVENT_COLUMNS} | source
    configure_source(bank.home, SourceSettings.model_validate(values))
    before = files(bank.home)
    failed(run("fedtags-party", bank.home, "check"), exit_code, words)
    rejected = bank.home / "rejected"
    assert before == {
        path: content for path, content in files(bank.home).items() if rejected not in path.parents
    }


PURPOSE = ("--purpose", "marketing")


def test_tags_of_an_unknown_customer_are_no_error_and_the_id_is_not_repeated(
    bank: PartySettings,
) -> None:
    before_any_run = run("fedtags-party", bank.home, "tags", "show", "KD-4711", *PURPOSE)
    failed(before_any_run, 26, "no run has published tags here yet")
    store = open_profile_store(bank)
    store.set_consents(None)
    store.publish(
        Publication(
            run_id="run-1",
            kind="joint",
            plan_digest="a" * 64,
            model_digest="b" * 64,
            parties=("bank", "shop"),
            epsilon=1.0,
            delta=1e-5,
            published_at=datetime.now(UTC).replace(microsecond=0),
            as_of=date(2024, 6, 30),
            valid_until=date.today() + timedelta(days=9),
        ),
        [TagBatch("churn_risk", ["KD-4712"], ["high"], [0.9])],
    )
    store.close()
    shown = run("fedtags-party", bank.home, "tags", "show", "KD-4711", *PURPOSE)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == "no tag of this customer may be read for this purpose now\n"


# Commands out of place ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    return make_coordinator(tmp_path_factory.mktemp("federation") / "home")


@pytest.mark.parametrize(
    ("content", "exit_code", "words"),
    [
        (PLAN + b'\n[surprise]\nwho = "KD-4711"\n', 11, "surprise: unknown key"),
        (PLAN.replace(b"epsilon = 1.0", b"epsilon = 1234.56"), 11, "privacy.epsilon"),
        (PLAN + b"[surprise", 11, "not valid TOML"),
        (None, 10, "cannot be read (No such file or directory); check the path"),
    ],
)
def test_a_plan_that_cannot_be_used_is_refused_before_anything_is_asked(
    tmp_path: Path, template: Coordinator, content: bytes | None, exit_code: int, words: str
) -> None:
    plan = tmp_path / "plan.toml"
    if content is not None:
        plan.write_bytes(content)
    home = template.settings.home  # nobody listens there
    failed(run("fedtags-coordinator", home, "plan", "submit", str(plan)), exit_code, words)


def test_what_is_not_running_is_said_with_the_command_that_starts_it(
    template: Coordinator, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_bytes(PLAN)
    submitted = run("fedtags-coordinator", template.settings.home, "plan", "submit", str(plan))
    failed(submitted, 25, "fedtags-coordinator start")


def test_a_second_init_changes_nothing(bank: PartySettings) -> None:
    before = files(bank.home)
    again = run("fedtags-party", bank.home, "init", "--party", "shop", "--public-size", "90")
    failed(again, 10, "never overwrites")
    assert files(bank.home) == before


@pytest.mark.parametrize(("which", "how"), [("control", ()), ("superlink", ("--detach",))])
def test_a_taken_port_ends_the_start_and_nothing_is_left_running(
    tmp_path: Path, template: Coordinator, which: str, how: tuple[str, ...]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(template.settings.home, home)
    settings = template.settings
    port = settings.control.port if which == "control" else settings.superlink.port
    with socket.create_server(("127.0.0.1", port)):
        failed(run("fedtags-coordinator", home, "start", *how), 17, f"`{which}.port`")
    assert processes_naming(tmp_path) == []
    assert list((home / "run").iterdir()) == []


# Certificates ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_coordinators(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Coordinator, Coordinator]]:
    """The one that invites, and an impostor with a certificate authority of its own."""
    folder = tmp_path_factory.mktemp("coordinators")
    with (
        served(make_coordinator(folder / "real")) as real,
        served(make_coordinator(folder / "other")) as other,
    ):
        yield real, other


def test_joining_a_server_with_another_certificate_is_refused(
    two_coordinators: tuple[Coordinator, Coordinator], bank: PartySettings, tmp_path: Path
) -> None:
    real, other = two_coordinators
    with real.client() as client:
        invite = client.invite("bank")
    path = tmp_path / "bank.json"
    invite.model_copy(update={"control_url": other.settings.control_url}).write(path)
    before = files(bank.home)
    refused = run("fedtags-party", bank.home, "join", str(path))
    failed(refused, 18, "does not show a certificate of the pinned authority; check the address")
    assert invite.token not in refused.stderr
    assert files(bank.home) == before


def test_a_federation_whose_certificate_was_swapped_is_not_asked_for_members(
    two_coordinators: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    real, other = two_coordinators
    shop = make_party(tmp_path / "shop", "shop")
    with real.client() as client:
        join(shop, client.invite("shop"))
    shop.ca_certificate.write_bytes(other.settings.ca_certificate.read_bytes())
    before = files(shop.home)
    failed(run("fedtags-party", shop.home, "join"), 18, "certificate of the pinned authority")
    assert files(shop.home) == before


# Ctrl-C ------------------------------------------------------------------------------------------


@pytest.mark.deployed
def test_ctrl_c_while_the_demo_sets_up_leaves_no_process_behind(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    program = Path(sys.executable).with_name("fedtags-sim")
    demo = subprocess.Popen(
        [program, "demo", "--folder", folder, "--customers", "300"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        ready = folder / "coordinator" / "run" / "coordinator.ready"
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert demo.poll() is None, demo.communicate()
            assert time.monotonic() < deadline, "the coordinator did not start"
            time.sleep(0.05)
        assert len(processes_naming(folder)) > 3
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
        _, error = demo.communicate(timeout=120)
    finally:
        if demo.poll() is None:
            demo.terminate()  # it cleans up by itself, as for Ctrl-C
            demo.wait(60)
    assert demo.returncode == 130, error
    assert "Traceback" not in error
    assert processes_naming(folder) == []
