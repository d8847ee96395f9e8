"""Adding ciphertexts. The coordinator holds parameters, never a key, and never sees a sum."""

from __future__ import annotations

from collections.abc import Mapping

from privacy.encryption import add, keyless_context
from privacy.errors import ProtocolError


class Adder:
    """Adds the members' ciphertexts chunk by chunk under one keyless context."""

    def __init__(self) -> None:
        self._context = keyless_context()

    def total(self, contributions: Mapping[str, tuple[bytes, ...]]) -> tuple[bytes, ...]:
        """One encrypted sum a chunk, over exactly the given members.

        Raises ProtocolError if members sent different numbers of chunks, none, or malformed ones.
        """
        if len({len(chunks) for chunks in contributions.values()}) != 1:
            raise ProtocolError("members sent different numbers of ciphertexts")
        ordered = [contributions[party] for party in sorted(contributions)]
        if not ordered[0]:
            raise ProtocolError("members sent no ciphertext")
        return tuple(add(self._context, chunk) for chunk in zip(*ordered, strict=True))
