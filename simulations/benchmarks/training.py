"""`fedtags-sim bench training`: what privacy costs in speed and memory, beside plain torch.

Thousand examples per CPU-second of plain torch (rows in memory, batches by index), of this
project's engine in its real training loop, and of Opacus as documented; one process, one thread,
interleaved. Then the memory of an epoch over a table of 400 MB, and the CPU-seconds of what an
accountant does. Each part is a fresh process, so that no cache is warm and the number of threads
is settled before NumPy starts.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import nn

from models.families import build, engine, start_parameters
from models.plan import Model
from privacy.accounting import calibrate_release, calibrate_training
from privacy.dp_sgd import StepRule, train
from privacy.ledger import Ledger, Provenance
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian
from privacy.randomness import KEY_BYTES, generator
from simulations.benchmarks.figures import at_least, at_most

ROWS, COLUMNS = 100_000, 50
BATCHES = (1024, 8192)
MODELS = {"lr": Model(), "mlp": Model(family="mlp", hidden=(64, 64))}
# A published constant, not a plan's: the start of the measured networks.
START = bytes(32)
REPEATS = 5
SECONDS = 0.35  # of one measurement, about
RATE = 0.1
EPOCH_ROWS, EPOCH_COLUMNS = 1_000_000, 100
LEDGER_ENTRIES = 500
# epsilon, N^, sample rate, steps: from a small partner's plan to a large party's.
CALIBRATIONS = (
    (1.0, 500, 0.4, 120),
    (1.0, 5000, 0.4, 120),
    (0.5, 100_000, 0.01, 2000),
    (2.0, 1_000_000, 0.008, 1000),
    (8.0, 20_000, 0.05, 400),
)
Steps = Callable[[int], None]


def bench_training(progress: Progress) -> dict[str, Any]:
    """Run the benchmark. All seconds are the CPU's, so that a busy machine says much the same."""
    task = progress.add_task("", total=len(PARTS))
    figures: dict[str, float] = {}
    for part in PARTS:
        progress.update(task, description=part)
        figures |= _in_fresh_process(part)
        progress.advance(task)
    progress.remove_task(task)
    goals = {
        **{f"ratio_to_plain_lr_{batch}": 2.0 for batch in BATCHES},
        **{f"ratio_to_plain_mlp_{batch}": 1.0 for batch in BATCHES},
        "ratio_to_opacus_mlp_1024": 15.0,
        "ratio_to_opacus_mlp_8192": 30.0,
    }
    limits = {"epoch_1m_peak_over_data": 1.25, "calibration_s": 3.0, "ledger_500_s": 3.0}
    return {
        "benchmark": "training",
        "figures": {name: round(value, 3) for name, value in figures.items()},
        "goals": {
            **{name: at_least(figures[name], goal) for name, goal in goals.items()},
            **{name: at_most(figures[name], limit) for name, limit in limits.items()},
        },
    }


