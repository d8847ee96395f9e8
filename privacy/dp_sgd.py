"""DP-SGD (Abadi et al. 2016): the loop that joins an engine with the mechanism that is charged.

The engine gives the sum of clipped gradients; sampling, noise and their accounting event are
`privacy.mechanism`'s. Momentum, L2 and the tail average see noised gradients and parameters only,
so they are post-processing and cost nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from privacy.engine import Engine
from privacy.errors import PrivacyError
from privacy.mechanism import SampledGaussian

# Half of what `mechanism.sensitivity_slack` covers: a sample may be larger than expected.
MAX_BATCH_SIZE = 1 << 21


@dataclass(frozen=True)
class StepRule:
    """One step's public constants. `batch_size` is the denominator B, whatever was sampled.

    `tail` in [0, 1]: the result is the average of the last ceil(tail * steps) iterates; 0 means
    the last iterate alone.
    """

    batch_size: int
    clipping_norm: float
    learning_rate: float
    momentum: float = 0.0
    l2: float = 0.0
    tail: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MAX_BATCH_SIZE:
            raise PrivacyError(
                f"batch_size must be at least 1 and at most {MAX_BATCH_SIZE}; above it, take a "
                "smaller sample rate"
            )
        for name in ("clipping_norm", "learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise PrivacyError(f"{name} must be a finite number above 0")
        if not 0 <= self.momentum < 1:
            raise PrivacyError("momentum must be at least 0 and below 1")
        if not (math.isfinite(self.l2) and self.l2 >= 0):
            raise PrivacyError("l2 must be a finite number, at least 0")
        if not 0 <= self.tail <= 1:
            raise PrivacyError("tail must be at least 0 and at most 1")


def parameter_vector(model: nn.Module) -> NDArray[np.float64]:
    """All parameters as one float64 vector of shape (d,)."""
    return np.concatenate(
        [one.detach().numpy().astype(np.float64).reshape(-1) for one in model.parameters()]
    )


def load_parameters(model: nn.Module, vector: NDArray[np.float64]) -> None:
    """Write `vector` (shape (d,)), rounded to float32, into the model's parameters."""
    parameters = list(model.parameters())
    if vector.shape != (sum(one.numel() for one in parameters),):
        raise PrivacyError("the vector does not have the model's number of parameters")
    rounded = torch.from_numpy(vector.astype(np.float32))
    start = 0
    with torch.no_grad():
        for one in parameters:
            one.copy_(rounded[start : start + one.numel()].reshape(one.shape))
            start += one.numel()


def train(
    engine: Engine,
    parameters: NDArray[np.float64],
    mechanism: SampledGaussian,
    rule: StepRule,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Run all of `mechanism`'s steps from `parameters` (shape (d,)); returns the new vector.

    An empty sample steps on noise alone.
    """
    tail = max(1, math.ceil(rule.tail * mechanism.steps))
    velocity, tail_sum = np.zeros_like(parameters), np.zeros_like(parameters)
    for step in range(mechanism.steps):
        chosen = mechanism.sample(engine.rows, rng)
        gradient = engine.clipped_sum(parameters, chosen, rule.clipping_norm)
        velocity *= rule.momentum
        velocity += mechanism.noised(gradient, rule.clipping_norm, rng) / rule.batch_size
        if rule.l2:
            velocity += rule.l2 * parameters
        parameters = parameters - rule.learning_rate * velocity
        if step >= mechanism.steps - tail:
            tail_sum += parameters
    return parameters if tail == 1 else tail_sum / tail
