"""Model families: each maps (n, k) features to n logits, one a row, and knows its start.

- logistic: one affine map.
- mlp: a ReLU layer for each number in `hidden`.
- residual: an affine map to hidden[0] units, then a residual block of hidden[i] units for each
  further number; a tabular ResNet (Gorishniy et al. 2021, section 3.2) without normalisation.

All parties start from the same parameters: zeros for the logistic model; for the others a draw
that is a public function of the plan's hash, with zeros where a layer's or a block's result is
made, so that every family starts as the constant logit 0 and residual blocks as the identity.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models.plan import EngineName, Model
from privacy.dp_sgd import load_parameters
from privacy.engine import Engine
from privacy.factorised import FactorisedEngine
from privacy.network import Dense, Network, Residual


def network(model: Model, width: int) -> Network:
    """The architecture of `width` inputs."""
    layers: list[Dense | Residual]
    if model.family == "residual":
        units = model.hidden[0]
        layers = [Dense(width, units), *(Residual(units, one) for one in model.hidden[1:])]
    else:
        units = model.hidden[-1] if model.hidden else width
        layers = [Dense(*sizes, relu=True) for sizes in pairwise([width, *model.hidden])]
    return Network(width, (*layers, Dense(units, 1)))


def build(model: Model, width: int, plan_hash: bytes) -> nn.Module:
    """The model of `width` inputs in torch, at its public starting point."""
    module = network(model, width).module()
    load_parameters(module, start_parameters(model, width, plan_hash))
    return module


def engine(
    model: Model,
    name: EngineName,
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
) -> Engine:
    """The engine that a plan names, over the model and one party's rows."""
    architecture = network(model, features.shape[1])
    if name == "factorised":
        return FactorisedEngine(architecture, features, labels)
    # Opacus takes a second to import; only plans that name it need it.
    from privacy.opacus_engine import OpacusEngine

    return OpacusEngine(architecture.module(), features, labels)


def start_parameters(model: Model, width: int, plan_hash: bytes) -> NDArray[np.float64]:
    """The starting point as a vector of shape (d,), in the order of `Network.maps`."""
    public = np.random.default_rng(np.frombuffer(plan_hash, dtype=np.uint32))
    shape = network(model, width)
    last = len(shape.maps) - 1
    parts = []
    for place, one in enumerate(shape.maps):
        weight = np.zeros(one.outputs * one.inputs)
        if place != last and place - 1 not in shape.block_starts:
            # He et al. 2015: the variance that a ReLU keeps; half of it without one.
            scale = ((2 if one.relu else 1) / one.inputs) ** 0.5
            weight = public.standard_normal(weight.size) * scale
        parts += [weight, np.zeros(one.outputs)]
    return np.concatenate(parts).astype(np.float32).astype(np.float64)
