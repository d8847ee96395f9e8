"""Both engines keep the contract, and agree; what only one of them can be given is refused here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from privacy.dp_sgd import StepRule, train
from privacy.engine import Engine
from privacy.errors import PrivacyError
from privacy.factorised import FactorisedEngine
from privacy.mechanism import SampledGaussian
from privacy.network import Dense, Network, Residual
from privacy.opacus_engine import OpacusEngine
from privacy.randomness import generator
from tests.contract.engine_contract import (
    NETWORKS,
    WIDTH,
    EngineContract,
    drawn,
    every_network,
    parameters_of,
)


class TestFactorisedEngine(EngineContract):
    @staticmethod
    def engine(
        shape: Network, features: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> Engine:
        return FactorisedEngine(shape, features, labels)


class TestOpacusEngine(EngineContract):
    @staticmethod
    def engine(
        shape: Network, features: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> Engine:
        return OpacusEngine(shape.module(), features, labels)


@every_network
@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
def test_the_engines_take_the_same_step_for_the_same_sample_and_noise(
    name: str, rate: float
) -> None:
    shape, (features, labels) = NETWORKS[name], drawn(300, 8)
    start = parameters_of(shape, 8)
    # Learning rate 1 and denominator 1: the step is the noised sum itself.
    rule = StepRule(batch_size=1, clipping_norm=0.8, learning_rate=1.0)
    ends = [
        train(engine, start, SampledGaussian(rate, 1.0, 1), rule, generator(b"n" * 32))
        for engine in (
            FactorisedEngine(shape, features, labels),
            OpacusEngine(shape.module(), features, labels),
        )
    ]
    batch = max(1, rate * len(labels))
    assert np.linalg.norm(ends[0] - start) > 0.8
    assert np.linalg.norm(ends[0] - ends[1]) <= 1e-5 * 0.8 * np.sqrt(batch)


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(features)).squeeze(1)


def test_a_model_that_mixes_rows_is_refused() -> None:
    with pytest.raises(PrivacyError, match="BatchNorm"):
        OpacusEngine(Mixing(), *drawn(4, 0))


def test_a_loss_with_a_second_dimension_is_refused() -> None:
    with pytest.raises(PrivacyError, match="one-dimensional"):
        OpacusEngine(nn.Linear(WIDTH, 1), *drawn(4, 0))


class OnceFlat(nn.Module):
    """Gives (b,) when it is looked at, and (b, 1) in training."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits = self.last(features)
        return logits if torch.is_grad_enabled() else logits.squeeze(1)


def test_a_loss_that_grows_a_dimension_in_training_is_refused() -> None:
    engine = OpacusEngine(OnceFlat(), *drawn(4, 0))
    with pytest.raises(PrivacyError, match="one-dimensional"):
        engine.clipped_sum(np.zeros(WIDTH + 1), np.arange(4), 1.0)


def test_opacus_leaves_the_model_it_was_given_as_it_was() -> None:
    model = NETWORKS["mlp"].module()
    engine = OpacusEngine(model, *drawn(4, 0))
    engine.clipped_sum(parameters_of(NETWORKS["mlp"], 0), np.arange(4), 1.0)
    assert all(one.dtype == torch.float32 and not one.any() for one in model.parameters())


def test_the_factorised_engine_wants_rows_in_one_piece() -> None:
    features, labels = drawn(4, 0)
    with pytest.raises(PrivacyError, match="row by row"):
        FactorisedEngine(NETWORKS["mlp"], np.asfortranarray(features), labels)


def test_the_factorised_engine_gives_torch_its_threads_back() -> None:
    before = torch.get_num_threads()
    engine = FactorisedEngine(NETWORKS["mlp"], *drawn(4, 0))
    try:
        torch.set_num_threads(2)
        engine.clipped_sum(parameters_of(NETWORKS["mlp"], 0), np.arange(4), 1.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "last layer"),
        ((Dense(3, 2),), "last layer"),
        ((Dense(3, 1, relu=True),), "last layer"),
        ((Dense(2, 1),), "as many inputs"),
        ((Dense(3, 4, relu=True), Residual(5, 2), Dense(5, 1)), "as many inputs"),
        ((Residual(3, 0), Dense(3, 1)), "at least one unit"),
        ((Residual(3, 2),), "last layer"),
    ],
)
def test_layers_that_do_not_make_one_logit_are_refused(
    layers: tuple[Dense | Residual, ...], message: str
) -> None:
    with pytest.raises(PrivacyError, match=message):
        Network(3, layers)
