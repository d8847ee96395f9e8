"""Training: the loop around an engine. What an engine owes is in tests/contract."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.families import network
from models.plan import Model
from privacy.dp_sgd import StepRule, train
from privacy.errors import PrivacyError
from privacy.factorised import FactorisedEngine
from privacy.mechanism import SampledGaussian
from privacy.randomness import generator

WIDTH = 6
LOGISTIC = network(Model(), WIDTH)
START = np.zeros(LOGISTIC.parameters_count)
CLIPPING_NORM = 1.0


def rule(**changes: float) -> StepRule:
    values = {"batch_size": 10, "clipping_norm": CLIPPING_NORM, "learning_rate": 0.5}
    return StepRule(**{**values, **changes})


class Recorded:
    """An engine whose sums are given; it keeps what it was asked."""

    def __init__(self, sums: NDArray[np.float64], rows: int = 5) -> None:
        self._sums, self.rows = list(sums), rows
        self.seen: list[NDArray[np.float64]] = []

    def clipped_sum(
        self, parameters: NDArray[np.float64], chosen: NDArray[np.int64], clipping_norm: float
    ) -> NDArray[np.float64]:
        self.seen.append(parameters.copy())
        assert clipping_norm == CLIPPING_NORM
        return self._sums.pop(0)


def test_an_empty_table_still_steps_on_noise() -> None:
    empty = np.zeros((0, WIDTH), dtype=np.float32), np.zeros(0, dtype=np.float32)
    engine = FactorisedEngine(LOGISTIC, *empty)
    end = train(engine, START, SampledGaussian(0.1, 2.0, 3), rule(), generator(b"n" * 32))
    assert np.all(end != START)


def test_training_learns_where_noise_is_small() -> None:
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 1, (2000, WIDTH)).astype(np.float32)
    labels = (features[:, 0] > 0.5).astype(np.float32)
    engine = FactorisedEngine(LOGISTIC, features, labels)
    mechanism = SampledGaussian(0.2, 0.3, 60)
    steps = rule(batch_size=400, learning_rate=4.0)
    end = train(engine, START, mechanism, steps, generator(b"l" * 32))
    assert end[0] > 5 * np.abs(end[1:WIDTH]).max()


@given(st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.5, 0.75, 1.0]), st.sampled_from([0.0, 0.9]))
@settings(max_examples=30, deadline=None)
def test_the_result_averages_the_last_share_of_the_iterates(
    steps: int, tail: float, momentum: float
) -> None:
    sums = np.random.default_rng(steps).normal(0, 1, (steps, 3))
    mechanism = SampledGaussian(0.5, 1.0, steps)
    engine = Recorded(sums)
    plain = rule(momentum=momentum)
    last = train(engine, np.zeros(3), mechanism, plain, generator(b"t" * 32))
    iterates = np.array([*engine.seen[1:], last])
    averaged = train(
        Recorded(sums),
        np.zeros(3),
        mechanism,
        rule(momentum=momentum, tail=tail),
        generator(b"t" * 32),
    )
    count = max(1, math.ceil(tail * steps))
    assert np.allclose(averaged, iterates[-count:].mean(axis=0), rtol=0, atol=1e-12)


def test_the_step_divides_by_the_public_batch_size_and_decays_by_l2() -> None:
    """With next to no noise: w - rate * (sum / B + l2 * w), whatever was sampled."""
    start = np.array([2.0, -1.0])
    engine = Recorded(np.array([[0.5, 0.25]]))
    tiny = SampledGaussian(0.5, 1e-9, 1)
    end = train(engine, start, tiny, rule(batch_size=4, l2=0.1), generator(b"s" * 32))
    assert np.allclose(end, start - 0.5 * (np.array([0.5, 0.25]) / 4 + 0.1 * start), atol=1e-6)


def test_training_leaves_the_parameters_it_starts_from_as_they_are() -> None:
    start = np.ones(2)
    train(
        Recorded(np.ones((2, 2))), start, SampledGaussian(0.5, 1.0, 2), rule(), generator(b"k" * 32)
    )
    assert np.array_equal(start, np.ones(2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tail": 1.1},
        {"tail": -0.1},
        {"batch_size": 0},
        {"batch_size": 2**21 + 1},
        {"clipping_norm": 0.0},
        {"clipping_norm": math.inf},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
    ],
)
def test_a_rule_outside_its_domain_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PrivacyError, match=next(iter(wrong))):
        rule(**wrong)
