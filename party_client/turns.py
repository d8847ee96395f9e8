"""Which sum may be asked for next: pure rules, so that a hostile coordinator finds no other way.

A round follows once the sum before it is opened, or lost for good; a sum is asked for again only
while it is not opened, and not once a self-mask of it was revealed.
"""

from __future__ import annotations

from dataclasses import dataclass

from party_client.sum_stage import UPDATE, WEIGHTS, SumStage
from privacy.errors import ProtocolError
from privacy.messages import Envelope, Evaluate, TrainRound


@dataclass(frozen=True)
class Turn:
    """Where a session stands before it takes a TrainRound or Evaluate in.

    `rounds`: of the plan; `applied`: how many the model holds; `weighed`: whether this party's
    weight is known; `closed`: the round, if any, whose self-mask was revealed in an earlier epoch;
    `evaluation_unmasked`: whether its mask of an evaluation was ever revealed.
    """

    sums: SumStage
    rounds: int
    applied: int
    weighed: bool
    closed: int
    evaluation_unmasked: bool

    def asks_again(self, at: Envelope, tensor: str) -> bool:
        """Whether the message is for the sum that is pending, and not for the one after it."""
        pending = self.sums.pending
        return pending is not None and (pending.tensor, pending.round) == (tensor, at.round)

    def check(self, at: Envelope, body: TrainRound, tensor: str) -> None:
        """Raise ProtocolError unless this message may come now."""
        if self.asks_again(at, tensor):
            if body.total or body.lost or self.sums.revealed:
                raise ProtocolError("a sum is asked for again only before any mask comes off it")
            return
        if at.round == self.closed:
            raise ProtocolError("a sum is asked for again only before any mask comes off it")
        self._check_round(at, body)
        self._check_opens(body)
        ready = not self.evaluation_unmasked if isinstance(body, Evaluate) else self._will_weigh()
        if not ready:
            raise ProtocolError("this sum may not be asked for at this point")

    def _check_round(self, at: Envelope, body: TrainRound) -> None:
        numbers = {self.applied + 1 + self._counts()}
        if body.lost:  # of an epoch before, and not counted yet
            numbers.add(self.applied + 2)
        if at.round not in numbers or (at.round == self.rounds + 1) != isinstance(body, Evaluate):
            raise ProtocolError("a message's round is not the one expected at this point")

    def _check_opens(self, body: TrainRound) -> None:
        waits, once = self.sums.pending is not None, self.sums.single_opening
        opens = waits and not (body.lost and self._counts())
        if bool(body.total) != opens or (body.lost and not once):
            raise ProtocolError("a message does not open exactly the sum that waits to be opened")
        if once and waits and not self.sums.revealed:
            raise ProtocolError("a sum is opened once its participants have revealed their masks")

    def _counts(self) -> bool:
        """Whether the pending sum is a round's: the message opens it, or gives it up."""
        return self.sums.pending is not None and self.sums.pending.tensor == UPDATE

    def _will_weigh(self) -> bool:
        pending = self.sums.pending
        return self.weighed or (pending is not None and pending.tensor == WEIGHTS)
