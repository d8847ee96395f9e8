"""Per-example clipping without per-example gradients, for networks of affine maps.

A row's gradient by a map's W is the outer product of delta (the loss by the map's result) and a
(what came in), and by its b it is delta; so the squared norm over all maps is the sum of
(|a|^2 + 1) |delta|^2, and the sum of clipped gradients is one matrix product a map, with each
row's delta scaled (Goodfellow 2015, "Efficient per-example gradient computations"; Lee and Kifer
2021 clip with it). |x|^2 of the features is computed once.

What is exact, and why:
- Forward and backward run in float32; norms and sums of what they gave run in float64. A row adds
  a vector whose norm was computed from the very numbers that are added: at most the clipping norm,
  whatever the float32 part rounded. Sums in float32 would be a fifth faster for a 64-64 network,
  but no bound on their rounding is small enough to promise.
- One row must not change another's float32 rounding, which matrix kernels can do through the shape
  of a batch and a row's place in it. Here rows stand in columns, in chunks of a multiple of
  `STRIDE`, on one thread: with torch's CPU kernels (2.13, oneMKL) each row's numbers then came out
  the same, bit by bit, in every place, batch and network that was tried; the contract suite holds
  it. Kernels that do not keep it let one row move the others by about 1e-7 of their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.engine import (
    CHECKED_ROWS,
    MAX_CHUNK_ROWS,
    check_rows,
    checked_batch,
    pairwise_sum,
)
from privacy.errors import PrivacyError
from privacy.network import Network

# Elementwise kernels treat what is left over of their vectors differently, and 32 leaves nothing.
STRIDE = 32
# Of one chunk's buffers: with more rows at once the calls cost less, but the cache holds fewer.
CHUNK_BYTES = 3 << 20


class FactorisedEngine:
    """`privacy.engine.Engine` over a `Network`. Raises PrivacyError for rows that do not fit it."""

    def __init__(
        self, network: Network, features: NDArray[np.float32], labels: NDArray[np.float32]
    ) -> None:
        check_rows(features, labels)
        if features.shape[1] != network.inputs:
            raise PrivacyError(f"features must have the network's {network.inputs} columns")
        if not features.flags.c_contiguous:
            raise PrivacyError("features must lie in memory row by row (C order)")
        self._network, self._features, self._labels = network, features, labels
        self._norms = _augmented_norms(features)
        self._parameters = torch.empty(network.parameters_count)
        self._most_rows = _most_rows(network)
        self._memory = _chunk_memory(network)
        self._chunks: dict[int, _Chunk] = {}

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._labels)

    def clipped_sum(
        self, parameters: NDArray[np.float64], chosen: NDArray[np.int64], clipping_norm: float
    ) -> NDArray[np.float64]:
        """See `privacy.engine.Engine`."""
        _check_parameters(self._network, parameters)
        batch = checked_batch(chosen, self.rows)
        if not len(batch):
            return np.zeros(parameters.size)
        self._parameters.copy_(torch.from_numpy(parameters))
        chunks = -(-len(batch) // self._most_rows)
        rows = _padded(-(-len(batch) // chunks))
        with torch.inference_mode(), one_thread():
            return pairwise_sum(lambda part: self._chunk_sum(part, clipping_norm), batch, rows)

    def _chunk_sum(self, chosen: NDArray[np.int64], clipping_norm: float) -> NDArray[np.float64]:
        rows = _padded(len(chosen))
        if rows not in self._chunks:
            self._chunks[rows] = _Chunk(self._network, self._parameters, self._memory, rows)
        chunk = self._chunks[rows]
        # What fills the chunk up is a chosen row again, with a factor of zero.
        index = np.concatenate([chosen, np.repeat(chosen[:1], rows - len(chosen))])
        # "clip" only says that no copy is needed to check the index: `checked_batch` has.
        np.take(self._features, index, axis=0, out=chunk.features.numpy(), mode="clip")
        np.take(self._labels, index, out=chunk.labels.numpy()[0], mode="clip")
        np.take(self._norms, index, out=chunk.feature_norms.numpy(), mode="clip")
        chunk.forward()
        chunk.backward()
        return chunk.weighted_sum(chunk.factors(clipping_norm, len(chosen)))


def row_logits(
    network: Network, parameters: NDArray[np.float64], features: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Logits of shape (n,) for features (n, k), each from its own row alone, bit by bit.

    A histogram of them then moves by one cell for one customer. A plain product over all rows
    rounds a row's logit by the shape of the whole: one customer less, and others may cross into
    another cell.
    """
    if features.ndim != 2 or features.shape[1] != network.inputs:
        raise PrivacyError(f"features must have the network's {network.inputs} columns")
    _check_parameters(network, parameters)
    rows = _most_rows(network)
    flat = torch.from_numpy(parameters.astype(np.float32))
    logits = np.empty(len(features))
    with torch.inference_mode(), one_thread():
        chunk = _Chunk(network, flat, _chunk_memory(network), rows)
        for start in range(0, len(features), rows):
            part = features[start : start + rows]
            chunk.features[: len(part)].copy_(torch.from_numpy(part))
            chunk.features[len(part) :] = 0.0
            chunk.forward()
            logits[start : start + rows] = chunk.logits[: len(part)].numpy()
    return logits


