"""`fedtags-sim bench party`: what a party's node does with a million customers.

Features from an event log; scoring with reasons and writing three tags of every customer into
SQLite and PostgreSQL, once into an empty store and once more with other values, so that history
grows (the slower of the two is the figure); then look-ups of profiles over the node's real web
process at a steady 200 requests a second, each timed from when it was due. Each part is a process
of its own. All rows are made up.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from models.catalogue import input_width
from models.plan import Plan, parse_plan
from models.reasons import reason_codes
from models.tag_catalogue import load_catalogue
from models.tags import tag_values
from models.training import model_logits
from party_client.people import open_access
from party_client.profile_store import (
    ProfileStore,
    Publication,
    TagBatch,
    open_profile_store,
)
from party_client.settings import load_settings
from party_client.setup import initialise
from party_client.source_settings import SourceSettings
from party_client.sources import open_source
from privacy.hosting.sealing import Sealing
from privacy.hosting.supervision import child_environment
from simulations.benchmarks.figures import at_least, at_most
from simulations.benchmarks.party_data import COLUMNS, DAYS, FIRST_DAY, write_events
from simulations.demo import plan_file

CUSTOMERS, EVENTS = 1_000_000, 10_000_000
# Three tags of the catalogue that take low, medium and high.
TAGS = ("churn_risk", "purchase_propensity", "price_sensitivity")
SERVER = "FEDTAGS_POSTGRESQL"
DEFAULT_SERVER = "postgresql+psycopg://postgres@127.0.0.1:5432/test"
RATE, SECONDS, CONNECTIONS = 200, 30, 16
PURPOSE = "marketing"
GOALS_AT_MOST = {"features_s": 60.0, "features_peak_gb": 4.0, "lookup_p99_ms": 20.0}
GOALS_AT_LEAST = {"sqlite_tags_per_s": 60_000.0, "postgresql_tags_per_s": 50_000.0}


def bench_party(progress: Progress, scale: float = 1.0) -> dict[str, Any]:
    """Run the benchmark on `scale` of a million customers. Where no PostgreSQL answers, its figure
    is absent and standard error says so."""
    figures: dict[str, float] = {"customers": round(CUSTOMERS * scale)}
    task = progress.add_task("", total=len(PARTS))
    with TemporaryDirectory(prefix="fedtags-bench-") as folder:
        for part in PARTS:
            progress.update(task, description=part)
            figures |= _in_fresh_process(part, Path(folder), scale)
            progress.advance(task)
    progress.remove_task(task)
    return {
        "benchmark": "party",
        "figures": {name: round(value, 3) for name, value in figures.items()},
        "goals": {
            **{
                name: at_most(figures[name], goal)
                for name, goal in GOALS_AT_MOST.items()
                if name in figures
            },
            **{
                name: at_least(figures[name], goal)
                for name, goal in GOALS_AT_LEAST.items()
                if name in figures
            },
        },
    }


def _in_fresh_process(part: str, folder: Path, scale: float) -> dict[str, float]:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "simulations.benchmarks.party", part, str(folder), str(scale)],
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


# Features ----------------------------------------------------------------------------------------


def write_log(folder: Path, scale: float) -> dict[str, float]:
    """The event log that the next part reads; its making is not timed."""
    write_events(folder / "events.parquet", round(CUSTOMERS * scale), round(EVENTS * scale))
    return {}


def features(folder: Path, scale: float) -> dict[str, float]:
    """Seconds from opening the log to the features of every customer, and the memory it takes."""
    source = SourceSettings(kind="events", path="events.parquet", columns=COLUMNS)
    started = time.perf_counter()
    with open_source(source, folder) as opened:
        examples = opened.scoring_examples(_plan("market-churn"), "bank")
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "features_s": seconds,
        "features_peak_gb": peak / 1e9,
        "features_rows_per_s": EVENTS * scale / seconds,
        "features_customers": len(examples.customer_ids),
    }


def _plan(name: str) -> Plan:
    """A shipped plan that speaks of the log's last day and of everybody in it."""
    end = FIRST_DAY + timedelta(days=DAYS)
    plan = parse_plan(plan_file(name).read_bytes())
    return plan.model_copy(
        update={
            "task": plan.task.model_copy(update={"eligible_days": DAYS}),
            "publication": plan.publication.model_copy(update={"as_of": end}),
        }
    )


# Tags --------------------------------------------------------------------------------------------


def sqlite(folder: Path, scale: float) -> dict[str, float]:
    """Tags a second into the node's own SQLite file, with history."""
    settings = initialise(folder / "bank", "bank", 10 * CUSTOMERS)
    store = open_profile_store(settings)
    try:
        return _publish(store, "sqlite", scale)
    finally:
        store.close()


