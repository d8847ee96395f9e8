"""Adding ciphertexts. The coordinator holds parameters, never a key, and never sees a sum."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from privacy import encryption
from privacy.errors import ProtocolError


class Adder:
    """Adds the members' ciphertexts in a child process without a key (`privacy.encryption`).

    The child starts with the first sum. After a failure the next sum has a new one: bytes that end
    it cost one sum, never the coordinator.
    """

    def __init__(self) -> None:
        self._child: encryption.Adder | None = None

    def total(self, contributions: Mapping[str, bytes]) -> bytes:
        """The encrypted sums of exactly the given members' ciphertexts, one after the other.

        Raises ProtocolError if members sent different numbers of bytes, none, or something that is
        no ciphertext, which names the member where its form alone tells; or if the child fails.
        """
        if len({len(one) for one in contributions.values()}) != 1:
            raise ProtocolError("members sent different numbers of ciphertexts")
        for party, contribution in sorted(contributions.items()):
            try:
                encryption.check_ciphertexts(contribution)
            except ProtocolError as error:
                raise ProtocolError(f"{party}: {error}") from error
        self._child = self._child or encryption.Adder()
        try:
            return self._child.add([contributions[party] for party in sorted(contributions)])
        except ProtocolError:
            self.close()
            raise

    def child_pids(self) -> list[int]:
        """The process ids of the children, for measuring them."""
        return [] if self._child is None else self._child.child_pids()

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.close()
        self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
