"""HOME/peer_heads.json: the newest head of every other member's ledger that this party has seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from party_client.durable_file import replace_durably
from privacy.errors import LedgerError, ProtocolError
from privacy.ledger_heads import SignedHead, read_head

FORMAT = 1


class PeerHeads:
    """The file `path` (mode 0600), read anew at every use and replaced in one durable step.

    Every method raises LedgerError if the file is damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, bytes]:
        """Signed frames by party, not verified; none if there is no file yet."""
        try:
            content = json.loads(self._path.read_bytes())
            if content["format"] != FORMAT:
                raise self._damaged()
            return {str(party): bytes.fromhex(one) for party, one in content["heads"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._damaged() from error

    def of(self, members: Mapping[str, bytes]) -> dict[str, SignedHead]:
        """The heads of these members, each verified under the member's public key."""
        kept = self.read()
        try:
            return {
                party: read_head(kept[party], party, public)
                for party, public in members.items()
                if party in kept
            }
        except ProtocolError as error:
            raise self._damaged() from error

    def keep(self, heads: Iterable[SignedHead]) -> None:
        """Put these in place of their parties' earlier ones; on the disk when this returns."""
        kept = self.read() | {head.party: head.frame for head in heads}
        plain = {"format": FORMAT, "heads": {party: kept[party].hex() for party in sorted(kept)}}
        try:
            replace_durably(self._path, json.dumps(plain, indent=1).encode() + b"\n")
        except OSError as error:
            raise LedgerError(
                f"{self._path} cannot be written ({error.strerror}); check its folder's "
                "permissions and free disk space"
            ) from error

    def _damaged(self) -> LedgerError:
        return LedgerError(
            f"{self._path} is damaged; restore it from backup, or delete it. Deleting it loses "
            "only what this party remembers of its peers' ledgers: a cut that one of them has had "
            "until now is then not noticed here"
        )