def postgresql(_folder: Path, scale: float) -> dict[str, float]:
    """Tags a second into PostgreSQL, in a database of its own, with history."""
    server = make_url(os.environ.get(SERVER, DEFAULT_SERVER))
    name = f"fedtags_bench_{secrets.token_hex(6)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except SQLAlchemyError:
        engine.dispose()
        print(
            f"no PostgreSQL answers ({SERVER} names one): its figure is left out", file=sys.stderr
        )
        return {}
    try:
        url = server.set(database=name).render_as_string(hide_password=False)
        store = ProfileStore(url, Sealing(secrets.token_bytes(32)), load_catalogue())
        try:
            return _publish(store, "postgresql", scale)
        finally:
            store.close()
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def _publish(store: ProfileStore, name: str, scale: float) -> dict[str, float]:
    count = round(CUSTOMERS * scale)
    plan = _plan("market-churn")
    customers = [_customer(number) for number in range(count)]
    rows = np.random.default_rng(0).random((count, input_width(plan)), dtype=np.float32)
    store.set_consents(None)
    speeds = []
    for number in (1, 2):
        started = time.perf_counter()
        store.publish(_publication(number), _batches(plan, customers, rows, number))
        speeds.append(len(TAGS) * count / (time.perf_counter() - started))
    assert store.history(customers[0], TAGS[0], purpose=PURPOSE)
    return {
        f"{name}_tags_per_s": min(speeds),
        f"{name}_first_tags_per_s": speeds[0],
        f"{name}_again_tags_per_s": speeds[1],
    }


def _batches(
    plan: Plan, customers: list[str], rows: NDArray[np.float32], number: int
) -> Iterator[TagBatch]:
    """Scored as they are written: scoring is part of what is timed."""
    catalogue = load_catalogue()
    for place, name in enumerate(TAGS):
        rng = np.random.default_rng([number, place])
        parameters = rng.normal(size=rows.shape[1] + 1)
        scores = 1 / (1 + np.exp(-model_logits(plan, parameters, rows)))
        yield TagBatch(
            name,
            customers,
            tag_values(catalogue[name], scores, plan.publication.thresholds),
            scores.tolist(),
            reason_codes(plan, parameters, rows),
        )


def _publication(number: int) -> Publication:
    now = datetime.now(UTC)
    return Publication(
        run_id=f"run-{number}",
        kind="joint",
        plan_digest="a" * 64,
        model_digest=f"{number}" * 64,
        parties=("bank", "ecommerce", "retailer"),
        epsilon=1.9,
        delta=1e-8,
        published_at=now,
        as_of=now.date(),
        valid_until=now.date() + timedelta(days=90),
    )


def _customer(number: int) -> str:
    return f"P{number:07}"


# Look-ups ----------------------------------------------------------------------------------------


def lookup(folder: Path, scale: float) -> dict[str, float]:
    """Milliseconds of `POST /v1/customers/lookup` on the store that the SQLite part left."""
    home = folder / "bank"
    port = _free_port()
    config = home / "party.toml"
    config.write_text(config.read_text().replace("port = 8480", f"port = {port}"))
    settings = load_settings(home)
    access = open_access(settings)
    try:
        _, token = access.create_token("bench", "operator", created_by="bench", days=1)
    finally:
        access.close()
    (home / "run").mkdir(mode=0o700, exist_ok=True)
    (home / "run" / "consents-read").touch()  # there is no source to read consents from
    server = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "party_client.web", "--home", str(home)],
        env=child_environment(),
        stdout=sys.stderr,
    )
    try:
        _wait_for(port, server)
        count = round(CUSTOMERS * scale)
        gc.collect()
        gc.freeze()  # a pause of the one who asks is none of the node's
        asyncio.run(_ask(port, token, count, seconds=2))  # imports, caches, connections
        times = sorted(asyncio.run(_ask(port, token, count, seconds=SECONDS)))
    finally:
        server.terminate()
        server.wait(30)
    return {
        "lookup_p50_ms": 1000 * times[len(times) // 2],
        "lookup_p99_ms": 1000 * times[int(len(times) * 0.99)],
        "lookup_requests": len(times),
    }


async def _ask(port: int, token: str, count: int, seconds: int) -> list[float]:
    """Ask for customers all over the store, one every 1/RATE s, whether answers come or not."""
    rng = np.random.default_rng(1)
    wanted = rng.integers(count, size=RATE * seconds)
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    started = time.perf_counter() + 0.1

    async def one(place: int) -> float:
        due = started + place / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        reader, writer = await idle.get()
        body = json.dumps({"customer": _customer(int(wanted[place])), "purpose": PURPOSE}).encode()
        writer.write(
            b"POST /v1/customers/lookup HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Authorization: Bearer %s\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (token.encode(), len(body), body)
        )
        answer = await _answer(reader)
        taken = time.perf_counter() - due
        idle.put_nowait((reader, writer))
        if len(answer["tags"]) != len(TAGS):
            raise RuntimeError("a look-up did not find the customer's tags")
        return taken

    times = await asyncio.gather(*(one(place) for place in range(len(wanted))))
    while not idle.empty():
        idle.get_nowait()[1].close()
    return list(times)


async def _answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in head if line.startswith("content-length:"))
    body = await reader.readexactly(length)
    if " 200 " not in head[0]:
        raise RuntimeError(f"the node answered {head[0]}")
    found: dict[str, Any] = json.loads(body)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the node's web process did not start; its messages are above")


PARTS: dict[str, Callable[[Path, float], dict[str, float]]] = {
    "event log": write_log,
    "features": features,
    "sqlite": sqlite,
    "postgresql": postgresql,
    "lookup": lookup,
}


def _main(arguments: Sequence[str]) -> None:
    part, folder, scale = arguments
    print(json.dumps(PARTS[part](Path(folder), float(scale))))


if __name__ == "__main__":
    _main(sys.argv[1:])
