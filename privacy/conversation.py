"""One pair's exchanges in one run: numbered, chained and signed, seen from either side.

Invariant: `transcript` is the hash of every frame of this pair in this run, in order, and
`sequence` the number of exchanges begun; a frame that does not extend both is refused.
"""

from __future__ import annotations

from typing import TypeVar

from privacy.errors import ProtocolError
from privacy.identity import SigningKey
from privacy.messages import (
    EMPTY_TRANSCRIPT,
    VERSION,
    Abort,
    Body,
    Envelope,
    Header,
    body_of,
    extend_transcript,
    read,
    seal,
)

BodyT = TypeVar("BodyT", bound=Body)


class Conversation:
    """The coordinator's (asker) or a party's (answerer) side of one pair in one run."""

    def __init__(
        self,
        me: str,
        key: SigningKey,
        peer: str,
        peer_public: bytes,
        run: str,
        plan: bytes,
        manifest: bytes,
    ) -> None:
        self.me, self.peer = me, peer
        self.run, self.plan = run, plan
        self.manifest = manifest
        self.transcript = EMPTY_TRANSCRIPT
        self.sequence = 0
        self._key, self._peer_public = key, peer_public

    def say(self, body: Body, round_number: int, *, begins: bool) -> bytes:
        """The next frame. `begins`: this frame begins an exchange (the coordinator's side)."""
        if begins:
            self.sequence += 1
        header = Header(
            version=VERSION,
            manifest=self.manifest,
            plan=self.plan,
            run=self.run,
            round=round_number,
            attempt=1,
            sender=self.me,
            recipient=self.peer,
            sequence=self.sequence,
            previous=self.transcript,
        )
        frame = seal(header, body, self._key)
        self.transcript = extend_transcript(self.transcript, frame)
        return frame

    def hear(
        self,
        frame: bytes,
        expected: type[BodyT],
        round_number: int,
        *,
        begins: bool,
        manifest: bytes | None = None,
    ) -> BodyT:
        """The body of the peer's next frame; `manifest` replaces the conversation's if it fits.

        Raises SignatureError or ProtocolError, and changes nothing, if it is not the one frame
        that may come now.
        """
        envelope = read(frame, self._peer_public, expected.max_bytes)
        wanted = self.sequence + (1 if begins else 0)
        cohort = self.manifest if manifest is None else manifest
        self._check(envelope, round_number, wanted, cohort)
        body = body_of(envelope, expected)
        self.manifest = cohort
        self.sequence = wanted
        self.transcript = extend_transcript(self.transcript, frame)
        return body

    def hear_abort(self, frame: bytes) -> str:
        """The reason of a later Abort in this run. It may come at any point, also after a reply
        was lost, so it need not extend the transcript; it can only end things."""
        envelope = read(frame, self._peer_public)
        later = envelope.sequence > self.sequence
        if (envelope.run, envelope.recipient) != (self.run, self.me) or not later:
            raise ProtocolError("an abort is not for this run")
        return body_of(envelope, Abort).reason

    def _check(self, envelope: Envelope, round_number: int, sequence: int, manifest: bytes) -> None:
        expected = {
            "manifest": manifest,
            "plan": self.plan,
            "run": self.run,
            "round": round_number,
            "attempt": 1,
            "sender": self.peer,
            "recipient": self.me,
            "sequence": sequence,
            "previous": self.transcript,
        }
        for field, value in expected.items():
            if getattr(envelope, field) != value:
                raise ProtocolError(f"a message's {field} is not the one expected at this point")
