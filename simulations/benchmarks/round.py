"""`fedtags-sim bench round`: a full round against an empty Flower message to the same nodes.

One deployment of the simulated market, one run of the churn plan with as many rounds as pairs are
wanted; the coordinator's diagnostics time an empty message after every round, so the two are
interleaved. A full round is: train under DP, quantise, mask, encrypt, send, add, ready to return.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rich.progress import Progress

from coordinator.empty_messages import PHASE
from simulations.benchmarks.figures import at_most
from simulations.demo import FinishedDemo, Scenario, market, plan_file, prepare_folder, run_demo

# About 5,000 of these are eligible and consented at each party.
CUSTOMERS = 10_000


def bench_round(folder: Path, pairs: int, progress: Progress) -> dict[str, Any]:
    """Run the benchmark; figures are medians in seconds."""
    prepare_folder(folder)
    base = market(folder, CUSTOMERS)
    plan = folder / "bench-churn.toml"
    text = plan_file("market-churn").read_text(encoding="utf-8")
    plan.write_text(_with_rounds(text, pairs), encoding="utf-8")
    scenario = Scenario(base.title, base.sources, base.public_sizes, (plan,), base.simulated)
    return _result(run_demo(folder, scenario, progress, time_empty_messages=True))


def _with_rounds(plan: str, rounds: int) -> str:
    lines = [f"rounds = {rounds}" if one.startswith("rounds") else one for one in plan.splitlines()]
    return "\n".join(lines) + "\n"


def _result(demo: FinishedDemo) -> dict[str, Any]:
    (run,) = demo.runs
    rounds = [one.seconds for one in run.exchanges if one.phase == "round"]
    empty = [one.seconds for one in run.exchanges if one.phase == PHASE and one.round is not None]
    reports = [
        json.loads((demo.folder / party / "reports" / f"{run.run_id}.json").read_text())
        for party in demo.scenario.sources
    ]
    # A round waits for its slowest party.
    service = [max(times) for times in zip(*(one["round_seconds"] for one in reports), strict=True)]
    figures = {
        "round_s": statistics.median(rounds),
        "empty_message_s": statistics.median(empty),
        "overhead_s": statistics.median(rounds) - statistics.median(empty),
        "service_s": statistics.median(service),
        "pairs": min(len(rounds), len(empty)),
        "customers_per_party": statistics.median(one["eligible"] for one in reports),
    }
    return {
        "benchmark": "round",
        "figures": {name: round(value, 3) for name, value in figures.items()},
        "goals": {
            "overhead_s": at_most(figures["overhead_s"], 1.0),
            "service_s": at_most(figures["service_s"], 0.5),
        },
    }
