"""DP-SGD (Abadi et al. 2016) with per-example gradients by Opacus; the one doorway to Opacus.

Opacus computes each example's gradient (its hooks). Sampling, clipping, denominator and noise are
`privacy.mechanism`'s, because Opacus' `make_private` rounds the sample rate and divides by the
private number of rows. Ghost clipping is not used: it silently breaks with a loss of shape [B, 1];
here the loss must be one-dimensional, and that is checked.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from privacy.errors import PrivacyError
from privacy.mechanism import SampledGaussian

# The inputs are data, not parameters, so none requires a gradient: what torch warns of is meant.
warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)

# Numbers of per-example gradients that are held in memory at once, and rows at most.
MICROBATCH_NUMBERS = 1 << 23
MICROBATCH_ROWS = 4096


@dataclass(frozen=True)
class StepRule:
    """One step's public constants. `batch_size` is the denominator B, whatever was sampled."""

    batch_size: int
    clipping_norm: float
    learning_rate: float
    momentum: float = 0.0
    l2: float = 0.0


def parameter_vector(model: nn.Module) -> NDArray[np.float64]:
    """All parameters as one float64 vector of shape (d,)."""
    return np.concatenate(
        [one.detach().numpy().astype(np.float64).reshape(-1) for one in model.parameters()]
    )


def load_parameters(model: nn.Module, vector: NDArray[np.float64]) -> None:
    """Write `vector` (shape (d,)) into the model's parameters."""
    start = 0
    with torch.no_grad():
        for one in model.parameters():
            part = vector[start : start + one.numel()].astype(np.float32)
            one.copy_(torch.from_numpy(part).reshape(one.shape))
            start += one.numel()
    if start != vector.size:
        raise ValueError("the vector does not have the model's number of parameters")


def clipped_sum(
    module: GradSampleModule,
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    clipping_norm: float,
) -> NDArray[np.float64]:
    """Sum over rows of each row's gradient scaled to norm at most `clipping_norm`, in float64.

    features (b, k), labels (b,) of 0 and 1; b may be 0. Adding or removing any one row moves the
    result by at most `clipping_norm` in L2.
    """
    parameters = list(module.parameters())
    total = np.zeros(sum(one.numel() for one in parameters), dtype=np.float64)
    rows = max(1, min(MICROBATCH_ROWS, MICROBATCH_NUMBERS // total.size))
    for start in range(0, len(labels), rows):
        x = torch.from_numpy(features[start : start + rows])
        y = torch.from_numpy(labels[start : start + rows])
        module.zero_grad(set_to_none=True)
        logits = module(x)
        losses = binary_cross_entropy_with_logits(logits, y, reduction="none")
        if losses.shape != y.shape or losses.dim() != 1:
            raise PrivacyError("the loss must be one-dimensional, one value a row")
        torch.autograd.backward(losses.sum())
        samples = torch.cat([one.grad_sample.reshape(len(y), -1) for one in parameters], dim=1).to(
            torch.float64
        )
        norms = samples.norm(dim=1)
        # A row whose gradient overflows counts as zero: refusing would tell that it is there.
        overflown = ~torch.isfinite(norms)
        samples[overflown], norms[overflown] = 0.0, 0.0
        factors = torch.clamp(clipping_norm / norms.clamp(min=1e-12), max=1.0)
        total += (factors @ samples).numpy()
    return total


def train(
    model: nn.Module,
    parameters: NDArray[np.float64],
    features: NDArray[np.float32],
    labels: NDArray[np.float32],
    mechanism: SampledGaussian,
    rule: StepRule,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Run all of `mechanism`'s steps from `parameters` (shape (d,)); returns the new vector.

    An empty sample steps on noise alone. Momentum and L2 use noised gradients and parameters only.
    Raises PrivacyError for values that are not finite, labels other than 0 and 1, or a model with
    layers that mix rows (BatchNorm).
    """
    _check_inputs(model, features, labels)
    module = GradSampleModule(model, batch_first=True, loss_reduction="sum")
    velocity = np.zeros_like(parameters)
    for _ in range(mechanism.steps):
        load_parameters(model, parameters)
        chosen = mechanism.sample(len(labels), rng)
        gradient = clipped_sum(module, features[chosen], labels[chosen], rule.clipping_norm)
        mean = mechanism.noised(gradient, rule.clipping_norm, rng) / rule.batch_size
        velocity = rule.momentum * velocity + mean + rule.l2 * parameters
        parameters = parameters - rule.learning_rate * velocity
    return parameters


def _check_inputs(
    model: nn.Module, features: NDArray[np.float32], labels: NDArray[np.float32]
) -> None:
    if ModuleValidator.validate(model, strict=False):
        raise PrivacyError(
            "the model has a layer that mixes rows (such as BatchNorm); use GroupNorm or LayerNorm"
        )
    if features.ndim != 2 or labels.shape != (len(features),):
        raise PrivacyError("features must be (n, k) and labels (n,)")
    if not np.isfinite(features).all():
        raise PrivacyError("features hold values that are not finite; check the source")
    if not np.isin(labels, (0.0, 1.0)).all():
        raise PrivacyError("labels must be 0 or 1")
