"""`fedtags-sim bench control`: the coordinator's control plane with 100 parties and 1,000 runs.

Adding parties and runs with ten and with a thousand runs stored; then the real control plane
process over TLS: the main reads of API and pages at a steady 100 requests a second, each timed from
when it was due; the weight of its pages; and its memory once all is quiet. The parties' nodes are
not there, and no SuperLink is: a read never waits for it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from asyncio import run
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.progress import Progress

from coordinator.people import open_access
from coordinator.roles import Role
from coordinator.settings import CoordinatorSettings, load_settings
from coordinator.setup import initialise
from party_client.supernode import free_port
from privacy.errors import RunStopped
from privacy.hosting.processes import accepts_connections
from privacy.hosting.supervision import child_environment
from simulations.benchmarks.control_client import Timed, Visitor, ask_steadily
from simulations.benchmarks.control_data import (
    FEDERATION,
    Stores,
    create_run,
    enrol,
    fill,
    opened,
    party_name,
    run_name,
)
from simulations.benchmarks.figures import at_most

PARTIES, RUNS = 100, 1000
FEW_RUNS = 10
ADDED = 25  # parties and runs that each of the two homes gets, one after the other
SECONDS = 30
NAME, PASSWORD = "bench", "a password of this benchmark alone"
API = {
    "overview": "/v1/overview",
    "parties": "/v1/parties?limit=100",
    "runs": "/v1/runs",
    "run": "/v1/runs/{run}",
    "budgets": "/v1/budgets",
    "models": "/v1/models",
}
PAGES = {
    "home_page": "/",
    "runs_page": "/runs",
    "run_page": "/runs/{run}",
    "privacy_page": "/privacy",
}
# What is weighed besides; the run of `{largest}` asked as many parties as a plan may name.
MORE_PAGES = (
    "/runs/{largest}",
    "/parties",
    "/parties/{party}",
    "/compare",
    "/compare?run={largest}&run={run}",
    "/alerts",
    "/tags",
    "/evidence",
    "/launch",
)
GOALS_AT_MOST = {
    "read_p99_ms": 50.0,
    "page_kb": 300.0,
    "idle_mb": 300.0,
    "add_run_ratio": 2.0,
}
_START_S = 120.0
_SETTLE_S = 2.0


def bench_control(progress: Progress, scale: float = 1.0) -> dict[str, Any]:
    """Run the benchmark on `scale` of 100 parties and 1,000 runs."""
    parties, runs = max(10, round(PARTIES * scale)), max(2 * FEW_RUNS, round(RUNS * scale))
    figures: dict[str, float] = {"parties": parties, "runs": runs}
    task = progress.add_task("", total=len(PARTS))
    with TemporaryDirectory(prefix="fedtags-bench-") as folder:
        for part in PARTS:
            progress.update(task, description=part)
            figures |= _in_fresh_process(part, Path(folder), parties, runs)
            progress.advance(task)
    progress.remove_task(task)
    return {
        "benchmark": "control",
        "figures": {name: round(value, 3) for name, value in figures.items()},
        "goals": {name: at_most(figures[name], goal) for name, goal in GOALS_AT_MOST.items()},
    }


def _in_fresh_process(part: str, folder: Path, parties: int, runs: int) -> dict[str, float]:
    module = "simulations.benchmarks.control"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", module, part, str(folder), str(parties), str(runs)],
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


# Adding ------------------------------------------------------------------------------------------


def seed(folder: Path, parties: int, runs: int) -> dict[str, float]:
    """The home with many runs, which the next parts use, and the one with few."""
    for name, count in (("many", runs), ("few", FEW_RUNS)):
        with opened(_home(folder / name)) as stores:
            fill(stores, parties, count)
    return {}


def adding(folder: Path, parties: int, runs: int) -> dict[str, float]:
    """Milliseconds of inviting and enrolling a party, and of storing a run, with few and with many
    runs stored: medians, the two taken in turn. The homes are copies."""
    times: dict[str, list[float]] = {}
    counts = {"few": FEW_RUNS, "many": runs}
    for number in range(ADDED):
        for name, count in counts.items():
            home = folder / f"{name}-to-add-to"
            if number == 0:
                shutil.copytree(folder / name, home)
            with opened(load_settings(home)) as stores:
                stores.runs.active_run(), stores.members.parties()  # opens both's connections
                for what, act in _additions(stores, parties + number, count + number):
                    started = time.perf_counter()
                    act()
                    times.setdefault(f"{what}_{name}", []).append(time.perf_counter() - started)
                stores.runs.fail(run_name(count + number), RunStopped("stopped by its benchmark"))
    typical = {name: 1000 * statistics.median(each) for name, each in times.items()}
    return {
        "add_party_ms": typical["party_many"],
        "add_party_few_ms": typical["party_few"],
        "add_party_ratio": typical["party_many"] / typical["party_few"],
        "add_run_ms": typical["run_many"],
        "add_run_few_ms": typical["run_few"],
        "add_run_ratio": typical["run_many"] / typical["run_few"],
    }


def _additions(
    stores: Stores, party: int, number: int
) -> Sequence[tuple[str, Callable[[], object]]]:
    asked = [party_name(one) for one in range(5)]
    return (
        ("party", lambda: enrol(stores, party_name(party))),
        ("run", lambda: create_run(stores, number, asked)),
    )


def _home(folder: Path) -> CoordinatorSettings:
    initialise(folder, FEDERATION, "data-science", "127.0.0.1", free_port(), free_port())
    return load_settings(folder)


# Reading -----------------------------------------------------------------------------------------


def reading(folder: Path, parties: int, runs: int) -> dict[str, float]:
    """Milliseconds of the main reads, the weight of pages, and the process' memory afterwards."""
    settings = load_settings(folder / "many")
    access = open_access(settings)
    try:
        access.add_person(NAME, Role.DATA_SCIENTIST, PASSWORD)
    finally:
        access.close()
    server = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "coordinator.control_plane", "--home", str(settings.home)],
        env=child_environment(),
        stdout=sys.stderr,
    )
    try:
        _wait_for(settings, server)
        figures = run(_read(settings, parties, runs))
        time.sleep(_SETTLE_S)
        figures["idle_mb"] = _memory(server.pid) / 1e6
    finally:
        server.terminate()
        server.wait(30)
    return figures


