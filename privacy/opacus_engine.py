"""Per-example gradients by Opacus' hooks, for any torch model; the one doorway to Opacus.

Sampling, clipping, denominator and noise are ours, because Opacus' `make_private` rounds the sample
rate and divides by the private number of rows. Ghost clipping is not used: it silently breaks with
a loss of shape [B, 1]; here the loss must be one-dimensional, and that is checked.

All is computed in float64. Matrix kernels may round a row's result differently with the shape of
its batch and its place in it, so one row's presence can change another's rounding; in float64 that
is about 1e-15 of the terms of a sum, far below `mechanism.sensitivity_slack` unless terms cancel.
That remainder is stated, not bounded; the factorised engine does not have it.
"""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from privacy.dp_sgd import load_parameters, parameter_vector
from privacy.engine import MAX_CHUNK_ROWS, check_rows, checked_batch, pairwise_sum
from privacy.errors import PrivacyError

# The inputs are data, not parameters, so none requires a gradient: what torch warns of is meant.
warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)

# Numbers of per-example gradients that are held in memory at once.
CHUNK_NUMBERS = 1 << 22
ONE_LOGIT = "the loss must be one-dimensional: the model gives one logit a row, in shape (b,)"


class OpacusEngine:
    """`privacy.engine.Engine` over any torch model that maps features (b, k) to logits (b,).

    Raises PrivacyError for rows that `check_rows` refuses, a model that does not take their columns
    or gives another shape than (b,), or one with layers that mix rows (BatchNorm). The model itself
    is copied and stays as it is.
    """

    def __init__(
        self, model: nn.Module, features: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> None:
        if ModuleValidator.validate(model, strict=False):
            raise PrivacyError(
                "the model has a layer that mixes rows (such as BatchNorm); use GroupNorm or "
                "LayerNorm"
            )
        check_rows(features, labels)
        model = copy.deepcopy(model).double()
        _check_shapes(model, features.shape[1])
        self._module = GradSampleModule(model, batch_first=True, loss_reduction="sum")
        self._features, self._labels = features, labels
        numbers = parameter_vector(model).size
        self._chunk_rows = max(1, min(MAX_CHUNK_ROWS, CHUNK_NUMBERS // numbers))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._labels)

    def clipped_sum(
        self, parameters: NDArray[np.float64], chosen: NDArray[np.int64], clipping_norm: float
    ) -> NDArray[np.float64]:
        """See `privacy.engine.Engine`. Raises PrivacyError if the loss has not the shape (b,)."""
        batch = checked_batch(chosen, self.rows)
        load_parameters(self._module, parameters)
        if not len(batch):
            return np.zeros(parameters.size)
        return pairwise_sum(
            lambda chunk: self._chunk_sum(chunk, clipping_norm), batch, self._chunk_rows
        )

    def _chunk_sum(self, chosen: NDArray[np.int64], clipping_norm: float) -> NDArray[np.float64]:
        samples = self._gradients(chosen)
        norms = samples.norm(dim=1)
        # A row whose gradient overflows counts as zero: refusing would tell that it is there.
        overflown = ~torch.isfinite(norms)
        samples[overflown], norms[overflown] = 0.0, 0.0
        factors = torch.clamp(clipping_norm / norms, max=1.0)
        total: NDArray[np.float64] = (factors @ samples).numpy()
        return total

    def _gradients(self, chosen: NDArray[np.int64]) -> torch.Tensor:
        """Each chosen row's gradient, shape (b, d)."""
        labels = torch.from_numpy(self._labels[chosen]).double()
        self._module.zero_grad(set_to_none=True)
        logits = self._module(torch.from_numpy(self._features[chosen]).double())
        if logits.shape != labels.shape:
            raise PrivacyError(ONE_LOGIT)
        losses = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        torch.autograd.backward(losses)
        samples = [one.grad_sample.reshape(len(labels), -1) for one in self._module.parameters()]
        return torch.cat(samples, dim=1)


def _check_shapes(model: nn.Module, columns: int) -> None:
    try:
        with torch.no_grad():
            logits = model(torch.zeros(2, columns, dtype=torch.float64))
    except RuntimeError as error:
        raise PrivacyError(f"the model does not take features of {columns} columns") from error
    if logits.shape != (2,):
        raise PrivacyError(ONE_LOGIT)
