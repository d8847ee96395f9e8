"""Processes and threads that use one ledger at once, and `kill -9`: the cap holds all the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from privacy.budget import Cap
from privacy.errors import BudgetExceeded
from privacy.hash_chain import Chain
from privacy.ledger import Ledger
from privacy.ledger_replay import replay
from privacy.ledger_state import LedgerState
from privacy.mechanism import Mechanism
from tests.ledgers import DELTA, release_that_fits, reserve

ROOT = Path(__file__).parents[2]
CAP = Cap.of(8.0, DELTA)

# Runs of up to four releases each: some end as planned, some early, and a few are left lying until
# they expire. Prints what the ledger has granted: a run's name, and again for each intent.
WRITER = """
import random, sys
from datetime import timedelta
from pathlib import Path
from privacy.errors import BudgetExceeded
from privacy.ledger import Ledger
from privacy.mechanism import Gaussian
from tests.ledgers import intend, reserve

path, name, runs, noise, mode = sys.argv[1:]
ledger, release, choose = Ledger(Path(path)), Gaussian(float(noise)), random.Random(name)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(runs)):
    run = f"{name}-{number}"
    asked, left = (1, True) if mode == "plain" else (choose.randint(1, 4), choose.random() < 0.1)
    valid_for = timedelta(hours=1) if mode == "plain" or not left else timedelta(milliseconds=20)
    try:
        reserve(ledger, run, [release] * asked, valid_for=valid_for)
    except BudgetExceeded:
        continue
    print(run, flush=True)
    if not left:
        for step in range(choose.randint(0, asked)):
            intend(ledger, run, step, release)
            print(run, "intent", flush=True)
        ledger.close(run, "failed")
"""


def start_writer(path: Path, name: str, runs: int, fits: int, mode: str) -> subprocess.Popen[str]:
    release = release_that_fits(fits, CAP)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, path, name, str(runs), str(release.noise_multiplier), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.jsonl"
    Ledger.create(path, party="b", cap_epsilon=8.0, cap_delta=DELTA, code_version="0")
    return path


def states(ledger: Ledger) -> list[LedgerState]:
    """The ledger as it was after each reservation."""
    entries = ledger.entries()
    return [
        replay(Chain(entries[: number + 1]))
        for number, entry in enumerate(entries)
        if entry.kind == "reserve"
    ]


def begun(ledger: Ledger) -> list[Mechanism]:
    return [one.mechanism for run in ledger.state().runs.values() for one in run.intents]


def test_threads_that_reserve_at_once_never_pass_the_cap(path: Path) -> None:
    refused: list[str] = []

    def one(name: str) -> None:
        try:
            reserve(Ledger(path), name, [release_that_fits(5, CAP)])
        except BudgetExceeded:
            refused.append(name)

    threads = [threading.Thread(target=one, args=(f"run-{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert 5 / 6 < Ledger(path).used() <= 1


def test_processes_that_reserve_at_once_never_pass_the_cap(path: Path) -> None:
    writers = [start_writer(path, name, 25, 30, "plain") for name in ("a", "b")]
    for writer in writers:
        go(writer)
    granted = [run for writer in writers for run in writer.communicate()[0].split()]
    assert len(granted) == 30
    ledger = Ledger(path)
    assert set(ledger.state().runs) == set(granted)
    assert 29 / 30 < ledger.used() <= 1
    ledger.verify()


def test_processes_that_begin_end_and_leave_runs_never_pass_the_cap(path: Path) -> None:
    writers = [start_writer(path, name, 60, 40, "mixed") for name in ("a", "b")]
    for writer in writers:
        go(writer)
    told = [line for writer in writers for line in writer.communicate()[0].splitlines()]
    ledger = Ledger(path)
    ledger.verify()
    assert set(ledger.state().runs) == {line.split()[0] for line in told}
    assert all(state.cap.admits(state.charged()) for state in states(ledger))
    assert len(begun(ledger)) == sum("intent" in line for line in told)
    assert 35 < len(begun(ledger)) <= 40  # the writers did come near the cap
    assert CAP.admits(begun(ledger))


@pytest.mark.parametrize("mode", ["plain", "mixed"])
def test_what_was_granted_before_kill_9_is_counted(path: Path, mode: str) -> None:
    writer = start_writer(path, "a", 100_000, 1_000_000, mode)
    go(writer)
    assert writer.stdout is not None
    told = [writer.stdout.readline().strip() for _ in range(20 + random.randrange(20))]
    writer.kill()
    told += writer.communicate()[0].splitlines()
    ledger = Ledger(path)
    assert {line.split()[0] for line in told} <= set(ledger.state().runs)
    counted = sum("intent" in line for line in told) if mode == "mixed" else len(told)
    assert ledger.used() >= CAP.used([release_that_fits(1_000_000, CAP)] * counted)
    reserve(ledger, "after", [release_that_fits(1000, CAP)])
    ledger.verify()
