"""TenSEAL as NVIDIA FLARE uses it, to be measured against; nothing else encrypts with it.

CKKS, N = 8192, coefficient moduli [60, 40, 40], scale 2**40, one key for all parties, high-level
API (`nvflare.app_opt.he`: `ckks_vector`, `serialize`, `ckks_vector_from`, `+`, `decrypt`).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

POLY_MODULUS_DEGREE = 8192
COEFFICIENT_BITS = [60, 40, 40]
SCALE = 2**40


class DocumentedTenseal:
    """The parties' shared context, and the server's without the secret key."""

    def __init__(self) -> None:
        self._context = ts.context(
            ts.SCHEME_TYPE.CKKS, POLY_MODULUS_DEGREE, coeff_mod_bit_sizes=COEFFICIENT_BITS
        )
        self._context.global_scale = SCALE
        self._server = ts.context_from(
            self._context.serialize(
                save_secret_key=False, save_galois_keys=False, save_relin_keys=False
            )
        )

    def protect(self, values: NDArray[np.float64]) -> bytes:
        """Encrypt and serialise one party's parameters."""
        # It prints that the vector takes more than one ciphertext; stdout is for one JSON object.
        with contextlib.redirect_stdout(io.StringIO()):
            return bytes(ts.ckks_vector(self._context, values).serialize())

    def add(self, contributions: Sequence[bytes]) -> bytes:
        """Read the parties' vectors one after the other, add them and serialise the sum."""
        total = ts.ckks_vector_from(self._server, contributions[0])
        for contribution in contributions[1:]:
            total += ts.ckks_vector_from(self._server, contribution)
        return bytes(total.serialize())

    def open(self, total: bytes) -> list[float]:
        """Read and decrypt a sum."""
        opened: list[float] = ts.ckks_vector_from(self._context, total).decrypt()
        return opened
