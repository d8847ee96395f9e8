"""What differential privacy costs in AUC: without it, with other training values, by default.

Each repetition is a market of its own, drawn with a seed that the search for the defaults never
used. Every model is trained as in a run (local DP-SGD, quantised model deltas, weighted sum), only
without encryption, which changes no integer. A figure is the mean over the three parties of the
joint model's AUC on customers who took no part: those of another, larger simulated market, so that
what varies is the training and not a small set of customers to judge by, or a public shop's
held-out customers. Randomness is repeatable here, so the same command gives the same table.
"""

from __future__ import annotations

import hashlib
import statistics
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from models.families import start_parameters
from models.plan import Plan, parse_plan
from models.training import (
    Rows,
    delta_code,
    local_update,
    opened_model_delta,
    party_terms,
    public_weights,
)
from party_client.sources import open_source
from privacy.randomness import Entropy
from simulations import demo
from simulations.comparison import figures, train_without_privacy
from simulations.experiments.small_partner import public_size, shop_rows, split_rows
from simulations.population import write_market

# The search for the defaults used the seeds 1-3, 11-13, 21-24, 31, 32 and 41.
FIRST_SEED = 1001
JUDGED_SEED, JUDGED_CUSTOMERS = 2001, 10_000
SIZES = (500, 2000, 5000)
TASKS = ("churn", "propensity")
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "logistic": {"family": "logistic"},
    "mlp": {"family": "mlp", "hidden": [16]},
    "residual": {"family": "residual", "hidden": [16, 16]},
}
NO_PRIVACY, SMALL_BATCHES, FIXED_RATE = "no privacy", "batch 64, rate 0.05", "rate 3"
DEFAULTS = "defaults"
# Setting and epsilon of the training; "no privacy" has none.
SETTINGS: tuple[tuple[str, float | None], ...] = (
    (NO_PRIVACY, None),
    (SMALL_BATCHES, 1.0),
    *product((FIXED_RATE, DEFAULTS), (0.5, 1.0, 2.0)),
)


@dataclass(frozen=True)
class Party:
    """One party of the experiment. judged: rows that took no part; public_size: its N^."""

    training: Rows
    judged: Rows
    public_size: int


@dataclass(frozen=True)
class Utility:
    """AUCs over the repetitions. population: customers at each party, or the public shops."""

    population: str
    task: str
    family: str
    setting: str
    epsilon: float | None
    median: float
    lowest: float
    highest: float
    repetitions: int


def utility(
    repetitions: int,
    progress: Callable[[str], None],
    data: Path | None = None,
    families: tuple[str, ...] = tuple(FAMILIES),
    sizes: tuple[int, ...] = SIZES,
) -> list[Utility]:
    """The table, on the simulated market or, with a folder of public data, on the three shops."""
    rows = []
    for task in TASKS:
        source = demo.plan_file(f"{'shops' if data else 'market'}-{task}").read_bytes()
        for population, draws in _populations(parse_plan(source), repetitions, data, sizes):
            found: dict[tuple[str, str, float | None], list[float]] = {}
            for repetition, parties in enumerate(draws):
                for family, (setting, epsilon) in product(families, SETTINGS):
                    progress(f"{task}, {population}, {repetition + 1}/{repetitions}: {family}")
                    auc = _joint_auc(source, family, setting, epsilon, parties, repetition)
                    found.setdefault((family, setting, epsilon), []).append(auc)
            rows += [
                Utility(
                    population, task, *key, statistics.median(one), min(one), max(one), repetitions
                )
                for key, one in found.items()
            ]
    return rows


def _populations(
    plan: Plan, repetitions: int, data: Path | None, sizes: tuple[int, ...]
) -> Iterator[tuple[str, Iterator[dict[str, Party]]]]:
    """Each population's name, and its parties at each repetition."""
    if data:
        yield "public shops", repeat(_shops(data, plan), repetitions)
        return
    larger = _market_rows(JUDGED_CUSTOMERS, JUDGED_SEED, plan)
    judged = {party: aside for party, (_, aside) in larger.items()}
    for size in sizes:
        seeds = range(FIRST_SEED, FIRST_SEED + repetitions)
        yield f"{size} customers", (_market(size, seed, judged, plan) for seed in seeds)


