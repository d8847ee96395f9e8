"""Sensitivity: adding any one customer to any batch moves the clipped sum by at most C."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from torch import nn

from models.families import build, start_parameters
from models.plan import Model
from privacy.dp_sgd import StepRule, clipped_sum, load_parameters, parameter_vector, train
from privacy.errors import PrivacyError
from privacy.mechanism import SampledGaussian
from privacy.randomness import generator

WIDTH = 6
PLAN_HASH = hashlib.sha256(b"plan").digest()
FAMILIES = {
    "logistic": Model(family="logistic"),
    "mlp": Model(family="mlp", hidden=(5, 4)),
}


def module_at(family: str, seed: int) -> GradSampleModule:
    model = build(FAMILIES[family], WIDTH, PLAN_HASH)
    size = parameter_vector(model).size
    load_parameters(model, np.random.default_rng(seed).normal(0, 2, size))
    return GradSampleModule(model, loss_reduction="sum")


def rows(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    features = rng.normal(0, rng.choice([0.1, 1, 30]), (count, WIDTH)).astype(np.float32)
    return features, rng.integers(0, 2, count).astype(np.float32)


@pytest.mark.parametrize("family", FAMILIES)
@given(st.integers(0, 12), st.integers(0, 10**6), st.sampled_from([1e-3, 0.5, 1.0, 10.0]))
@settings(max_examples=30, deadline=None)
def test_one_customer_moves_the_clipped_sum_by_at_most_the_norm(
    family: str, count: int, seed: int, norm: float
) -> None:
    module = module_at(family, seed)
    features, labels = rows(count + 1, seed)
    without = clipped_sum(module, features[:-1], labels[:-1], norm)
    with_one = clipped_sum(module, features, labels, norm)
    assert np.linalg.norm(with_one - without) <= norm * (1 + 1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_clipped_sum_equals_a_loop_over_examples(family: str) -> None:
    module = module_at(family, 3)
    features, labels = rows(9, 3)
    expected = np.zeros(sum(one.numel() for one in module.parameters()))
    for x, y in zip(features, labels, strict=True):
        module.zero_grad(set_to_none=True)
        logit = module(torch.from_numpy(x[None]))
        nn.functional.binary_cross_entropy_with_logits(
            logit, torch.tensor([float(y)]), reduction="sum"
        ).backward()
        gradient = np.concatenate(
            [one.grad.numpy().reshape(-1).astype(np.float64) for one in module.parameters()]
        )
        expected += gradient * min(1.0, 0.7 / np.linalg.norm(gradient))
    assert np.allclose(clipped_sum(module, features, labels, 0.7), expected, atol=1e-5)


def test_a_row_whose_gradient_overflows_moves_nothing_and_is_not_told() -> None:
    module = module_at("mlp", 1)
    features, labels = rows(6, 1)
    without = clipped_sum(module, features[:-1], labels[:-1], 1.0)
    features[-1] = 3e38
    with_one = clipped_sum(module, features, labels, 1.0)
    assert np.isfinite(with_one).all()
    assert np.linalg.norm(with_one - without) <= 1.0 + 1e-6


def rule(**changes: float) -> StepRule:
    return StepRule(**{"batch_size": 10, "clipping_norm": 1.0, "learning_rate": 0.5, **changes})


def test_an_empty_table_still_steps_on_noise() -> None:
    model = build(FAMILIES["logistic"], WIDTH, PLAN_HASH)
    start = start_parameters(FAMILIES["logistic"], WIDTH, PLAN_HASH)
    end = train(
        model,
        start,
        np.zeros((0, WIDTH), dtype=np.float32),
        np.zeros(0, dtype=np.float32),
        SampledGaussian(0.1, 2.0, 3),
        rule(),
        generator(b"n" * 32),
    )
    assert np.all(end != start)


def test_training_learns_where_noise_is_small() -> None:
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 1, (2000, WIDTH)).astype(np.float32)
    labels = (features[:, 0] > 0.5).astype(np.float32)
    model = build(FAMILIES["logistic"], WIDTH, PLAN_HASH)
    end = train(
        model,
        start_parameters(FAMILIES["logistic"], WIDTH, PLAN_HASH),
        features,
        labels,
        SampledGaussian(0.2, 0.3, 60),
        rule(batch_size=400, learning_rate=4.0),
        generator(b"l" * 32),
    )
    assert end[0] > 5 * np.abs(end[1:WIDTH]).max()


def test_a_model_that_mixes_rows_is_refused() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(x)).squeeze(1)

    with pytest.raises(PrivacyError, match="BatchNorm"):
        run_once(Mixing(), *rows(4, 0))


def test_a_loss_with_a_second_dimension_is_refused() -> None:
    with pytest.raises((PrivacyError, ValueError), match=r"one-dimensional|size"):
        run_once(nn.Linear(WIDTH, 1), *rows(4, 0))


def run_once(
    model: nn.Module, features: NDArray[np.float32], labels: NDArray[np.float32]
) -> NDArray[np.float64]:
    start = parameter_vector(model)
    mechanism = SampledGaussian(1.0, 1.0, 1)
    return train(model, start, features, labels, mechanism, rule(), generator(b"x" * 32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    features, labels = rows(4, 0)
    features[2, 3] = bad
    with pytest.raises(PrivacyError, match="not finite"):
        run_once(build(FAMILIES["logistic"], WIDTH, PLAN_HASH), features, labels)


def test_labels_other_than_zero_and_one_are_refused() -> None:
    features, labels = rows(4, 0)
    with pytest.raises(PrivacyError, match="0 or 1"):
        run_once(build(FAMILIES["logistic"], WIDTH, PLAN_HASH), features, labels + 0.5)


def test_all_parties_start_from_the_same_public_parameters() -> None:
    first, second = (start_parameters(FAMILIES["mlp"], WIDTH, PLAN_HASH) for _ in range(2))
    other = start_parameters(FAMILIES["mlp"], WIDTH, hashlib.sha256(b"other").digest())
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert not start_parameters(FAMILIES["logistic"], WIDTH, PLAN_HASH).any()
