"""Randomness that is never repeatable in service.

Everything random in a party (sampling, noise, rounding, ephemeral keys) starts from an `Entropy`:
a function from a label to 32 fresh bytes. In service it is `system_entropy`, which ignores the
label and asks the operating system. No command, setting, message or environment variable reaches
it; a test passes another function to `PartyService(entropy=...)` and to `simulations.story`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from randomgen import AESCounter

KEY_BYTES = 32
# What `generator` draws with, as a ledger names it.
ALGORITHM = "AES-128 in counter mode (randomgen.AESCounter)"
Entropy = Callable[[str], bytes]


def system_entropy(label: str) -> bytes:
    """32 bytes from the operating system; `label` names their use and does not enter them."""
    return os.urandom(KEY_BYTES)


def generator(key: bytes) -> np.random.Generator:
    """A NumPy generator over AES-128 in counter mode, keyed by the first 16 bytes of `key`.

    randomgen's `seed=` would stretch the seed with a generator that is not cryptographic, so the
    key is given as a key; its counter starts from the other 16 bytes.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a generator key has {KEY_BYTES} bytes")
    counter = int.from_bytes(key[16:], "little")
    return np.random.Generator(AESCounter(key=int.from_bytes(key[:16], "little"), counter=counter))
