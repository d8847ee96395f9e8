"""Integers for encryption: quantise to fields, pack fields into slots; clamp, never wrap.

A ciphertext has 4096 slots, each a residue modulo t (a prime just below 2**48). 4095 slots hold
data and the last one the tag of `privacy.sum_mac`. A model delta uses two 24-bit fields a slot, a
count a whole slot.

No overflow, for n = 2..32 parties. Each field is at most L = 2**v - 1 with v = `value_bits(n)`:
20 bits for n <= 16, since 16 * (2**20 - 1) = 2**24 - 16, and 19 above, since 32 * (2**19 - 1) =
2**24 - 32. So n * L <= 2**24 - 2 for every n: a sum of n low fields carries nothing into the high
field, and a slot's sum is at most (2**24 - 2) * 2**24 + 2**24 - 2 = 2**48 - 2**24 - 2 < t, so it
does not wrap modulo t. Counts are clamped to +-2**40: n of them stay within 2**45 < t / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.ciphertexts import MAX_PARTIES, MODULUS, SLOTS

DATA_SLOTS = SLOTS - 1
FIELD_BITS = 24
MAX_VALUE_BITS = 20
COUNT_BOUND = 1 << 40


def value_bits(parties: int) -> int:
    """Bits of one quantised value: the most, up to 20, of which `parties` sum within a field."""
    if not 1 <= parties <= MAX_PARTIES:
        raise ValueError(f"a sum has 1 to {MAX_PARTIES} parties")
    bits = MAX_VALUE_BITS
    while parties * ((1 << bits) - 1) >= 1 << FIELD_BITS:
        bits -= 1
    return bits


@dataclass(frozen=True)
class DeltaCode:
    """How a model delta becomes integers: public constants of one key agreement's members.

    `bound`: each coordinate is clamped to [-bound, bound]; `largest_weight`: the largest weight
    that any party may have, in (0, 1], so that all parties share one step size; `parties`: the most
    that one sum may have.
    """

    bound: float
    largest_weight: float
    parties: int

    @property
    def limit(self) -> float:
        """Largest weighted coordinate of any party."""
        return self.bound * self.largest_weight

    @property
    def levels(self) -> int:
        """The largest quantised value; the smallest is 0."""
        return (1 << value_bits(self.parties)) - 1

    def quantise(
        self, model_delta: NDArray[np.float64], weight: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Clamp, weigh and round `model_delta` (shape (d,)) to [0, levels], stochastically:
        unbiased for what was not clamped.

        `weight`: the party's own, at most `largest_weight`; beyond that the values clamp.
        """
        weighted = np.clip(model_delta, -self.bound, self.bound) * weight
        scaled = (weighted / self.limit + 1) / 2 * self.levels
        floor = np.floor(scaled)
        rounded = floor + (rng.random(model_delta.shape) < scaled - floor)
        values: NDArray[np.int64] = np.clip(rounded, 0, self.levels).astype(np.int64)
        return values

    def saturated(self, model_delta: NDArray[np.float64]) -> int:
        """How many coordinates `quantise` clamps. For the party's own eyes: it never leaves it."""
        return int(np.count_nonzero(np.abs(model_delta) > self.bound))

    def dequantise(self, total: NDArray[np.int64], parties: int) -> NDArray[np.float64]:
        """The weighted sum of model deltas from the sum of `parties` quantised ones."""
        return (total.astype(np.float64) * 2 / self.levels - parties) * self.limit


def field_chunks(count: int) -> int:
    """How many chunks hold `count` fields."""
    return -(-count // (2 * DATA_SLOTS))


def count_chunks(count: int) -> int:
    """How many chunks hold `count` counts."""
    return -(-count // DATA_SLOTS)


def pack_fields(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two fields a slot, as residues of shape (k, DATA_SLOTS), zero padded.

    Raises ValueError unless all are in [0, 2**20): `DeltaCode.quantise` gives no others.
    """
    if values.size and (values.min() < 0 or values.max() >> MAX_VALUE_BITS):
        raise ValueError(f"a field value is outside its {MAX_VALUE_BITS} bits")
    padded = np.zeros((field_chunks(values.size), DATA_SLOTS, 2), dtype=np.int64)
    padded.reshape(-1)[: values.size] = values
    packed: NDArray[np.int64] = padded[:, :, 0] | (padded[:, :, 1] << FIELD_BITS)
    return packed


def unpack_fields(chunks: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` fields of summed chunks (k, DATA_SLOTS)."""
    fields = np.stack([chunks & ((1 << FIELD_BITS) - 1), chunks >> FIELD_BITS], axis=2)
    return fields.reshape(-1)[:count]


def pack_counts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """One signed count a slot, clamped to +-2**40, as residues of shape (k, DATA_SLOTS)."""
    padded = np.zeros((count_chunks(counts.size), DATA_SLOTS), dtype=np.int64)
    padded.reshape(-1)[: counts.size] = np.clip(counts, -COUNT_BOUND, COUNT_BOUND)
    return padded % MODULUS


def unpack_counts(chunks: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` signed counts of summed chunks (k, DATA_SLOTS)."""
    residues = chunks.reshape(-1)[:count]
    return np.where(residues > MODULUS // 2, residues - MODULUS, residues)
