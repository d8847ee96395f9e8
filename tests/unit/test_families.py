"""Model families: what a plan's model becomes, and where everybody starts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.families import build, engine, network, start_parameters
from models.plan import Model
from privacy.dp_sgd import parameter_vector
from privacy.factorised import FactorisedEngine
from privacy.network import Dense, Residual
from privacy.opacus_engine import OpacusEngine

WIDTH = 6
PLAN_HASH = hashlib.sha256(b"plan").digest()
FAMILIES = [
    Model(),
    Model(family="mlp", hidden=(5, 4)),
    Model(family="residual", hidden=(5, 4, 3)),
]


def test_families_are_the_layers_that_the_plan_page_says() -> None:
    logistic, mlp, residual = (network(one, WIDTH).layers for one in FAMILIES)
    assert logistic == (Dense(6, 1),)
    assert mlp == (Dense(6, 5, relu=True), Dense(5, 4, relu=True), Dense(4, 1))
    assert residual == (Dense(6, 5), Residual(5, 4), Residual(5, 3), Dense(5, 1))


@pytest.mark.parametrize("model", FAMILIES, ids=lambda one: one.family)
def test_all_parties_start_from_the_same_public_parameters(model: Model) -> None:
    first, second = (start_parameters(model, WIDTH, PLAN_HASH) for _ in range(2))
    other = start_parameters(model, WIDTH, hashlib.sha256(b"other").digest())
    assert np.array_equal(first, second)
    assert first.shape == (network(model, WIDTH).parameters_count,)
    if model.family == "logistic":
        assert not first.any()
    else:
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("model", FAMILIES, ids=lambda one: one.family)
def test_every_family_starts_as_the_constant_logit_zero_in_one_dimension(model: Model) -> None:
    module = build(model, WIDTH, PLAN_HASH)
    assert np.array_equal(parameter_vector(module), start_parameters(model, WIDTH, PLAN_HASH))
    logits = module(torch.rand(3, WIDTH))
    assert logits.shape == (3,)
    assert not logits.any()


def test_a_residual_block_starts_as_the_identity_but_can_learn() -> None:
    """Zeros end a block, never begin it: a block that began with zeros would stay at zero."""
    shape = network(FAMILIES[2], WIDTH)
    start = start_parameters(FAMILIES[2], WIDTH, PLAN_HASH)
    zero, place = [], 0
    for one in shape.maps:
        zero.append(not start[place : place + one.inputs * one.outputs].any())
        place += (one.inputs + 1) * one.outputs
    assert zero == [False, False, True, False, True, True]


def test_the_plan_names_the_engine() -> None:
    rows = np.zeros((2, WIDTH), dtype=np.float32), np.zeros(2, dtype=np.float32)
    assert isinstance(engine(FAMILIES[1], "factorised", *rows), FactorisedEngine)
    assert isinstance(engine(FAMILIES[1], "opacus", *rows), OpacusEngine)


@pytest.mark.parametrize(
    ("family", "hidden", "message"),
    [
        ("logistic", (4,), "not allowed"),
        ("mlp", (), "at least 1"),
        ("residual", (), "at least 2"),
        ("residual", (4,), "at least 2"),
        ("transformer", (4,), "Input should be"),
    ],
)
def test_a_model_that_does_not_fit_its_family_is_refused(
    family: str, hidden: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Model(family=family, hidden=hidden)  # type: ignore[arg-type]
