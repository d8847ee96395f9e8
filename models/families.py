"""Model families: each maps (n, k) features to n logits, one a row, and knows its start.

All parties start from the same parameters: zeros for the logistic model; for the multi-layer
perceptron a draw that is a public function of the plan's hash, with a zero output layer.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.plan import Model
from privacy.dp_sgd import parameter_vector


class _OneLogit(nn.Module):
    """Layers ending in one unit; the output has shape (n,), never (n, 1)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(features)
        return logits.squeeze(1)


def build(model: Model, width: int, plan_hash: bytes) -> nn.Module:
    """The model of `width` inputs at its public starting point."""
    sizes = [width, *model.hidden]
    layers: list[nn.Module] = []
    public = np.random.default_rng(np.frombuffer(plan_hash, dtype=np.uint32))
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        scale = (2 / inputs) ** 0.5
        with torch.no_grad():
            weight = (public.standard_normal((outputs, inputs)) * scale).astype(np.float32)
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    last = nn.Linear(sizes[-1], 1)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    return _OneLogit(nn.Sequential(*layers, last))


def start_parameters(model: Model, width: int, plan_hash: bytes) -> NDArray[np.float64]:
    """The starting point as a vector of shape (d,)."""
    return parameter_vector(build(model, width, plan_hash))