def _in_fresh_process(part: str) -> dict[str, float]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "simulations.benchmarks.training", part],
        env={**os.environ, **threads, "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _rows(count: int, columns: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    features = rng.random((count, columns), dtype=np.float32)
    return features, (features[:, 0] > 0.5).astype(np.float32)


# Throughput ---------------------------------------------------------------------------------------


def throughput() -> dict[str, float]:
    """Thousand examples per CPU-second: medians, and the medians of the ratios of neighbours."""
    from simulations.benchmarks.documented_opacus import opacus_steps

    rows = _rows(ROWS, COLUMNS)
    x, y = (torch.from_numpy(one) for one in rows)
    figures = {}
    for name, model in MODELS.items():
        for batch in BATCHES:
            contenders: dict[str, Steps] = {
                "plain": _plain_steps(build(model, COLUMNS, START), x, y, batch),
                "ours": _our_steps(model, *rows, batch),
                "opacus": opacus_steps(build(model, COLUMNS, START), x, y, batch, RATE),
            }
            speeds = _interleaved(contenders, batch)
            for contender, found in speeds.items():
                figures[f"{contender}_{name}_{batch}"] = statistics.median(found)
            for other in ("plain", "opacus"):
                ratios = [a / b for a, b in zip(speeds["ours"], speeds[other], strict=True)]
                figures[f"ratio_to_{other}_{name}_{batch}"] = statistics.median(ratios)
    return figures


def _interleaved(contenders: dict[str, Steps], batch: int) -> dict[str, list[float]]:
    counts = {}
    for name, run in contenders.items():
        run(2)
        counts[name] = max(2, round(SECONDS / (_cpu_seconds(run, 2) / 2)))
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, run in contenders.items():
            # A Poisson sample has `batch` rows on average.
            speeds[name].append(counts[name] * batch / _cpu_seconds(run, counts[name]) / 1000)
    return speeds


def _cpu_seconds(run: Steps, steps: int) -> float:
    before = time.process_time()
    run(steps)
    return time.process_time() - before


def _plain_steps(model: nn.Module, x: torch.Tensor, y: torch.Tensor, batch: int) -> Steps:
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    criterion = nn.BCEWithLogitsLoss()
    order, place = torch.randperm(len(y)), 0

    def run(steps: int) -> None:
        nonlocal order, place
        for _ in range(steps):
            if place + batch > len(order):
                order, place = torch.randperm(len(y)), 0
            chosen = order[place : place + batch]
            place += batch
            optimiser.zero_grad()
            criterion(model(x[chosen]), y[chosen]).backward()
            optimiser.step()

    return run


def _our_steps(
    model: Model, features: NDArray[np.float32], labels: NDArray[np.float32], batch: int
) -> Steps:
    summing = engine(model, "factorised", features, labels)
    parameters = start_parameters(model, features.shape[1], START)
    rule = StepRule(batch_size=batch, clipping_norm=1.0, learning_rate=RATE)
    rng = generator(os.urandom(KEY_BYTES))

    def run(steps: int) -> None:
        nonlocal parameters
        mechanism = SampledGaussian(batch / len(labels), 1.0, steps)
        parameters = train(summing, parameters, mechanism, rule, rng)

    return run


# Memory -------------------------------------------------------------------------------------------


def memory() -> dict[str, float]:
    """What an epoch of the MLP over 1M x 100 rows takes at its peak, the rows themselves included.

    As a multiple of the rows' own size, over what the process held before it made them.
    """
    before = _resident_bytes()
    features, labels = _rows(EPOCH_ROWS, EPOCH_COLUMNS)
    seconds = _cpu_seconds(
        lambda steps: _our_steps(MODELS["mlp"], features, labels, BATCHES[-1])(steps),
        EPOCH_ROWS // BATCHES[-1],
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "epoch_1m_s": seconds,
        "epoch_1m_data_mb": features.nbytes / 1e6,
        "epoch_1m_peak_over_data": (peak - before) / features.nbytes,
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


# Accounting ---------------------------------------------------------------------------------------


def calibration() -> dict[str, float]:
    """Seconds from a plan's epsilons to its two noise multipliers; every one is a new question."""
    found = []
    for target, size, rate, steps in CALIBRATIONS:
        started = time.process_time()
        calibrate_training(target, 1 / (10 * size), rate, steps)
        calibrate_release(target, 1 / (10 * size))
        found.append(time.process_time() - started)
    return {"calibration_s": statistics.median(found), "calibration_slowest_s": max(found)}


def ledger() -> dict[str, float]:
    """Seconds to read, verify and compose a ledger of 500 entries in which every run is unlike."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        _write_ledger(path)
        return _in_fresh_process(f"{LEDGER_PART}{path}")


def _write_ledger(path: Path) -> None:
    """Runs of two models, each with noise of its own, that nearly use up a cap of epsilon 8."""
    book = Ledger.create(
        path, party="bank", cap_epsilon=8.0, cap_delta=1e-6, code_version="benchmark"
    )
    provenance = Provenance(
        "mlp", "factorised", "00" * 32, "poisson", "aes", "benchmark", ("bank",)
    )
    number = 0
    while len(book.entries()) < LEDGER_ENTRIES:
        number += 1
        training = SampledGaussian(0.4, 24 + number / 10, 120)
        if number % 2:
            training = SampledGaussian(0.02, 2 + number / 100, 600)
        evaluation = Gaussian(7 + number / 100)
        book.reserve(
            f"run-{number}",
            plan_digest="00" * 32,
            plan=f"plan-{number % 2}",
            purpose="marketing",
            mechanisms=(training, evaluation),
            valid_for=timedelta(days=1),
        )
        rounds: list[Mechanism] = [training.split(training.steps // 6)] * 6
        for place, spend in enumerate([*rounds, evaluation], start=1):
            book.intent(f"run-{number}", place, spend, provenance)
            book.commit(f"run-{number}", place, 1, provenance.recipients)
        book.close(f"run-{number}", "finished")


def _read_ledger(path: Path) -> dict[str, float]:
    started = time.process_time()
    book = Ledger(path)
    book.verify()
    book.spent()
    book.used()
    return {"ledger_500_s": time.process_time() - started}


PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "throughput": throughput,
    "memory": memory,
    "calibration": calibration,
    "ledger": ledger,
}
LEDGER_PART = "read ledger "


def _main(part: str) -> None:
    torch.set_num_threads(1)
    if part.startswith(LEDGER_PART):
        figures = _read_ledger(Path(part.removeprefix(LEDGER_PART)))
    else:
        figures = PARTS[part]()
    print(json.dumps(figures))


if __name__ == "__main__":
    _main(sys.argv[1])
