"""A network as data: one definition, realised as a torch module and by the factorised engine.

Layers are affine maps with or without a ReLU and residual blocks of two affine maps (He et al.
2016, section 3.1, without normalisation: batch normalisation would mix rows). The last layer has
one output, the logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from privacy.errors import PrivacyError


@dataclass(frozen=True)
class Dense:
    """x -> W x + b, then a ReLU if `relu`; W is (outputs, inputs)."""

    inputs: int
    outputs: int
    relu: bool = False


@dataclass(frozen=True)
class Residual:
    """x -> x + W2 relu(W1 x + b1) + b2; W1 is (hidden, width), W2 (width, hidden)."""

    width: int
    hidden: int

    @property
    def inputs(self) -> int:
        """Units before the block."""
        return self.width

    @property
    def outputs(self) -> int:
        """Units after the block: as many."""
        return self.width

    @property
    def maps(self) -> tuple[Dense, Dense]:
        """The block's two affine maps."""
        return Dense(self.width, self.hidden, relu=True), Dense(self.hidden, self.width)


@dataclass(frozen=True)
class Network:
    """Layers from `inputs` features to one logit. Raises PrivacyError if they do not fit."""

    inputs: int
    layers: tuple[Dense | Residual, ...]

    def __post_init__(self) -> None:
        width = self.inputs
        for layer in self.layers:
            if min(layer.inputs, layer.outputs, getattr(layer, "hidden", 1)) < 1:
                raise PrivacyError("a layer has at least one unit")
            if layer.inputs != width:
                raise PrivacyError("a layer takes as many inputs as the one before it gives")
            width = layer.outputs
        if not self.layers or self.layers[-1] != Dense(self.layers[-1].inputs, 1):
            raise PrivacyError("the last layer is a Dense of one output without a ReLU")

    @cached_property
    def maps(self) -> tuple[Dense, ...]:
        """All affine maps in the order of the parameters."""
        found: list[Dense] = []
        for layer in self.layers:
            found += layer.maps if isinstance(layer, Residual) else [layer]
        return tuple(found)

    @cached_property
    def block_starts(self) -> frozenset[int]:
        """Which of `maps` begin a residual block: their input is added to what the next gives."""
        starts, place = set(), 0
        for layer in self.layers:
            if isinstance(layer, Residual):
                starts.add(place)
                place += 1
            place += 1
        return frozenset(starts)

    @property
    def parameters_count(self) -> int:
        """d: every map's W, row by row, then its b, in the order of `maps`."""
        return sum((one.inputs + 1) * one.outputs for one in self.maps)

    def module(self) -> nn.Module:
        """The network in torch, (n, inputs) to (n,), all zero; parameters in the same order."""
        return _Module(self)


class _Block(nn.Module):
    def __init__(self, block: Residual) -> None:
        super().__init__()
        self.first = nn.Linear(block.width, block.hidden)
        self.second = nn.Linear(block.hidden, block.width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        change: torch.Tensor = self.second(torch.relu(self.first(inputs)))
        return inputs + change


class _Module(nn.Module):
    """The output has shape (n,), never (n, 1): a loss of two dimensions is a known trap."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for layer in network.layers:
            if isinstance(layer, Residual):
                parts.append(_Block(layer))
            else:
                parts.append(nn.Linear(layer.inputs, layer.outputs))
                if layer.relu:
                    parts.append(nn.ReLU())
        self.layers = nn.Sequential(*parts)
        with torch.no_grad():
            for one in self.parameters():
                one.zero_()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(features)
        return logits.squeeze(1)