async def _read(settings: CoordinatorSettings, parties: int, runs: int) -> dict[str, float]:
    token = settings.api_token.read_text(encoding="utf-8").strip()
    visitor = Visitor(settings.control.port, settings.ca_certificate, token)
    await visitor.sign_in(NAME, PASSWORD)
    names = [run_name(number) for number in range(runs)]
    await ask_steadily(visitor, {**API, **PAGES}, names, seconds=3)  # imports, caches, connections
    times = await ask_steadily(visitor, {**API, **PAGES}, names, seconds=SECONDS)
    # One more than a multiple of LARGE_EVERY failed; the others finished.
    asked = {"largest": run_name(0), "run": run_name(2), "party": party_name(parties - 1)}
    paths = [path.format(**asked) for path in (*PAGES.values(), *MORE_PAGES)]
    weights = {path: await _weight(visitor, path) for path in paths}
    await visitor.close()
    return {**_figures(times), "page_kb": max(weights.values()) / 1000}


def _figures(times: Sequence[Timed]) -> dict[str, float]:
    by_read: dict[str, list[float]] = {}
    for one in times:
        by_read.setdefault(one.read, []).append(one.seconds)
    everything = [one.seconds for one in times]
    return {
        "read_p50_ms": _quantile_ms(everything, 0.5),
        "read_p99_ms": _quantile_ms(everything, 0.99),
        "read_requests": len(everything),
        **{
            f"{name}_p{share:.0f}_ms": _quantile_ms(each, share / 100)
            for name, each in sorted(by_read.items())
            for share in (50.0, 99.0)
        },
    }


def _quantile_ms(seconds: Sequence[float], share: float) -> float:
    return 1000 * sorted(seconds)[int(share * (len(seconds) - 1))]


async def _weight(visitor: Visitor, path: str) -> int:
    """Bytes of a page with the style sheets and scripts that it names; no pictures."""
    page = await visitor.get(path, as_person=True)
    found = re.findall(rb'<(?:link rel="stylesheet" href|script[^>]* src)="([^"]+)"', page)
    named: Mapping[str, None] = dict.fromkeys(one.decode() for one in found)
    return len(page) + sum([len(await visitor.get(one, as_person=True)) for one in named])


def _memory(pid: int) -> int:
    """The process' proportional share of memory (PSS), in bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def _wait_for(settings: CoordinatorSettings, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.poll() is None:
        if accepts_connections(settings.host, settings.control.port):
            return
        time.sleep(0.1)
    raise RuntimeError("the control plane did not start; its messages are above")


PARTS: dict[str, Callable[[Path, int, int], dict[str, float]]] = {
    "seed": seed,
    "adding": adding,
    "reading": reading,
}


def _main(arguments: Sequence[str]) -> None:
    part, folder, parties, runs = arguments
    print(json.dumps(PARTS[part](Path(folder), int(parties), int(runs))))


if __name__ == "__main__":
    _main(sys.argv[1:])
