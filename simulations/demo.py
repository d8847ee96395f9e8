"""`fedtags-sim demo`: a whole federation on this machine, by the commands that partners use.

Every role is a process of its own with its own folder, keys and config; the demo runs the same
`fedtags-coordinator` and `fedtags-party` commands that people would, one after the other. What it
does in a person's place, it says: it confirms fingerprints by itself (reading them from the other
parties' own folders), and it reads every party's own report, which nobody could do in a real
federation.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from coordinator.client import CoordinatorClient
from coordinator.desk_views import RunDetail
from coordinator.settings import load_settings
from models.plan import read_plan
from party_client.source_settings import SourceSettings
from privacy.errors import ConfigError
from privacy.hosting.processes import signals_held
from privacy.hosting.supervision import error_of
from privacy.identity import SigningKey, fingerprint
from simulations.homes import configure_source
from simulations.population import write_market
from simulations.public_shops import shop_sources

MARKER = ".fedtags-demo"
POLL_S = 0.3
Step = Callable[[str], None]


@dataclass(frozen=True)
class Scenario:
    """What a demo runs: the parties' sources and public sizes, and the plans in their order."""

    title: str
    sources: Mapping[str, SourceSettings]
    public_sizes: Mapping[str, int]
    plans: tuple[Path, ...]
    simulated: bool


@dataclass(frozen=True)
class FinishedDemo:
    """Where everything lies, and what ran."""

    folder: Path
    scenario: Scenario
    runs: tuple[RunDetail, ...]
    seconds: Mapping[str, float]


