"""One public shop as a small partner: 200 customers of its own, alone or with the other two.

For each shop in turn and each repetition, 200 of its training customers are drawn, its public size
becomes 200, and the whole protocol runs (`simulations.story`). The joint model and the same model
trained alone under the same epsilon are judged on the shop's held-out customers, who are never
among the 200 and never chose a setting.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from models.plan import Plan, read_plan
from models.training import Rows, held_out
from party_client.sources import Examples, open_source
from privacy.randomness import system_entropy
from simulations.comparison import figures, train_alone
from simulations.public_shops import shop_sources
from simulations.story import StoryParty, federated_run

SMALL = 200
# Held-out customers must be the same at every repetition: a published constant, not a party's key.
SPLIT_KEY = b"fedtags public shops experiment."


@dataclass(frozen=True)
class SmallPartner:
    """Medians over repetitions for one shop as the small partner."""

    shop: str
    alone_auc: float
    joint_auc: float
    wins: int
    repetitions: int


def small_partner(
    data: Path, plan_file: Path, repetitions: int, progress: Callable[[str], None]
) -> list[SmallPartner]:
    """Run the experiment over the three public shops; `progress` is told each step."""
    plan, source = read_plan(plan_file)
    shops = shop_rows(data, plan)
    return [_one_shop(shop, shops, source, repetitions, progress) for shop in shops]


def public_size(customers: int) -> int:
    """A declared size: rounded up to the next 500."""
    return -(-customers // 500) * 500


def shop_rows(data: Path, plan: Plan) -> dict[str, tuple[Rows, Rows]]:
    """Each public shop's training and held-out rows."""
    shops = {}
    with TemporaryDirectory() as home:
        for shop, settings in shop_sources(data).items():
            with open_source(settings, Path(home), today=date.today()) as source:
                shops[shop] = split_rows(source.training_examples(plan, shop), plan)
    return shops


def split_rows(examples: Examples, plan: Plan) -> tuple[Rows, Rows]:
    """Training and held-out rows, the same at every repetition."""
    assert examples.labels is not None
    rows = Rows(examples.features, examples.labels)
    aside = held_out(examples.customer_ids, SPLIT_KEY, plan.evaluation.held_out)
    return rows[~aside], rows[aside]


def _one_shop(
    shop: str,
    shops: Mapping[str, tuple[Rows, Rows]],
    source: bytes,
    repetitions: int,
    progress: Callable[[str], None],
) -> SmallPartner:
    alone, joint = [], []
    for repetition in range(repetitions):
        progress(f"{shop} {repetition + 1}/{repetitions}")
        training, aside = shops[shop]
        chosen = np.zeros(len(training.labels), dtype=np.bool_)
        rng = np.random.default_rng((repetition, len(training.labels)))
        chosen[rng.choice(len(training.labels), SMALL, replace=False)] = True
        small = training[chosen]
        parties = {
            name: StoryParty(
                public_size=SMALL if name == shop else public_size(len(rows.labels)),
                training=small if name == shop else rows,
                held_out=other,
                scored=other.features,
                budget_epsilon=100.0,
                budget_delta=1e-5,
                entropy=system_entropy,
            )
            for name, (rows, other) in shops.items()
        }
        told = federated_run(source, f"small-{shop}-{repetition}", parties)
        joint.append(figures(source, told.parameters, aside).auc or 0.5)
        alone.append(figures(source, train_alone(source, SMALL, small), aside).auc or 0.5)
    return SmallPartner(
        shop,
        statistics.median(alone),
        statistics.median(joint),
        sum(one > other for one, other in zip(joint, alone, strict=True)),
        repetitions,
    )
