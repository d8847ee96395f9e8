"""The learning rate tied to a party's noise, and the training values that a plan starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.plan import Plan, Training, parse_plan, read_plan
from models.training import MAX_LEARNING_RATE, noise_tied_rate, party_terms
from privacy.mechanism import SampledGaussian

PLANS = sorted((Path(__file__).resolve().parents[2] / "docs" / "tutorials").glob("*.toml"))


def plan(training: str = "", model: str = "") -> Plan:
    return parse_plan(
        f"""
format = 1
name = "rate"
purpose = "marketing"
[task]
kind = "churn"
cutoff = 2025-01-01
[training]
{training}
[model]
{model}
[privacy]
epsilon = 1.0
""".encode()
    )


def rate(training: str = "", model: str = "", public_size: int = 2000) -> float:
    return party_terms(plan(training, model), public_size).rule.learning_rate


def test_noise_alone_moves_a_parameter_by_two_over_the_fourth_root_of_d() -> None:
    mechanism = SampledGaussian(0.5, noise_multiplier=10.0, steps=100)
    found = noise_tied_rate(mechanism, batch=1000, clipping_norm=1.5, parameters=16)
    walk = found * mechanism.noise_multiplier * 1.5 * mechanism.steps**0.5 / 1000
    assert walk == pytest.approx(2 / 16**0.25)


def test_a_smaller_party_takes_smaller_steps_and_a_large_one_no_larger_than_the_limit() -> None:
    assert rate(public_size=500) < rate(public_size=2000) < rate(public_size=60_000)
    assert rate(public_size=60_000) == MAX_LEARNING_RATE


def test_a_larger_model_takes_smaller_steps() -> None:
    assert rate(model='family = "mlp"\nhidden = [16]') < rate()


def test_momentum_does_not_lengthen_the_steps() -> None:
    assert rate("momentum = 0.5") == pytest.approx(rate() / 2)


def test_a_plan_may_set_the_rate_itself() -> None:
    assert rate("learning_rate = 0.25\nmomentum = 0.5") == 0.25


def test_a_plan_may_average_the_last_steps() -> None:
    assert party_terms(plan("tail = 0.25"), 2000).rule.tail == 0.25


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_shipped_plans_train_with_the_defaults(path: Path) -> None:
    assert read_plan(path)[0].training == Training()
