"""BFV over a run key that only the parties share; the coordinator adds without any key.

Plaintexts are uniformly masked (`privacy.masking`) before they come here, so a key holder who sees
one party's ciphertext learns nothing; encryption keeps the sum from the coordinator. What a
ciphertext is stands in `privacy.ciphertexts`. SEAL runs in a child process of its own
(`privacy.encryption_worker`): this process never imports it, and survives whatever happens there.
"""

from __future__ import annotations

import hmac
import itertools
import secrets
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from privacy.ciphertexts import (
    CIPHERTEXT_BYTES,
    MAX_PARTIES,
    MODULUS,
    SLOTS,
    SUM_BYTES,
    check_ciphertexts,
    check_sums,
)
from privacy.encryption_process import Children, Request
from privacy.encryption_worker import BATCH, DIGEST_BYTES, SEED_BYTES
from privacy.errors import ProtocolError

__all__ = [
    "CIPHERTEXT_BYTES",
    "KEY_BYTES",
    "SUM_BYTES",
    "Adder",
    "RunKey",
    "check_ciphertexts",
    "check_sums",
]

KEY_BYTES = SEED_BYTES + DIGEST_BYTES


class RunKey:
    """The parties' shared BFV key of one run: a seed here, the key itself in child processes.

    Only parties hold one. `erase` it when the run ends; the children end with the last reference,
    too, and with this process.
    """

    def __init__(self, seed: bytes) -> None:
        """Use `generate` or `from_bytes`."""
        self._children = Children(seed)
        self._data = seed + self._children.key_digest

    @classmethod
    def generate(cls) -> RunKey:
        """A fresh key from the operating system's randomness."""
        return cls(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def from_bytes(cls, data: bytes) -> RunKey:
        """Read `to_bytes`. The lead that sent it may be hostile: it chooses a seed, nothing else.

        Raises ProtocolError if it is not a key, or makes another key here than at the lead.
        """
        if len(data) != KEY_BYTES:
            raise ProtocolError(f"the run key is not {KEY_BYTES} bytes long")
        key = cls(data[:SEED_BYTES])
        if not hmac.compare_digest(key.to_bytes(), data):
            key.erase()
            raise ProtocolError(
                "the run key is not the lead's here; every organisation must run the same version "
                "of TenSEAL"
            )
        return key

    def to_bytes(self) -> bytes:
        """The key's seed and the SHA-256 of what it makes (KEY_BYTES); sent under a seal only.

        Raises ProtocolError after `erase`.
        """
        if not self._data:
            raise ProtocolError("the run key is erased; start the run again")
        return self._data

    def encrypt(self, residues: Iterable[NDArray[np.int64]]) -> bytes:
        """Encrypt k chunks, each of shape (SLOTS,) with residues in [0, MODULUS): k ciphertexts of
        CIPHERTEXT_BYTES with fresh randomness, one after the other.

        `residues`: an array of shape (k, SLOTS); or an iterator, which is asked for the next chunk
        while the children encrypt. Raises ValueError on another shape or range and ProtocolError
        if a child fails; either way the key is then unusable.
        """
        encrypted = b"".join(self._children.ask(b"E", _plain_batches(residues)))
        check_ciphertexts(encrypted)
        return encrypted

    def decrypt(self, total: bytes) -> NDArray[np.int64]:
        """The residues of k sums, shape (k, SLOTS), each in [0, MODULUS).

        A sum that was altered in a coefficient opens as other residues: the parties' MAC finds it
        (`privacy.sum_mac`). Raises ProtocolError on a malformed one, or if a child fails.
        """
        check_sums(total)
        opened = b"".join(self._children.ask(b"D", _batches([total], SUM_BYTES)))
        residues = np.frombuffer(opened, dtype="<i8").astype(np.int64)
        if residues.min() < 0 or residues.max() >= MODULUS:
            raise ProtocolError("a sum opens as something else than residues; start the run again")
        return residues.reshape(-1, SLOTS)

    def erase(self) -> None:
        """End the children and the key with them. Any later use raises ProtocolError."""
        self._data = b""
        self._children.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.erase()


class Adder:
    """Adds the members' ciphertexts. Its children know parameters, never a key."""

    def __init__(self) -> None:
        self._children = Children()

    def add(self, contributions: Sequence[bytes]) -> bytes:
        """The encrypted sums of k ciphertexts from each of 1 to MAX_PARTIES members.

        Only the sums and a few batches of contributions are copied. Raises ProtocolError if members
        sent different numbers of ciphertexts, none, or malformed ones, or if a child fails.
        """
        counts = {check_ciphertexts(one) for one in contributions}
        if len(counts) != 1 or len(contributions) > MAX_PARTIES:
            raise ProtocolError(
                f"a sum is over 1 to {MAX_PARTIES} members with one number of ciphertexts each"
            )
        total = b"".join(self._children.ask(b"A", _batches(contributions, CIPHERTEXT_BYTES)))
        check_sums(total)
        return total

    def child_pids(self) -> list[int]:
        """The process ids of the children, for measuring them."""
        return self._children.pids

    def close(self) -> None:
        """End the children. Any later use raises ProtocolError."""
        self._children.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _plain_batches(residues: Iterable[NDArray[np.int64]]) -> Iterator[Request]:
    rows = iter(residues)
    while batch := list(itertools.islice(rows, BATCH)):
        for row in batch:
            if row.shape != (SLOTS,):
                raise ValueError(f"a chunk must have shape ({SLOTS},)")
            if row.min() < 0 or row.max() >= MODULUS:
                raise ValueError("a residue is outside [0, MODULUS)")
        yield len(batch), [b"".join(row.astype("<i8").tobytes() for row in batch)]


def _batches(parts: Sequence[bytes], size: int) -> Iterator[Request]:
    """The same BATCH ciphertexts, of `size` bytes each, of every part; all parts are alike."""
    views = [memoryview(part) for part in parts]
    for start in range(0, len(parts[0]), BATCH * size):
        batch = [view[start : start + BATCH * size] for view in views]
        yield len(batch[0]) // size, batch