def _check_parameters(network: Network, parameters: NDArray[np.float64]) -> None:
    if parameters.shape != (network.parameters_count,):
        raise PrivacyError("the vector does not have the network's number of parameters")


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: several would share out a product by its shape, and gain little here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _padded(rows: int) -> int:
    return -(-rows // STRIDE) * STRIDE


def _widest(network: Network) -> int:
    return max(network.inputs, *(one.outputs for one in network.maps))


def _numbers_a_row(network: Network) -> tuple[int, int]:
    """How many float32 and float64 numbers a row takes in a chunk's buffers."""
    units = sum(one.outputs for one in network.maps)
    return network.inputs + 1 + 2 * units, 2 * _widest(network) + 2 * len(network.maps)


def _most_rows(network: Network) -> int:
    singles, doubles = _numbers_a_row(network)
    most = CHUNK_BYTES // (4 * singles + 8 * doubles) // STRIDE * STRIDE
    return min(max(most, 4 * STRIDE), MAX_CHUNK_ROWS)


def _chunk_memory(network: Network) -> tuple[torch.Tensor, torch.Tensor]:
    singles, doubles = (one * _most_rows(network) for one in _numbers_a_row(network))
    sums = _padded(network.parameters_count)
    return torch.empty(singles), torch.empty(doubles + sums, dtype=torch.float64)


def _augmented_norms(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """|x|^2 + 1 of each row, shape (n,)."""
    norms = np.ones(len(features))
    for start in range(0, len(features), CHECKED_ROWS):
        part = features[start : start + CHECKED_ROWS].astype(np.float64)
        norms[start : start + CHECKED_ROWS] += np.einsum("ij,ij->i", part, part)
    return norms


@dataclass(frozen=True)
class _Map:
    """One affine map's tensors in a chunk. Of those in scratch memory, none outlasts its use."""

    relu: bool
    weight: torch.Tensor  # (outputs, inputs)
    bias: torch.Tensor  # (outputs, 1)
    weight_sum: torch.Tensor  # (outputs, inputs), float64
    bias_sum: torch.Tensor  # (outputs,), float64
    entered: torch.Tensor  # (inputs, rows)
    entered64: torch.Tensor  # the same in scratch memory
    entered_norms: torch.Tensor  # (rows,), float64: |a|^2 + 1
    result: torch.Tensor  # (outputs, rows)
    sign: torch.Tensor  # of the result, in scratch memory
    delta: torch.Tensor  # (outputs, rows)
    delta64: torch.Tensor  # the same in scratch memory
    delta_norms: torch.Tensor  # (rows,), float64


class _Cutter:
    """Cuts tensors off one piece of memory, which chunks of different sizes share."""

    def __init__(self, memory: torch.Tensor) -> None:
        self._memory, self._start = memory, 0

    def cut(self, lines: int, columns: int) -> torch.Tensor:
        start, self._start = self._start, self._start + lines * columns
        return self._memory[start : self._start].view(lines, columns)


class _Chunk:
    """Buffers for one number of rows: a unit is a line of memory, a row of the table a column.

    Between calls a chunk holds nothing that is needed again.
    """

    def __init__(
        self,
        network: Network,
        parameters: torch.Tensor,
        memory: tuple[torch.Tensor, torch.Tensor],
        rows: int,
    ) -> None:
        singles, doubles = (_Cutter(one) for one in memory)
        self.features, self.labels = singles.cut(rows, network.inputs), singles.cut(1, rows)
        delta64, entered64 = (doubles.cut(_widest(network), rows) for _ in range(2))
        count = network.parameters_count
        self._sum = doubles.cut(1, _padded(count))[0, :count]
        self._maps: list[_Map] = []
        start, entered = 0, self.features.t()
        for one in network.maps:
            middle = start + one.outputs * one.inputs
            end = middle + one.outputs
            made = _Map(
                relu=one.relu,
                weight=parameters[start:middle].view(one.outputs, one.inputs),
                bias=parameters[middle:end].view(one.outputs, 1),
                weight_sum=self._sum[start:middle].view(one.outputs, one.inputs),
                bias_sum=self._sum[middle:end],
                entered=entered,
                # The features stand row by row, what a map gave unit by unit.
                entered64=entered64.as_strided(entered.shape, entered.stride()),
                entered_norms=doubles.cut(1, rows)[0],
                result=singles.cut(one.outputs, rows),
                sign=delta64.view(-1).view(torch.float32)[: one.outputs * rows].view(-1, rows),
                delta=singles.cut(one.outputs, rows),
                delta64=delta64[: one.outputs],
                delta_norms=doubles.cut(1, rows)[0],
            )
            self._maps.append(made)
            start, entered = end, made.result
        self.feature_norms = self._maps[0].entered_norms
        self._block_starts = network.block_starts

    @property
    def logits(self) -> torch.Tensor:
        """What `forward` gave, (rows,)."""
        return self._maps[-1].result[0]

    def forward(self) -> None:
        """Every map's result, from the features, and the norms of what came in."""
        for place, one in enumerate(self._maps):
            if place:
                one.entered64.copy_(one.entered)
                torch.sum(one.entered64.square_(), dim=0, out=one.entered_norms).add_(1.0)
            torch.addmm(one.bias, one.weight, one.entered, out=one.result)
            if one.relu:
                one.result.relu_()
            if place - 1 in self._block_starts:
                one.result.add_(self._maps[place - 1].entered)

    def backward(self) -> None:
        """Every map's delta and its norm; by the logit, the loss has sigmoid(logit) - label."""
        last = self._maps[-1]
        torch.sigmoid(last.result, out=last.delta).sub_(self.labels)
        for place in range(len(self._maps) - 1, -1, -1):
            one = self._maps[place]
            if one is not last:
                after = self._maps[place + 1]
                torch.mm(after.weight.t(), after.delta, out=one.delta)
                if place + 1 in self._block_starts:
                    one.delta.add_(self._maps[place + 2].delta)
            if one.relu:
                # A ReLU's derivative is the sign of what it gave.
                one.delta.mul_(torch.sign(one.result, out=one.sign))
            one.delta64.copy_(one.delta)
            torch.sum(one.delta64.square_(), dim=0, out=one.delta_norms)

    def factors(self, clipping_norm: float, count: int) -> torch.Tensor:
        """min(1, C / norm) of each of the first `count` rows, 0 of the others, shape (rows,)."""
        norms = torch.zeros_like(self.feature_norms)
        for one in self._maps:
            norms.addcmul_(one.entered_norms, one.delta_norms)
        if not math.isfinite(float(norms.sum())):
            # A row whose gradient overflows counts as zero: refusing would tell that it is there.
            bad = ~torch.isfinite(norms)
            norms[bad] = 0.0
            for one in self._maps:
                one.entered[:, bad] = 0.0
                one.delta[:, bad] = 0.0
        factors = norms.rsqrt_().mul_(clipping_norm).clamp_(max=1.0)
        factors[count:] = 0.0
        return factors

    def weighted_sum(self, factors: torch.Tensor) -> NDArray[np.float64]:
        """The sum of all rows' gradients, each times its factor, shape (d,)."""
        for one in self._maps:
            one.entered64.copy_(one.entered)
            one.delta64.copy_(one.delta).mul_(factors)
            torch.sum(one.delta64, dim=1, out=one.bias_sum)
            # NumPy's float64 product is the faster one where oneMKL takes no AVX-512 (AMD).
            np.matmul(one.delta64.numpy(), one.entered64.numpy().T, out=one.weight_sum.numpy())
        total: NDArray[np.float64] = self._sum.numpy().copy()
        return total
