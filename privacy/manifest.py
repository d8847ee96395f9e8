"""A federation's manifest: its name and its members' keys, signed by every one of them.

Each member signs it in every key agreement, so whoever holds all signatures can show, without the
coordinator, that all members knew each other under these keys. It adds to what an operator has
pinned by hand (the pinned keys stay the authority), and replaces nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privacy.errors import SignatureError
from privacy.identity import SigningKey, verify
from privacy.messages import canonical

_DOMAIN = b"fedtags federation manifest 1\0"


@dataclass(frozen=True)
class FederationManifest:
    """`members`: names and 32-byte public keys."""

    federation: str
    members: Mapping[str, bytes]

    def sign(self, key: SigningKey) -> bytes:
        """One member's signature, 64 bytes."""
        return key.sign(self._content())

    def verify(self, signatures: Mapping[str, bytes]) -> None:
        """Raise SignatureError unless exactly the members signed, each under its own key."""
        if set(signatures) != set(self.members):
            raise SignatureError("the manifest is not signed by exactly its members")
        for party in self.members:
            self.verify_one(party, signatures[party])

    def verify_one(self, party: str, signature: bytes) -> None:
        """Raise SignatureError unless this member signed this manifest."""
        try:
            verify(self.members[party], signature, self._content())
        except SignatureError as error:
            raise SignatureError(
                f"{party} has signed another manifest: other members, other keys, or another "
                "federation's name"
            ) from error

    def covers(self, other: FederationManifest) -> bool:
        """Whether all that `other` says stands here, too."""
        return self.federation == other.federation and (
            dict(self.members) == {**self.members, **other.members}
        )

    def _content(self) -> bytes:
        return _DOMAIN + canonical([self.federation, dict(self.members)])
