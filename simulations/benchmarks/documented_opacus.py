"""Opacus as its documentation shows it, to be measured against; nothing trains with it.

`PrivacyEngine.make_private` with hooks and the loader it makes (DPDataLoader, Poisson sampling).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# The inputs are data, not parameters, so none requires a gradient: what torch warns of is meant.
warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)


def opacus_steps(
    model: nn.Module,
    features: torch.Tensor,
    labels: torch.Tensor,
    batch_size: int,
    learning_rate: float,
) -> Callable[[int], None]:
    """A function that trains for so many steps, each over `batch_size` rows on average."""
    with warnings.catch_warnings():
        # That its generator is not cryptographic, and that it is for experiments: so is this.
        warnings.simplefilter("ignore")
        private, optimiser, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=learning_rate),
            data_loader=DataLoader(TensorDataset(features, labels), batch_size=batch_size),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
        )
    criterion = nn.BCEWithLogitsLoss()

    def run(steps: int) -> None:
        epochs = (batch for _ in itertools.count() for batch in loader)
        for x, y in itertools.islice(epochs, steps):
            optimiser.zero_grad()
            criterion(private(x), y).backward()
            optimiser.step()

    return run
