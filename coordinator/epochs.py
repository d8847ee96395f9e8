"""How parties form an epoch, one key agreement of one set: at the start, and again when it changes.

A party that is lost may come back: before a round, or while the run pauses because too few are
left. `Regroup` asks it, and then those present, who open what their old keys still have to open
and erase them. A frame to a lost party is repeated byte for byte while the proposed cohort stays
the same, so one that is slow to answer finds its stored reply.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from coordinator.checkpoints import Answers
from coordinator.exchange import Exchanges
from coordinator.membership import APPROVAL, Membership, preflight_refusals
from privacy.errors import CohortError, ProtocolError, RunError, RunStopped
from privacy.key_agreement import lead_of
from privacy.messages import (
    ConfirmKeys,
    Decision,
    KeyConfirm,
    KeySeal,
    Preflight,
    Regroup,
    SealKeys,
)

# How often a paused run asks those it waits for, and looks at what an operator wishes.
ASK_AGAIN_S = 15.0
LOOK_S = 0.5


@dataclass(frozen=True)
class Carried:
    """What the next message brings to all members: their signed replies to the one before, and
    the encrypted sum that is not opened yet, or word that it never can be (`lost`).

    `of_round`: the sum is a round's. A new epoch cannot open any other one, and needs none.
    """

    replies: dict[str, bytes] = field(default_factory=dict)
    total: bytes = b""
    lost: bool = False
    of_round: bool = False


@dataclass
class _Call:
    """A cohort proposed for the next epoch, the signed decisions of those who accepted, and the
    frames, with what they carry (`totals`), of those who have not answered yet."""

    epoch: int
    cohort: dict[str, bytes]
    frames: dict[str, bytes] = field(default_factory=dict)
    decisions: dict[str, bytes] = field(default_factory=dict)
    totals: list[bytes] = field(default_factory=list)


class Epochs:
    """Forms epochs and knows what they carry over.

    `openers`: the parties of the newest round's sum, and `newest` that sum with what opens it.
    `carried` is to keep between two exchanges; who sends a message says what the next one carries.
    `lost`: the newest round whose sum can never be opened, 0 if there is none.
    """

    def __init__(self, exchanges: Exchanges, members: Membership) -> None:
        self._exchanges, self._members = exchanges, members
        self._plan, self._request = exchanges.plan, exchanges.request
        self.carried = Carried()
        self.newest = Carried()
        self.openers: frozenset[str] = frozenset()
        self.lost = 0
        self._gives_up = False  # this epoch's first round has to say that the one before is lost
        self._epoch = 0
        self._call: _Call | None = None
        self._decisions: dict[str, bytes] = {}
        self._until: datetime | None = None
        exchanges.carried = self._attachments
        self._waits_for: list[str] = []

    def preflight(self) -> dict[str, str]:
        """Ask everyone; returns the reasons of those who refused. Raises CohortError or
        PartyTimeout if fewer than the plan's minimum accept: nothing is spent yet, so the run
        does not wait."""
        members = self._members
        self._exchanges.enter("preflight")
        call = self._propose(members.present)
        self._exchanges.begin(members.present, call.epoch, call.cohort)
        body = Preflight(**self._proposal(call))
        with self._exchanges.ask(members.present, body, 0) as answers:
            bodies, statements = self._decided(answers, 0)
        members.lose(answers.vanished, answers.refused, self._exchanges.where)
        refused = {party: one.reason for party, one in bodies.items() if not one.accepted}
        members.drop(refused)
        self._exchanges.forget(refused)
        members.decisions.update(bodies)
        self._decisions = {party: statements[party] for party in members.present}
        self._call = None
        if not members.enough:
            if refused and not members.absent:
                raise _refused_plan(len(members.present), self._plan.cohort.minimum, refused)
            raise members.shortage()
        return refused

    def agree(self, number: int) -> bool:
        """Keys among those who accepted: seals, then confirmations, which are carried on.

        `number`: the round that waits for them, 0 if none. False if someone was lost meanwhile.
        """
        exchanges, members = self._exchanges, self._members
        exchanges.enter("keys", number)
        exchanges.narrow(members.present)
        self._call, self._waits_for = None, []
        with exchanges.ask(members.present, SealKeys(replies=self._decisions), 0) as answers:
            bodies, seals = exchanges.hear(answers, KeySeal, 0)
            model = b""
            if answers.complete:
                applied = {party: members.decisions[party].applied for party in bodies}
                model = answers.keep(lambda: bodies[lead_of(applied)].model)
        if not self._kept(answers):
            return False
        body = ConfirmKeys(replies=seals, model=model)
        with exchanges.ask(members.present, body, 0) as answers:
            _, confirmations = exchanges.hear(answers, KeyConfirm, 0)
        self.carried = Carried(confirmations, lost=self._gives_up)
        return self._kept(answers)

    def readmit(self, summed: int) -> int | None:
        """Ask the lost, before a round; if one comes back, have all accept a new epoch.

        `summed`: rounds with a sum, opened or not. Returns as `gather`; None if nobody came back.
        """
        if not self._members.absent or not summed:
            return None
        back = self._ask_lost(summed).decisions
        if not set(back) & set(self._members.willing({*self._members.present, *back})):
            return None
        held = self._recall(summed)
        return self.gather(summed) if held is None else held

    def gather(self, summed: int) -> int:
        """Have enough parties accept a new epoch, and wait for them, paused, if there are too few.

        Returns the rounds that the new epoch's models hold: `summed`, or one less if nobody could
        open the last sum. Raises CohortError or PartyTimeout if too few are left or time is over,
        RunStopped if an operator wishes so.
        """
        held = None
        if self._members.enough:
            self._call = None
            self._propose((*self._members.present, *self._members.absent))
            held = self._recall(summed)
        while held is None:
            self._members.check_hope()
            call = self._ask_lost(summed)
            if self._members.willing({*self._members.present, *call.decisions}):
                held = self._recall(summed)
            if held is None:
                self._members.check_hope()
                self._check_model(call)
                self._wait()
        return held

    def stand(self) -> None:
        """A sum stands: what went before, refusals and waiting, is over."""
        self._members.stand()
        self._until = None

    def _propose(self, parties: tuple[str, ...]) -> _Call:
        """The call to a new epoch of `parties`; the same one again while it is open."""
        cohort = {party: self._request.members[party] for party in sorted(parties)}
        if self._call is None or self._call.cohort != cohort:
            self._epoch += 1
            self._call = _Call(self._epoch, cohort)
        return self._call

    def _proposal(self, call: _Call) -> dict[str, Any]:
        return {
            "plan": self._request.plan_source,
            "requester": self._request.requester_public,
            "requester_signature": self._request.requester_signature,
            "cohort": call.cohort,
        }

    def _regroup(self, call: _Call, brings: Carried) -> Regroup:
        return Regroup(**self._proposal(call), replies=brings.replies, total=brings.total)

    def _ask_lost(self, summed: int) -> _Call:
        """Ask the lost who have not answered this call yet; one that refuses is out for good."""
        exchanges, members = self._exchanges, self._members
        call = self._propose((*members.present, *members.absent))
        fresh = [one for one in members.absent if one not in {*call.frames, *call.decisions}]
        if fresh:
            exchanges.begin(fresh, call.epoch, call.cohort)
            # One that was lost right after its part of the newest sum can open that by itself, and
            # need not take another member's word for the model.
            body = self._regroup(call, self.newest)
            call.frames |= exchanges.say(fresh, body, 0)
            call.totals.append(body.total)
        asked = {one: frame for one, frame in call.frames.items() if one in members.absent}
        if asked:
            with exchanges.ask_lost(asked) as answers:
                self._heard(call, answers, summed)
        return call

    def _recall(self, summed: int) -> int | None:
        """Ask those present, and form the epoch if enough have accepted by now; else None."""
        exchanges, members, call = self._exchanges, self._members, self._call
        assert call is not None
        if members.present:
            exchanges.begin(members.present, call.epoch, call.cohort)
            body = self._regroup(call, self.carried if self.carried.of_round else Carried())
            with exchanges.ask(members.present, body, 0) as answers:
                self._heard(call, answers, summed)
            if set(members.present) & set(call.decisions):
                self.carried = Carried()
        self._call = None  # asked in this epoch, those present are asked in another one next time
        chosen = members.willing(call.decisions)
        held = members.rounds_held(chosen)
        behind = held == summed - 1
        self._gives_up = behind and self.lost == summed
        again = behind and not self.openers & set(members.absent) - set(chosen)
        if not chosen or not (held == summed or again or self._gives_up):
            return None
        members.proposed = len(call.cohort)
        members.form(chosen, exchanges.where)
        self._decisions = {party: call.decisions[party] for party in members.present}
        return summed if self._gives_up else held

    def _check_model(self, call: _Call) -> None:
        """Raise RunError if everyone is there and nobody holds the model any more."""
        members = self._members
        if set(members.absent) <= set(call.decisions) and members.willing(call.decisions):
            raise RunError(
                "every party that held this run's model has lost it in a restart; rounds that had "
                "begun stay spent at the parties, submit the plan again"
            )

    def _heard(self, call: _Call, answers: Answers, summed: int) -> None:
        bodies, statements = self._decided(answers, summed)
        members, where = self._members, self._exchanges.where
        for party, one in bodies.items():
            call.frames.pop(party, None)
            if not one.accepted:
                members.expel(party, where)
                self._exchanges.forget([party])
                continue
            members.decisions[party] = one
            call.decisions[party] = statements[party]
        for party in answers.refused:
            members.expel(party, where)
        present = [party for party in answers.vanished if party in members.present]
        members.lose(present, (), where)

    def _decided(
        self, answers: Answers, summed: int
    ) -> tuple[dict[str, Decision], dict[str, bytes]]:
        """Decisions and statements. Raises ProtocolError for one that claims too much: whoever
        holds the most rounds hands its model to the others."""
        bodies, statements = self._exchanges.hear(answers, Decision, 0)
        for party, one in bodies.items():
            if one.applied > summed:
                raise ProtocolError(f"{party} claims a model of more rounds than there were")
        return bodies, statements

    def _kept(self, answers: Answers) -> bool:
        self._members.lose(answers.vanished, answers.refused, self._exchanges.where)
        return answers.complete

    def _attachments(self) -> Iterable[bytes]:
        """What later messages may still bring."""
        called = () if self._call is None else self._call.totals
        return (self.carried.total, self.newest.total, *called)

    def _wait(self) -> None:
        """Pause until it is time to ask again, or an operator wishes it."""
        recorder, members = self._exchanges.recorder, self._members
        exchanges = self._exchanges
        if self._until is None:
            wait = timedelta(minutes=self._plan.cohort.pause_minutes)
            self._until = exchanges.moment(lambda: datetime.now(UTC) + wait)
        # A run that was taken up asks once more, whatever the time: nobody asked meanwhile.
        at_once = exchanges.pending or exchanges.resumed
        if datetime.now(UTC) >= self._until and not at_once:
            raise members.shortage()
        if self._waits_for != sorted(members.absent):
            self._waits_for = sorted(members.absent)
            recorder.pause(self._waits_for, self._until)
        if at_once:
            return
        ask_again = time.monotonic() + ASK_AGAIN_S
        while time.monotonic() < ask_again and datetime.now(UTC) < self._until:
            if recorder.stop_requested():
                raise RunStopped("an operator stopped the run while it was paused")
            if recorder.resume_requested():
                return
            time.sleep(LOOK_S)


def _refused_plan(accepted: int, minimum: int, refused: Mapping[str, str]) -> CohortError:
    """A plan that only waits for people needs no change, so none is proposed then."""
    said = ". ".join(preflight_refusals(refused))
    error = f"{accepted} parties accepted, the plan's cohort.minimum is {minimum}; {said}"
    if set(refused.values()) != {APPROVAL}:
        error += ". Ask the parties that refused, change the plan, or lower cohort.minimum"
    return CohortError(error)
