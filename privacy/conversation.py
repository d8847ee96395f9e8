"""One pair's exchanges in one epoch of a run: numbered, chained and signed, seen from either side.

Invariant: `transcript` is the hash of every frame of this pair in this epoch, in order, and
`sequence` the number of exchanges begun; a frame that does not extend both is refused. A later
epoch has a conversation of its own.
"""

from __future__ import annotations

from typing import TypeVar

from privacy.errors import ProtocolError
from privacy.framing import (
    EMPTY_TRANSCRIPT,
    Attached,
    Received,
    body_of,
    extend_transcript,
    frame_digest,
    read,
    read_statement,
    seal,
)
from privacy.identity import SigningKey
from privacy.messages import VERSION, Abort, Body, Header

BodyT = TypeVar("BodyT", bound=Body)


class Conversation:
    """The coordinator's (asker) or a party's (answerer) side of one pair in one epoch."""

    def __init__(
        self,
        me: str,
        key: SigningKey,
        peer: str,
        peer_public: bytes,
        run: str,
        plan: bytes,
        manifest: bytes,
        epoch: int = 1,
    ) -> None:
        self.me, self.peer = me, peer
        self.run, self.plan = run, plan
        self.manifest = manifest
        self.epoch = epoch
        self.transcript = EMPTY_TRANSCRIPT
        self.sequence = 0
        self._key, self._peer_public = key, peer_public

    def say(
        self,
        body: Body,
        round_number: int,
        *,
        attempt: int = 1,
        begins: bool,
        attached: Attached | None = None,
    ) -> bytes:
        """The next frame. `begins`: this frame begins an exchange (the coordinator's side);
        `attached` as in `privacy.framing.seal`."""
        if begins:
            self.sequence += 1
        header = Header(
            version=VERSION,
            manifest=self.manifest,
            plan=self.plan,
            run=self.run,
            epoch=self.epoch,
            round=round_number,
            attempt=attempt,
            sender=self.me,
            recipient=self.peer,
            sequence=self.sequence,
            previous=self.transcript,
        )
        frame = seal(header, body, self._key, attached)
        self.transcript = extend_transcript(self.transcript, frame_digest(frame))
        return frame

    def receive(self, frame: bytes, *types: type[Body]) -> Received:
        """The peer's frame, verified and parsed, but not yet taken into the conversation.

        Raises SignatureError or ProtocolError.
        """
        return read(frame, self._peer_public, *types)

    def receive_again(self, statement: bytes, *types: type[Body]) -> Received:
        """As `receive`, of a frame of which only the statement was kept."""
        return read_statement(statement, self._peer_public, *types)

    def hear(
        self,
        received: Received,
        expected: type[BodyT],
        round_number: int,
        *,
        attempt: int = 1,
        begins: bool,
        manifest: bytes | None = None,
    ) -> BodyT:
        """The body of the peer's next frame; `manifest` replaces the conversation's if it fits.

        Raises ProtocolError, and changes nothing, if it is not the one frame that may come now.
        """
        wanted = self.sequence + (1 if begins else 0)
        cohort = self.manifest if manifest is None else manifest
        bound = {"round": round_number, "attempt": attempt, "sequence": wanted, "manifest": cohort}
        self._check(received, bound)
        body = body_of(received, expected)
        self.manifest = cohort
        self.sequence = wanted
        self.transcript = extend_transcript(self.transcript, received.digest)
        return body

    def hear_abort(self, received: Received) -> str:
        """The reason of a later Abort in this run. It may come at any point, also after a reply
        was lost, so it need not extend the transcript; it can only end things."""
        envelope = received.envelope
        later = (envelope.epoch, envelope.sequence) > (self.epoch, self.sequence)
        if (envelope.run, envelope.recipient) != (self.run, self.me) or not later:
            raise ProtocolError("an abort is not for this run")
        return body_of(received, Abort).reason

    def _check(self, received: Received, bound: dict[str, object]) -> None:
        expected = {
            **bound,
            "plan": self.plan,
            "run": self.run,
            "epoch": self.epoch,
            "sender": self.peer,
            "recipient": self.me,
            "previous": self.transcript,
        }
        for field, value in expected.items():
            if getattr(received.envelope, field) != value:
                raise ProtocolError(f"a message's {field} is not the one expected at this point")
