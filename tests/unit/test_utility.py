"""The experiment on utility trains what a run trains, and the defaults are worth having."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from models.plan import parse_plan
from models.training import Rows
from privacy.randomness import Entropy
from simulations.demo import plan_file
from simulations.experiments import utility
from simulations.story import StoryParty, federated_run

SOURCE = plan_file("market-churn").read_bytes()


def entropy(label: str) -> bytes:
    return label.encode().ljust(32, b"\0")[-32:]


def parties() -> Mapping[str, utility.Party]:
    rng = np.random.default_rng(1)
    found = {}
    for place, name in enumerate(("bank", "ecommerce", "retailer")):
        features = rng.random((80 + place, 24)).astype(np.float32)
        rows = Rows(features, (features[:, 0] > 0.5).astype(np.float32))
        found[name] = utility.Party(rows, rows, 100 + 50 * place)
    return found


def own(name: str) -> Entropy:
    return lambda label: entropy(f"{name} {label}")


@pytest.mark.parametrize("family", utility.FAMILIES)
def test_without_encryption_the_joint_model_is_that_of_a_whole_run(family: str) -> None:
    plan = utility.variant(SOURCE, family, utility.DEFAULTS, 1.0, 150)
    told = federated_run(
        plan,
        "run-1",
        {
            name: StoryParty(
                one.public_size, one.training, one.judged, one.judged.features, 9.0, 1e-4, own(name)
            )
            for name, one in parties().items()
        },
    )
    assert np.array_equal(utility.train_together(plan, parties(), entropy), told.parameters)


@pytest.mark.parametrize("setting", [one for one in utility.SETTINGS if one[1]])
def test_a_variant_differs_in_model_training_and_epsilon_only(
    setting: tuple[str, float | None],
) -> None:
    plan, changed = (
        parse_plan(one).model_dump()
        for one in (SOURCE, utility.variant(SOURCE, "mlp", *setting, 150))
    )
    assert changed["privacy"].pop("epsilon") == setting[1]
    assert (changed["training"] == plan["training"]) == (setting[0] == utility.DEFAULTS)
    plan["privacy"].pop("epsilon")
    for section in ("model", "training"):
        del plan[section], changed[section]
    assert plan == changed


def test_the_defaults_are_better_than_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utility, "JUDGED_CUSTOMERS", 1000)
    wanted = [(utility.SMALL_BATCHES, 1.0), (utility.DEFAULTS, 1.0)]
    monkeypatch.setattr(utility, "SETTINGS", wanted)
    rows = utility.utility(1, lambda text: None, families=("logistic",), sizes=(500,))
    assert [(one.task, one.setting) for one in rows] == [
        (task, setting) for task in utility.TASKS for setting, _ in wanted
    ]
    gains = [
        after.median - before.median for before, after in zip(rows[::2], rows[1::2], strict=True)
    ]
    assert sum(gains) / 2 > 0.03
    assert f"{rows[0].median:.3f}" in utility.as_text(rows)


@pytest.mark.data
def test_the_public_shops_have_their_own_population(
    public_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utility, "SETTINGS", [(utility.DEFAULTS, 1.0)])
    monkeypatch.setattr(utility, "TASKS", ["propensity"])
    (row,) = utility.utility(1, lambda text: None, public_data, families=("logistic",))
    assert (row.population, row.task) == ("public shops", "propensity")
    assert row.median > 0.7