def market(folder: Path, customers: int) -> Scenario:
    """The simulated market of a retailer, a bank and an e-commerce company."""
    sources = write_market(folder, customers)
    size = -(-customers // 500) * 500
    return Scenario(
        "simulated market",
        sources,
        dict.fromkeys(sources, size),
        (plan_file("market-churn"), plan_file("market-propensity")),
        simulated=True,
    )


def shops(data: Path) -> Scenario:
    """Three public shops; public sizes are the published customer counts, rounded up."""
    return Scenario(
        "three public shops",
        shop_sources(data),
        {"grocer": 2500, "musicshop": 24_000, "giftshop": 6000},
        (plan_file("shops-churn"), plan_file("shops-propensity")),
        simulated=False,
    )


def plan_file(name: str) -> Path:
    """A shipped plan: inside an installed package, or in docs/tutorials of a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "plans" / f"{name}.toml"
    return packaged if packaged.is_file() else here.parent / "docs/tutorials" / f"{name}.toml"


def prepare_folder(folder: Path) -> None:
    """An empty folder for a demo; an earlier demo's is replaced, anything else is left alone."""
    if folder.exists():
        if not (folder / MARKER).is_file() and any(folder.iterdir()):
            raise ConfigError(
                f"{folder} exists and is not a demo's folder; choose another with --folder"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, mode=0o700)
    (folder / MARKER).touch()


def run_demo(
    folder: Path, scenario: Scenario, progress: Progress, *, time_empty_messages: bool = False
) -> FinishedDemo:
    """Set up, run every plan, stop everything. Whatever happens, no process is left behind.

    `time_empty_messages` switches the coordinator's diagnostics of that name on.
    """
    with running_demo(
        folder, scenario, progress, time_empty_messages=time_empty_messages
    ) as finished:
        pass
    return finished


@contextmanager
def running_demo(
    folder: Path,
    scenario: Scenario,
    progress: Progress,
    *,
    time_empty_messages: bool = False,
    consoles: bool = False,
) -> Iterator[FinishedDemo]:
    """As `run_demo`, but everything stays up until the block ends, however it does. With
    `consoles`, every party's console listens on a loopback port of its own."""
    seconds: dict[str, float] = {}
    bar = progress.add_task("setting up", total=None)

    shown = ""

    def step(text: str) -> None:
        nonlocal shown
        progress.update(bar, description=text)
        if text != shown and not progress.console.is_terminal:
            progress.console.print(text)  # no bars in a log, so a line for each step
        shown = text

    homes = {party: folder / party for party in scenario.sources}
    coordinator = Command("fedtags-coordinator", folder / "coordinator")
    nodes = {party: Command("fedtags-party", home) for party, home in homes.items()}
    try:
        with timed(seconds, "set up"):
            _set_up(coordinator, nodes, scenario, time_empty_messages, step, consoles)
        with timed(seconds, "start nodes"):
            step("starting the party nodes")
            _each(nodes, lambda party, node: node("start", "--detach"))
        client = CoordinatorClient.of_home(load_settings(coordinator.home))
        with client:
            runs = []
            for plan in scenario.plans:
                with timed(seconds, f"run {plan.stem}"):
                    runs.append(_run_plan(coordinator, client, plan, progress, step))
        progress.update(bar, visible=False)
        yield FinishedDemo(folder, scenario, tuple(runs), seconds)
    finally:
        with signals_held(), timed(seconds, "stop"):
            progress.update(bar, visible=True)
            step("stopping every process")
            _stop(coordinator, nodes)
    progress.remove_task(bar)


@dataclass(frozen=True)
class Command:
    """One of fedtags' programs on one home folder."""

    program: str
    home: Path

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run it as a process of its own; returns what it printed.

        Raises the error that the program's exit code names, with the program's own message.
        """
        program = Path(sys.executable).with_name(self.program)
        process = subprocess.Popen(  # noqa: S603 - our own programs, arguments made here
            [str(program), "--home", str(self.home), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            # Ctrl-C reaches the demo alone, which then stops everything in order.
            start_new_session=True,
        )
        try:
            shown, error = process.communicate()
        except BaseException:
            # Never SIGKILL: an interrupted `start --detach` takes back what it has begun.
            process.send_signal(signal.SIGINT)
            process.communicate()
            raise
        if check and process.returncode != 0:
            raise error_of(process.returncode)(
                f"{self.program} {' '.join(arguments[:2])}: {error.strip()}"
            )
        return shown


def _set_up(
    coordinator: Command,
    nodes: Mapping[str, Command],
    scenario: Scenario,
    time_empty_messages: bool,
    step: Step,
    consoles: bool = False,
) -> None:
    """What the organisations do once: init, invite, join, confirm."""
    step("coordinator: init, start")
    control, superlink, *others = _free_ports(2 + len(nodes))
    coordinator(
        "init", "--control-port", str(control), "--superlink-port", str(superlink),
        "--federation", "demo",
    )  # fmt: skip
    if time_empty_messages:
        config = coordinator.home / "coordinator.toml"
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("time_empty_messages = false", "time_empty_messages = true"))
    coordinator("start", "--detach")
    step("parties: init, describe the source")
    _each(
        nodes,
        lambda party, node: node(
            "init", "--party", party, "--public-size", str(scenario.public_sizes[party])
        ),
    )
    for party, node in nodes.items():
        configure_source(node.home, scenario.sources[party])
        if consoles:
            _open_console(node.home, others.pop())
    step("parties: join by invite")
    invites = {party: node.home / "invite.json" for party, node in nodes.items()}
    for party, path in invites.items():
        coordinator("party", "invite", party, "--output", str(path))
    _each(nodes, lambda party, node: node("join", str(invites[party]), "--format", "json"))
    step("parties: confirm each other's fingerprints (the demo does it by itself)")
    shown = {
        party: fingerprint(SigningKey.load(node.home / "keys" / "identity.pem").public)
        for party, node in nodes.items()
    }
    _each(
        nodes,
        lambda party, node: node(
            "join",
            *(
                part
                for name, one in shown.items()
                if name != party
                for part in ("--confirm", f"{name}={one}")
            ),
        ),
    )


def _free_ports(count: int) -> list[int]:
    """Different loopback ports that nothing listens on."""
    with ExitStack() as probes:
        ports = []
        for _ in range(count):
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
        return ports


def _open_console(home: Path, port: int) -> None:
    """Let the node's API and console listen on a loopback port."""
    config = home / "party.toml"
    before, after = config.read_text(encoding="utf-8").split("\n[web]\n", 1)
    after = after.replace("enabled = false", "enabled = true", 1)
    after = re.sub(r"(?m)^port = \d+$", f"port = {port}", after, count=1)
    config.write_text(f"{before}\n[web]\n{after}", encoding="utf-8")


def _run_plan(
    coordinator: Command,
    client: CoordinatorClient,
    file: Path,
    progress: Progress,
    step: Step,
) -> RunDetail:
    plan, _ = read_plan(file)
    step(f"{plan.name}: submitting the plan")
    run_id = json.loads(coordinator("plan", "submit", str(file), "--format", "json"))["run_id"]
    # Preflight, two key exchanges, the rounds, evaluation, its opening, publication.
    total = plan.training.rounds + 6
    task = progress.add_task(plan.name, total=total)
    while True:
        run = client.run(run_id)
        where = run.phase or "starting"
        if run.round:
            where += f" {run.round}/{run.total_rounds}"
        step(f"{plan.name}: {where}")
        progress.update(task, completed=min(len(run.exchanges), total))
        if not run.active:
            break
        time.sleep(POLL_S)
    if run.state != "finished":
        raise error_of(run.exit_code or 1)(run.message or f"run {run_id} ended: {run.state}")
    progress.update(task, completed=total)
    return run


def _stop(coordinator: Command, nodes: Mapping[str, Command]) -> None:
    """Stop everything; what was never started is no error."""
    _each(nodes, lambda party, node: node("stop", check=False))
    coordinator("stop", check=False)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Record how long a block took, however it ended."""
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = time.monotonic() - started


def _each(nodes: Mapping[str, Command], act: Callable[[str, Command], object]) -> None:
    """Do one thing at every party at once; the first error is raised when all are done."""
    pool = ThreadPoolExecutor(max_workers=len(nodes))
    try:
        futures = [pool.submit(act, party, node) for party, node in nodes.items()]
        wait(futures)
    finally:
        # After Ctrl-C, too: a start that is still under way could not be stopped yet.
        with signals_held():
            pool.shutdown(cancel_futures=True)
    for future in futures:
        future.result()