def as_text(rows: list[Utility]) -> str:
    """The rows as aligned lines: median (lowest to highest)."""
    return "\n".join(
        f"{one.population:15} {one.task:10} {one.family:8} {one.setting:19} "
        f"{'' if one.epsilon is None else f'epsilon {one.epsilon:g}':11} "
        f"{one.median:.3f} ({one.lowest:.3f} to {one.highest:.3f})"
        for one in rows
    )


def train_together(
    plan_source: bytes, parties: Mapping[str, Party], entropy: Entropy
) -> NDArray[np.float64]:
    """The joint model's parameters: a run's rounds, with the integers added in the clear."""
    plan, plan_hash = parse_plan(plan_source), hashlib.sha256(plan_source).digest()
    sizes = {name: one.public_size for name, one in parties.items()}
    weights, code = public_weights(plan, sizes), delta_code(plan, sizes)
    terms = {name: party_terms(plan, one.public_size) for name, one in parties.items()}
    width = next(iter(parties.values())).training.features.shape[1]
    parameters = start_parameters(plan.model, width, plan_hash)
    for number in range(1, plan.training.rounds + 1):
        total = np.zeros(parameters.size, dtype=np.int64)
        for name, one in parties.items():

            def own(label: str, name: str = name) -> bytes:
                return entropy(f"{name} {label}")

            total += local_update(
                plan, plan_hash, terms[name], parameters, one.training, code, weights[name],
                number, own,
            ).values  # fmt: skip
        parameters = parameters + opened_model_delta(plan, code, total, list(parties), sizes)
    return parameters


def _joint_auc(
    source: bytes,
    family: str,
    setting: str,
    epsilon: float | None,
    parties: Mapping[str, Party],
    repetition: int,
) -> float:
    mean_size = statistics.mean(one.public_size for one in parties.values())
    changed = variant(source, family, setting, epsilon, mean_size)
    if epsilon is None:
        together = Rows(
            np.concatenate([one.training.features for one in parties.values()]),
            np.concatenate([one.training.labels for one in parties.values()]),
        )
        parameters = train_without_privacy(changed, together)
    else:
        parameters = train_together(changed, parties, _repeatable(changed, repetition))
    return statistics.mean(
        figures(changed, parameters, one.judged).auc or 0.5 for one in parties.values()
    )


def variant(
    source: bytes, family: str, setting: str, epsilon: float | None, mean_size: float
) -> bytes:
    """The shipped plan with this family, epsilon and training section, and nothing else changed."""
    plan = tomllib.loads(source.decode("utf-8"))
    plan["model"] = dict(FAMILIES[family])
    plan["training"] = {}
    if epsilon is not None:
        plan["privacy"]["epsilon"] = epsilon
    if setting == FIXED_RATE:
        plan["training"] = {"learning_rate": 3.0}
    if setting == SMALL_BATCHES:  # ten epochs
        rate = 64 / mean_size
        plan["training"] = {
            "sample_rate": rate,
            "local_steps": max(1, round(10 / rate / parse_plan(source).training.rounds)),
            "learning_rate": 0.05,
            "clipping_norm": 1.0,
            "tail": 0.0,
        }
    return tomli_w.dumps(plan).encode("utf-8")


def _repeatable(plan_source: bytes, repetition: int) -> Entropy:
    """For simulations alone: bytes that depend on plan, repetition and label only."""
    start = hashlib.sha256(plan_source + repetition.to_bytes(4, "big")).digest()
    return lambda label: hashlib.sha256(start + label.encode()).digest()


def _market(customers: int, seed: int, judged: Mapping[str, Rows], plan: Plan) -> dict[str, Party]:
    return {
        party: Party(training, judged[party], public_size(customers))
        for party, (training, _) in _market_rows(customers, seed, plan).items()
    }


def _market_rows(customers: int, seed: int, plan: Plan) -> dict[str, tuple[Rows, Rows]]:
    rows = {}
    with TemporaryDirectory() as folder:
        for party, settings in write_market(Path(folder), customers, seed).items():
            with open_source(settings, Path(folder) / party) as source:
                rows[party] = split_rows(source.training_examples(plan, party), plan)
    return rows


def _shops(data: Path, plan: Plan) -> dict[str, Party]:
    sizes = demo.shops(data).public_sizes
    return {shop: Party(*rows, sizes[shop]) for shop, rows in shop_rows(data, plan).items()}
