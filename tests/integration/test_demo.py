"""The whole federation, every role a process: on the public shops, or else a simulated market.

One party's service is killed in the middle of the first run: it must come back by itself.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coordinator.run_store import RunStore
from coordinator.settings import load_settings as coordinator_settings
from party_client.processes import child_pid
from party_client.settings import load_settings
from privacy.accounting import epsilon
from privacy.ledger import Ledger
from tests.conftest import find_public_data

PROGRAMS = Path(sys.executable).parent


def processes_mentioning(folder: Path) -> list[str]:
    """Command lines of running processes that name `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and int(entry.parent.name) != os.getpid():
            found.append(line)
    return found


def kill_in_round_two(folder: Path, party: str, demo: subprocess.Popen[str]) -> None:
    """SIGKILL `party`'s service once the demo's first run is in round 2 or later."""
    database, store = folder / "coordinator" / "coordinator.db", None
    while demo.poll() is None:
        if store is None and database.exists():
            store = RunStore(coordinator_settings(folder / "coordinator").database_url)
        run = None if store is None else store.active_run()
        if run is not None and run.phase == "round" and (run.round or 0) >= 2:
            pid = child_pid(folder / party, "service")
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.1)
    if store is not None:
        store.close()


@pytest.mark.deployed
@pytest.mark.timeout(900)
def test_demo_trains_both_plans_and_publishes(tmp_path: Path) -> None:
    data = find_public_data()
    folder, summary_file = tmp_path / "d", tmp_path / "summary.json"
    command = [str(PROGRAMS / "fedtags-sim"), "demo", "--folder", str(folder)]
    command += ["--json", str(summary_file)]
    command += ["--customers", "2000"] if data is None else ["--data", str(data)]
    killed = "bank" if data is None else "musicshop"
    with (tmp_path / "errors").open("w") as errors:
        demo = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, text=True)
        try:
            kill_in_round_two(folder, killed, demo)
            assert demo.wait(timeout=850) == 0, (tmp_path / "errors").read_text()[-3000:]
        finally:
            demo.send_signal(signal.SIGINT)  # stops everything in order; nothing if it has ended
            demo.wait(timeout=60)
    assert processes_mentioning(folder) == []
    summary = json.loads(summary_file.read_text())
    assert len(summary["runs"]) == 2
    notes = summary["runs"][0]["notes"]
    assert any(note.startswith(f"{killed} came back") for note in notes), notes
    assert summary["runs"][1]["notes"] == []
    service = (folder / killed / "logs" / "party.log").read_text()
    assert "service ended unexpectedly (signal 9); starting it again" in service
    parties = list(summary["parties"])
    assert len(parties) == 3

    for party in parties:
        home = folder / party
        ledger = Ledger(load_settings(home).ledger)
        ledger.verify()
        state = ledger.state()
        assert {run.state for run in state.runs.values()} == {"finished"}
        ran = [one.mechanism for run in state.runs.values() for one in run.intents]
        printed = summary["parties"][party]["epsilon_spent"]
        assert epsilon(ran, state.cap_delta) == pytest.approx(printed, rel=1e-9)
        assert summary["parties"][party]["budget_used"] == pytest.approx(state.cap.used(ran))
        assert 0 < summary["parties"][party]["runs_left"] < 100

    for run in summary["runs"]:
        tag = {"churn": "churn_risk", "propensity": "purchase_propensity"}[
            run["plan"].split("-")[1]
        ]
        for party, figures in run["parties"].items():
            shown = subprocess.run(
                [
                    str(PROGRAMS / "fedtags-party"), "--home", str(folder / party),
                    "tags", "export", "--tag", tag, "--purpose", "marketing", "--format", "json",
                ],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            records = json.loads(shown.stdout)
            assert len(records) == figures["tags_written"] > 0
            assert {one["run_id"] for one in records} == {run["run"]}
            assert figures["bytes_up"] > 0
            assert figures["epsilon_run"] < 2.0
            assert figures["joint"]["auc"] > 0.55

    if data is not None:
        churn = summary["runs"][0]["parties"]
        assert {party: one["eligible"] for party, one in churn.items()} == {
            "grocer": 2416,
            "musicshop": 7249,
            "giftshop": 2772,
        }
        # Non-private figures are .88 / .70 / .76; a joint model that learned is near them.
        assert churn["grocer"]["joint"]["auc"] > 0.75
