"""Integers for encryption: quantise to fields, pack fields into slots; clamp, never wrap.

A slot holds a residue modulo t (just below 2**48). A model delta uses two 24-bit fields a slot,
each a 20-bit value: fifteen parties sum to less than 15 * 2**20 < 2**24, so fields cannot overflow
into each other. A count uses a whole slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_PARTIES = 15
FIELD_BITS = 24
VALUE_BITS = 20
LEVELS = (1 << VALUE_BITS) - 1
COUNT_BOUND = 1 << 40


@dataclass(frozen=True)
class DeltaCode:
    """How a model delta becomes integers: public constants of a run.

    `bound`: each coordinate is clamped to [-bound, bound]; `largest_weight`: the cohort's largest
    public weight, in (0, 1], so that all parties share one step size.
    """

    bound: float
    largest_weight: float

    @property
    def limit(self) -> float:
        """Largest weighted coordinate of any party."""
        return self.bound * self.largest_weight

    def quantise(
        self, model_delta: NDArray[np.float64], weight: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Clamp, weigh and round `model_delta` (shape (d,)) to 20 bits, stochastically: unbiased.

        `weight`: the party's own public weight.
        """
        weighted = np.clip(model_delta, -self.bound, self.bound) * weight
        scaled = (weighted / self.limit + 1) / 2 * LEVELS
        floor = np.floor(scaled)
        rounded = floor + (rng.random(model_delta.shape) < scaled - floor)
        values: NDArray[np.int64] = np.clip(rounded, 0, LEVELS).astype(np.int64)
        return values

    def dequantise(self, total: NDArray[np.int64], parties: int) -> NDArray[np.float64]:
        """The weighted sum of model deltas from the sum of `parties` quantised ones."""
        return (total.astype(np.float64) * 2 / LEVELS - parties) * self.limit


def pack_fields(values: NDArray[np.int64], slots: int) -> list[NDArray[np.int64]]:
    """Two fields a slot, `slots` slots a chunk, zero padded. Values must be in [0, LEVELS]."""
    if values.size and (values.min() < 0 or values.max() > LEVELS):
        raise ValueError("a field value is outside its 20 bits")
    padded = np.zeros(-(-values.size // (2 * slots)) * 2 * slots, dtype=np.int64)
    padded[: values.size] = values
    pairs = padded.reshape(-1, slots, 2)
    return [chunk[:, 0] | (chunk[:, 1] << FIELD_BITS) for chunk in pairs]


def unpack_fields(chunks: list[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    """The first `count` fields of summed chunks."""
    low_mask = (1 << FIELD_BITS) - 1
    fields = [np.stack([c & low_mask, c >> FIELD_BITS], axis=1).reshape(-1) for c in chunks]
    return np.concatenate(fields)[:count]


def pack_counts(counts: NDArray[np.int64], slots: int, modulus: int) -> list[NDArray[np.int64]]:
    """One signed count a slot, clamped to +-2**40, as residues modulo `modulus`."""
    padded = np.zeros(-(-counts.size // slots) * slots, dtype=np.int64)
    padded[: counts.size] = np.clip(counts, -COUNT_BOUND, COUNT_BOUND)
    return list((padded % modulus).reshape(-1, slots))


def unpack_counts(chunks: list[NDArray[np.int64]], count: int, modulus: int) -> NDArray[np.int64]:
    """The first `count` signed counts of summed chunks."""
    residues = np.concatenate(chunks)[:count]
    return np.where(residues > modulus // 2, residues - modulus, residues)
