"""A one-time linear MAC modulo t over encrypted sums: the coordinator may add, and nothing else.

Wegman and Carter 1981 (universal hashing and a one-time pad), in the homomorphic form of Agrawal
and Boneh 2009. All members derive from the MAC key, for one label (round, attempt, tensor,
participants), a vector r uniform over the 4095 data slots, and for each of its participants i and
chunks c a pad s_ic. The tag of i's chunk x_ic is y_ic = <r, x_ic> + s_ic mod t, in slot 4095. Tags
add like the data: an opened chunk (X, T) is accepted only if T = <r, X> + sum over i of s_ic.

Why a coordinator without a key holder's help is caught. Let (X_c, Y_c) be the true sum, all
participants once, and (X'_c, T'_c) what opens after anything the coordinator did: dropped, doubled,
rescaled or replaced ciphertexts, added plaintext, exchanged chunks, sent another label's sum. As
s_ic is a uniform one-time pad, all vectors (x_ic, y_ic) together, the masks, the BFV key and the
coordinator's coins are independent of r; so is everything made of them, (X', T') too. A chunk is
accepted iff T'_c - Y_c = <r, X'_c - X_c>. If X'_c differs from X_c, the right side is uniform
modulo the prime t, so that holds with probability 1/t < 2**-47. If X'_c = X_c and T'_c differs, it
never holds. A sum of another label meets other pads and another r, to the same bound. r and s are
HKDF and AES outputs, so all of this holds against bounded adversaries. One refusal erases the keys:
there is one attempt.

What it does not do: a member knows the MAC key, so against coordinator + member the opened sums
are compared (`SharedKeys.opening_tag`). And the tag must be masked like the data: a bare one would
tell a key holder, who knows r and s, <r, x_i> of one party.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.ciphertexts import MODULUS
from privacy.masking import SumLabel, derive, uniform_words
from privacy.packing import DATA_SLOTS

_LIMB_BITS = 24
_LIMB = (1 << _LIMB_BITS) - 1


def tags(
    mac_key: bytes, label: SumLabel, party: str, chunks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The tag of each of `party`'s chunks: residues (k, DATA_SLOTS) -> (k,), in [0, t)."""
    hashed = _hashed(mac_key, label, chunks)
    return (hashed + _pads(mac_key, label, party, len(chunks))) % MODULUS


def holds(
    mac_key: bytes, label: SumLabel, chunks: NDArray[np.int64], tag_sums: NDArray[np.int64]
) -> bool:
    """Whether `chunks` (k, DATA_SLOTS) and `tag_sums` (k,) are the sum over `label.members`."""
    expected = _hashed(mac_key, label, chunks)
    for party in label.members:
        expected += _pads(mac_key, label, party, len(chunks))
    return np.array_equal(expected % MODULUS, tag_sums)


def _hashed(mac_key: bytes, label: SumLabel, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
    r = uniform_words(derive(mac_key, label.info("mac hash", 0)), DATA_SLOTS, MODULUS)
    return inner_products(chunks, r)


def _pads(mac_key: bytes, label: SumLabel, party: str, chunks: int) -> NDArray[np.int64]:
    """One word for each chunk, all from one stream of this participant and label."""
    return uniform_words(derive(mac_key, label.info("mac pad", 0, party)), chunks, MODULUS)


def inner_products(chunks: NDArray[np.int64], r: NDArray[np.int64]) -> NDArray[np.int64]:
    """<r, x> mod t for each row x of `chunks`, shape (k, n), n <= 2**14; entries in [0, 2**48).

    A product has 96 bits, so both factors are split into limbs of 24: products of limbs stay below
    2**48 and sums of n of them below 2**62. They are put together as Python's integers.
    """
    x_low, x_high = chunks & _LIMB, chunks >> _LIMB_BITS
    r_low, r_high = r & _LIMB, r >> _LIMB_BITS
    parts = zip(
        (x_low @ r_low).tolist(),
        (x_low @ r_high).tolist(),
        (x_high @ r_low).tolist(),
        (x_high @ r_high).tolist(),
        strict=True,
    )
    found = [
        (low + ((middle + other) << _LIMB_BITS) + (high << (2 * _LIMB_BITS))) % MODULUS
        for low, middle, other, high in parts
    ]
    return np.array(found, dtype=np.int64)
