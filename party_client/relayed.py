"""What other members said, as the coordinator relays it: each one's signed reply, and it fits.

The coordinator relays every member's reply to the exchange before, without its attachment. What is
missing, altered, from another exchange, or from another set of participants than this party knows,
means that somebody was told something else: the run ends here, with its keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from privacy.errors import IntegrityError, ProtocolError
from privacy.framing import body_of, read_statement
from privacy.messages import Body, Envelope, manifest_hash

BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True)
class Exchange:
    """What all replies to one message have in common. `participants`: names and public keys of
    whoever was asked; `manifest`: the hash that their headers show, the participants' own unless
    they answered a proposal."""

    run: str
    plan: bytes
    epoch: int
    round: int
    attempt: int
    participants: Mapping[str, bytes]
    manifest: bytes

    def replies(
        self, frames: Mapping[str, bytes], expected: type[BodyT], me: str, sent: bytes
    ) -> dict[str, BodyT]:
        """Every participant's reply to this exchange, read from its statement.

        `sent` is this party's own one. Raises IntegrityError unless exactly the participants'
        statements are here, each signed by its sender, of this exchange, and ours as we sent it.
        """
        if set(frames) != set(self.participants):
            raise IntegrityError(
                "the relayed replies are not those of exactly the participants; the keys are "
                "erased and the run ends here"
            )
        if frames[me] != sent:
            raise IntegrityError(
                "this party's own reply came back other than it was sent; the keys are erased and "
                "the run ends here"
            )
        return {party: self._reply(party, frames[party], expected) for party in sorted(frames)}

    def _reply(self, party: str, statement: bytes, expected: type[BodyT]) -> BodyT:
        try:
            said = read_statement(statement, self.participants[party], expected)
            self._check(said.envelope, party)
            return body_of(said, expected)
        except ProtocolError as error:
            raise IntegrityError(
                f"a relayed reply is not what {party} said in this exchange ({error}); the keys "
                "are erased and the run ends here"
            ) from error

    def _check(self, envelope: Envelope, party: str) -> None:
        expected = {
            "sender": party,
            "run": self.run,
            "plan": self.plan,
            "epoch": self.epoch,
            "round": self.round,
            "attempt": self.attempt,
            "manifest": self.manifest,
        }
        for field, value in expected.items():
            if getattr(envelope, field) != value:
                raise ProtocolError(f"its {field} is another")


def exchange_of(
    header: Envelope, participants: Mapping[str, bytes], manifest: bytes | None = None
) -> Exchange:
    """The exchange that a message with this header began."""
    return Exchange(
        header.run,
        header.plan,
        header.epoch,
        header.round,
        header.attempt,
        dict(participants),
        manifest_hash(participants) if manifest is None else manifest,
    )
