"""The commands as their users run them: real processes, exit codes, no secret on the screen."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import pytest

from coordinator.cli import main as coordinator_main
from party_client.cli import main as party_main
from party_client.federation import load_federation
from tests.integration.control_plane_server import PLAN, Coordinator, make_coordinator, served


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with served(make_coordinator(tmp_path_factory.mktemp("federation") / "home")) as running:
        yield running


def command(
    main: Callable[[], None], home: Path, *arguments: str, answers: str = ""
) -> subprocess.CompletedProcess[str]:
    """The program's own entry point, in this process: starting one costs a second each time."""
    line = ["fedtags", "--home", str(home), *arguments]
    out, error = io.StringIO(), io.StringIO()
    with (
        redirect_stdout(out),
        redirect_stderr(error),
        mock.patch.object(sys, "argv", line),
        mock.patch.object(sys, "stdin", io.StringIO(answers)),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(line, code, out.getvalue(), error.getvalue())


def coordinate(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(coordinator_main, home, *arguments)


def party(home: Path, *arguments: str, answers: str = "") -> subprocess.CompletedProcess[str]:
    return command(party_main, home, *arguments, answers=answers)


def succeeded(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def failed(result: subprocess.CompletedProcess[str], exit_code: int, words: str) -> None:
    assert result.returncode == exit_code, (result.returncode, result.stderr)
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def secrets_of(home: Path) -> list[bytes]:
    return [
        path.read_bytes().strip() for path in (home / "keys").iterdir() if path.suffix != ".pub"
    ]


@pytest.mark.parametrize("who", ["coordinator", "party"])
def test_init_prints_no_secret_and_never_overwrites(tmp_path: Path, who: str) -> None:
    home = tmp_path / who
    run = coordinate if who == "coordinator" else party
    options = (
        ["init"] if who == "coordinator" else ["init", "--party", "bank", "--public-size", "6000"]
    )
    shown = succeeded(run(home, *options))
    assert "fingerprint" in shown
    for path in (home / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((home / "keys").stat().st_mode) == 0o700
    for secret in secrets_of(home):
        for line in secret.splitlines():
            assert b"-----" in line or line not in shown.encode(), "a secret was printed"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    failed(run(home, *options), 10, "never overwrites")
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_init_leaves_a_foreign_file_alone_and_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "mine").write_text("mine")
    failed(coordinate(tmp_path, "init"), 10, "never overwritten")
    assert [path.name for path in tmp_path.rglob("*")] == ["keys", "mine"]


def test_invite_join_confirm_and_list(coordinator: Coordinator, tmp_path: Path) -> None:
    home = coordinator.settings.home
    own: dict[str, str] = {}
    for name in ("bank", "shop"):
        succeeded(party(tmp_path / name, "init", "--party", name, "--public-size", "6000"))
        invite = tmp_path / f"{name}.json"
        shown = succeeded(coordinate(home, "party", "invite", name, "--output", str(invite)))
        assert json.loads(invite.read_text())["token"] not in shown
        assert stat.S_IMODE(invite.stat().st_mode) == 0o600
        joined = party(tmp_path / name, "join", str(invite), "--format", "json")
        pinned = json.loads(succeeded(joined))
        own[name] = pinned["members"][name]["fingerprint"]
    listed = json.loads(succeeded(coordinate(home, "party", "list", "--format", "json")))
    assert {item["name"]: item["fingerprint"] for item in listed} == own

    wrong = f"shop={own['bank']}"
    failed(party(tmp_path / "bank", "join", "--confirm", wrong), 23, "do not confirm it")
    failed(party(tmp_path / "bank", "join", "--confirm", "shop"), 10, "NAME=FINGERPRINT")
    assert "shop" not in load_federation(tmp_path / "bank").confirmed
    succeeded(party(tmp_path / "bank", "join", "--confirm", f"shop={own['shop']}"))
    assert "shop" in load_federation(tmp_path / "bank").confirmed

    shown = succeeded(party(tmp_path / "shop", "join", answers="n\n"))
    assert own["bank"] in shown
    assert "bank" not in load_federation(tmp_path / "shop").confirmed
    succeeded(party(tmp_path / "shop", "join", answers=""))  # no answer is no
    assert "bank" not in load_federation(tmp_path / "shop").confirmed
    succeeded(party(tmp_path / "shop", "join", answers="y\n"))
    assert "bank" in load_federation(tmp_path / "shop").confirmed

    failed(coordinate(home, "party", "invite", "bank"), 10, "enrolled already")
    status = json.loads(succeeded(party(tmp_path / "bank", "status", "--format", "json")))
    assert (status["service_up"], status["supernode_up"]) == (False, False)
    assert (status["members"], status["members_confirmed"]) == (2, 2)
    assert status["budget_used"] == 0
    assert status["epsilon_budget"] == 8.0


def test_plan_commands_name_what_is_wrong(coordinator: Coordinator, tmp_path: Path) -> None:
    home = coordinator.settings.home
    plan = tmp_path / "plan.toml"
    failed(coordinate(home, "plan", "validate", str(plan)), 10, "cannot be read")
    plan.write_bytes(PLAN + b"\nsede = 1\n")
    failed(coordinate(home, "plan", "validate", str(plan)), 11, "sede")
    failed(coordinate(home, "plan", "submit", str(plan)), 11, "sede")
    plan.write_bytes(PLAN + b'[cohort]\nparties = ["x", "y", "z"]\n')
    assert "valid plan churn" in succeeded(coordinate(home, "plan", "validate", str(plan)))
    failed(coordinate(home, "plan", "submit", str(plan)), 14, "x, y, z")
    assert json.loads(succeeded(coordinate(home, "run", "list", "--format", "json"))) == []


def test_runs_are_watched_to_their_own_exit_code(tmp_path: Path) -> None:
    coordinator = make_coordinator(tmp_path / "home")
    home = coordinator.settings.home
    plan = tmp_path / "plan.toml"
    plan.write_bytes(PLAN)
    with served(coordinator):
        for name in ("bank", "retailer", "shop"):
            succeeded(party(tmp_path / name, "init", "--party", name, "--public-size", "6000"))
            invite = tmp_path / f"{name}.json"
            succeeded(coordinate(home, "party", "invite", name, "--output", str(invite)))
            succeeded(party(tmp_path / name, "join", str(invite)))
        submitted = coordinate(home, "plan", "submit", str(plan), "--format", "json")
        first = json.loads(succeeded(submitted))["run_id"]
        failed(coordinate(home, "plan", "submit", str(plan)), 16, "another run is active")

        recorder = coordinator.control.runs.recorder(first)
        watching = subprocess.Popen(
            [
                *(sys.executable, "-m", "coordinator.cli", "--home", str(home)),
                *("run", "watch", first, "--format", "json"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        recorder.phase("round", 1, 8)
        recorder.exchange("round", 1, 0.5, {"bank": 100}, {"bank": 50})
        coordinator.control.runs.finish(first, {"auc": 0.7})
        shown, _ = watching.communicate(timeout=60)
        assert watching.returncode == 0
        last = json.loads(shown.splitlines()[-1])
        assert (last["state"], last["outcome"]) == ("finished", {"auc": 0.7})

        second = json.loads(
            succeeded(coordinate(home, "plan", "submit", str(plan), "--format", "json"))
        )["run_id"]
        failed(coordinate(home, "run", "resume", second), 1, "not paused (created)")
        recorder = coordinator.control.runs.recorder(second)
        recorder.phase("round", 2, 8)
        recorder.membership("bank", "left")
        recorder.pause(["bank"], datetime(2030, 1, 1, 14, 5, tzinfo=UTC))
        shown = " ".join(succeeded(coordinate(home, "run", "show", second)).split())
        assert "paused: waits for bank, at most until 14:05 UTC" in shown
        assert "bank did not answer (round 2, " in shown
        assert "asks bank now" in succeeded(coordinate(home, "run", "resume", second))
        assert recorder.resume_requested()
        succeeded(coordinate(home, "run", "stop", second, "--force"))
        failed(coordinate(home, "run", "watch", second), 24, "stopped by an operator")
        failed(coordinate(home, "run", "stop", second), 1, "already ended")
        failed(coordinate(home, "run", "watch", "nothing"), 31, "no run of this id")
        shown = succeeded(coordinate(home, "run", "list", "--format", "json"))
        assert [item["run_id"] for item in json.loads(shown)] == [second, first]


def test_commands_without_a_running_coordinator_say_so(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "home").settings.home
    for arguments in (["party", "list"], ["run", "list"], ["party", "invite", "bank"]):
        failed(coordinate(home, *arguments), 25, "fedtags-coordinator start")
    failed(coordinate(home, "stop"), 25, "not running")


def test_commands_without_a_home_say_what_to_do(tmp_path: Path) -> None:
    failed(coordinate(tmp_path / "no", "run", "list"), 10, "init")
    failed(party(tmp_path / "no", "status"), 10, "init")
    succeeded(party(tmp_path / "p", "init", "--party", "p", "--public-size", "100"))
    failed(party(tmp_path / "p", "join"), 10, "join INVITE")
    failed(party(tmp_path / "p", "start", "--detach"), 10, "join INVITE")
    failed(party(tmp_path / "p", "join", str(tmp_path / "missing")), 10, "cannot be read")
    failed(party(tmp_path / "p", "check"), 10, "events.parquet")
    failed(party(tmp_path / "p", "stop"), 25, "not running")


def test_ledger_and_budget_commands_end_with_stable_exit_codes(tmp_path: Path) -> None:
    home, plan = tmp_path / "p", tmp_path / "plan.toml"
    plan.write_bytes(PLAN)
    ask = ("budget", "plan", str(plan))
    for command in (["ledger", "show"], ["ledger", "verify"], ["budget", "show"], ask):
        failed(party(home, *command), 10, "init")
    succeeded(party(home, "init", "--party", "p", "--public-size", "6000"))
    for command in (["ledger", "show"], ["ledger", "verify"], ["budget", "show"], ask):
        assert "Traceback" not in succeeded(party(home, *command))
    failed(party(home, "ledger", "verify", "--known", "12"), 10, "POSITION:HASH")
    failed(party(home, "ledger", "show", "--run", "none"), 10, "ledger show")
    failed(party(home, "budget", "plan", str(tmp_path / "none")), 10, "cannot be read")
    assert party(home, "budget", "plan").returncode == 2
    assert party(home, "ledger", "export", "--format", "csv").returncode == 2
    plan.write_bytes(PLAN + b"\nseed = 1\n")
    failed(party(home, *ask), 11, "seed: unknown key")
    plan.write_bytes(PLAN.replace(b"epsilon = 1.0", b"epsilon = 0.0"))
    failed(party(home, *ask), 11, "privacy.epsilon")
    plan.write_bytes(PLAN.replace(b"epsilon = 1.0", b"epsilon = 1.0\ndelta = 0.001"))
    failed(party(home, *ask), 12, "privacy.delta is above")
    ledger = home / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"8.0", b"9.0"))
    plan.write_bytes(PLAN)
    commands = (["ledger", "show"], ["ledger", "verify"], ["ledger", "export"], ["budget", "show"])
    for command in (*commands, ask, ["status"]):
        failed(party(home, *command), 21, "line 1")


def test_check_counts_what_is_clamped_for_the_operator_alone(tmp_path: Path) -> None:
    home = tmp_path / "p"
    succeeded(party(home, "init", "--party", "p", "--public-size", "100"))
    settings = home / "party.toml"
    settings.write_text(settings.read_text().replace("events.parquet", "log.csv"))
    (home / "log.csv").write_text(
        "customer,time,amount\na,2024-05-01,60000\nb,2024-05-02,7\nb,2024-06-20,3\n"
    )
    found = json.loads(succeeded(party(home, "check", "--format", "json")))
    assert found["eligible"] == 2
    assert found["clamped"] == {"spend_90": 1, "spend_365": 1, "spend_per_day_365": 1}
    assert "clamped values spend_90 1" in " ".join(succeeded(party(home, "check")).split())
    plan = tmp_path / "plan.toml"
    plan.write_bytes(PLAN.replace(b"2025-01-01", b"2024-06-01"))
    shown = party(home, "check", "--plan", str(plan), "--format", "json")
    assert json.loads(succeeded(shown))["clamped"] == {
        "spend_90": 1,
        "spend_365": 1,
        "spend_per_day_365": 1,
    }
    failed(party(home, "check", "--plan", str(tmp_path / "none")), 10, "cannot be read")


@pytest.mark.parametrize("which", ["control", "superlink"])
def test_port_in_use_is_said_before_anything_starts(tmp_path: Path, which: str) -> None:
    settings = make_coordinator(tmp_path / "home").settings
    port = settings.control.port if which == "control" else settings.superlink.port
    with socket.create_server(("127.0.0.1", port)):
        failed(coordinate(settings.home, "start"), 17, f"{which}.port")
    assert list((settings.home / "run").iterdir()) == []


def test_certificate_of_another_authority_stops_the_start(tmp_path: Path) -> None:
    settings = make_coordinator(tmp_path / "home").settings
    other = make_coordinator(tmp_path / "other").settings
    settings.server_certificate.write_bytes(other.server_certificate.read_bytes())
    failed(coordinate(settings.home, "start"), 18, "not signed by the authority")


def test_wrong_command_line_is_exit_code_2(tmp_path: Path) -> None:
    assert coordinate(tmp_path, "run", "watch").returncode == 2
    assert party(tmp_path, "init", "--party", "p", "--public-size", "1").returncode == 2


def test_wrong_setting_is_named_with_its_rule(tmp_path: Path) -> None:
    home = make_coordinator(tmp_path / "home").settings.home
    path = home / "coordinator.toml"
    path.write_text(path.read_text().replace("valid_hours = 72", "valid_hours = 0"))
    failed(coordinate(home, "run", "list"), 10, "invitations.valid_hours")
    succeeded(party(tmp_path / "p", "init", "--party", "p", "--public-size", "100"))
    path = tmp_path / "p" / "party.toml"
    path.write_text("surprise = 1\n" + path.read_text())
    failed(party(tmp_path / "p", "status"), 10, "surprise: unknown key")


def test_home_may_come_from_the_environment(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "party_client.cli", "status"],
        env={**os.environ, "FEDTAGS_PARTY_HOME": str(tmp_path / "elsewhere")},
        capture_output=True,
        text=True,
        check=False,
    )
    failed(result, 10, str(tmp_path / "elsewhere"))


def test_ctrl_c_while_watching_is_exit_code_130(tmp_path: Path) -> None:
    coordinator = make_coordinator(tmp_path / "home")
    coordinator.control.runs.create_run("run-1", PLAN, b"p" * 32, b"s" * 64)
    with served(coordinator):
        watching = subprocess.Popen(
            [
                *(sys.executable, "-m", "coordinator.cli"),
                *("--home", str(coordinator.settings.home), "run", "watch", "run-1"),
                *("--format", "json"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        assert watching.stdout.readline()
        time.sleep(0.2)
        watching.send_signal(signal.SIGINT)
        _, error = watching.communicate(timeout=30)
    assert watching.returncode == 130, error
    assert "Traceback" not in error
