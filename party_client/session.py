"""One run at one party: which message may come next, and what each one changes.

    decision -> seal keys -> confirm keys -> [weigh] -> round 1 .. R -> evaluate -> open -> publish

A sum (weigh, a round, evaluate) may be asked for again, of fewer participants and with a higher
attempt: the same values, fresh masks. A regroup begins a later epoch at any point before the
evaluation is opened: new keys, perhaps of other members, on the model that has been agreed so far.

The ledger's `intent` is durable before data are touched, its `commit` before anything is protected.
Every step begins by checking what the other members said (`party_client.relayed`).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from party_client.admission import Admission, check_proposal
from party_client.draws import Draws
from party_client.key_stage import KeyStage
from party_client.learned import Learned
from party_client.ledger_words import TWO_PARTY
from party_client.node import Node
from party_client.policy import check_cohort
from party_client.publication import FinishedRun, keep_model, publish
from party_client.relayed import Exchange, exchange_of
from party_client.report import RunRecord, write_report
from party_client.sum_stage import EVALUATION, UPDATE, WEIGHTS, SumStage
from party_client.turns import Turn
from privacy.conversation import Conversation
from privacy.errors import PolicyRefusal, ProtocolError
from privacy.framing import Received, body_of, statement_of
from privacy.ledger_state import EVALUATION_ROUND, WEIGHTS_ROUND
from privacy.masking import SumLabel
from privacy.messages import (
    Body,
    ConfirmKeys,
    Envelope,
    Evaluate,
    EvaluationOpened,
    EvaluationUpdate,
    OpenEvaluation,
    Publish,
    Receipt,
    Regroup,
    SealKeys,
    TrainRound,
    Unmask,
    Unmasked,
    Update,
    Weigh,
    WeightUpdate,
    manifest_hash,
)
from privacy.packing import pack_counts, pack_fields, unpack_counts

LOG = logging.getLogger(__name__)
COORDINATOR = "coordinator"


class Session:
    """A run that this party has accepted. Holds the keys; `erase` drops them.

    Invariant: `expected` names the types that may come next, besides a regroup.
    """

    def __init__(
        self, node: Node, admission: Admission, stage: KeyStage, record: RunRecord
    ) -> None:
        """`stage` has not decided yet."""
        self.node, self.admission, self.stage, self.record = node, admission, stage, record
        self.plan = admission.plan
        self.rounds = self.plan.training.rounds
        self.expected: tuple[type[Body], ...] = (SealKeys,)
        self.learned = Learned(self.plan, stage.talk.plan, node.party)
        self.draws = Draws(node, self.run, admission)
        self.participants = dict(stage.members)
        self._proposed = dict(stage.members)
        self._sums: SumStage | None = None
        self._sent = b""  # the statement of this party's last reply about a sum
        self._closed = (
            0  # a round whose self-mask was revealed in an epoch before, never asked again
        )
        self._evaluation_unmasked = False

    @property
    def talk(self) -> Conversation:
        """The conversation with the coordinator in this epoch."""
        return self.stage.talk

    @property
    def run(self) -> str:
        """The run's id."""
        return self.talk.run

    @property
    def ended(self) -> bool:
        """True after publication."""
        return not self.expected

    def answer(self, received: Received) -> bytes:
        """The reply to a message of one of the `expected` types.

        Raises ProtocolError, with nothing changed, if it is not the one that may come now, or asks
        for participants whom plan or policy do not allow; any other error ends the run here.
        """
        handlers = {
            SealKeys.kind: self._seal_keys,
            ConfirmKeys.kind: self._confirm_keys,
            Weigh.kind: self._weigh,
            TrainRound.kind: self._train_round,
            Evaluate.kind: self._evaluate,
            Unmask.kind: self._unmask,
            OpenEvaluation.kind: self._open_evaluation,
            Publish.kind: self._publish,
        }
        return handlers[received.envelope.type](received)

    def erase(self) -> None:
        """Drop every key of this run; idempotent."""
        self.stage.erase()

    # Epochs ------------------------------------------------------------------------------------

    def regroup(self, received: Received) -> bytes:
        """Enter a later epoch: open what the last one still has to open, drop its keys, decide.

        A total that is not of the sum that this party answered last is left alone: it was opened
        before, or missed, and then the model is handed over. Errors as of `answer`.
        """
        request = body_of(received, Regroup)
        if received.envelope.epoch <= self.talk.epoch or Publish in self.expected:
            raise ProtocolError("a regroup begins a later epoch, before the evaluation is opened")
        if hashlib.sha256(request.plan).digest() != self.talk.plan:
            raise ProtocolError("a regroup is for another plan than the run's")
        if not self._proposed.items() >= request.cohort.items() and not self.record.returned:
            raise ProtocolError("a regroup's cohort is part of the one proposed at preflight")
        try:
            check_proposal(self.node, self.run, self.plan, request)
        except PolicyRefusal as refusal:
            raise ProtocolError(f"the proposed cohort is not allowed: {refusal}") from refusal
        talk = conversation(self.node, received.envelope, request.cohort)
        talk.hear(received, Regroup, 0, begins=True)
        earlier, self.stage = self.stage, KeyStage(self.node, talk, request.cohort)
        try:
            self._leave_epoch(request)
        finally:
            earlier.erase()
        self.record.epochs = talk.epoch
        self.expected = (SealKeys,)
        return self.stage.decide(received, self.learned.applied)

    def _leave_epoch(self, request: Regroup) -> None:
        sums, self._sums = self._sums, None
        if sums is None or sums.pending is None or sums.pending.tensor != UPDATE:
            return
        if request.total and request.replies.get(self.node.party) == self._sent:
            self._open(sums, request.replies, request.total)
        elif sums.revealed:  # its mask must not come off another sum of the same values
            self._closed = sums.pending.round

    def _seal_keys(self, received: Received) -> bytes:
        members = self._allowed(body_of(received, SealKeys).replies, self.stage.members)
        reply = self.stage.seal(received, members, self.learned.parameters)
        self.expected = (ConfirmKeys,)
        return reply

    def _confirm_keys(self, received: Received) -> bytes:
        stage = self.stage
        reply, parameters = stage.confirm(received, self.learned.parameters)
        assert stage.keys is not None  # they are there once this was answered
        self.learned.enter(stage.sizes, parameters, stage.applied[stage.lead])
        self.draws.forget(self.learned.applied)
        self.participants = dict(stage.members)
        self._sums = SumStage(stage.keys, stage.heads, self.plan.aggregation.single_opening)
        self.expected = (Weigh, TrainRound, Evaluate)
        return reply

    # Sums --------------------------------------------------------------------------------------

    def _weigh(self, received: Received) -> bytes:
        body, at, sums = body_of(received, Weigh), received.envelope, self._open_sums()
        members = self._allowed(body.members, self.participants)
        self._check_attempt(WEIGHTS_ROUND, at.attempt)
        if not self.learned.noised_weights or sums.revealed:
            raise ProtocolError("no sum of weights may be asked for at this point")
        self._hear_sum(received, Weigh, 0, members)
        if sums.pending is None:
            self.stage.check_confirmations(body.replies)
        chunks = pack_counts(np.array([self.draws.size(members)], dtype=np.int64))
        payload = self._protect(exchange_of(at, members), WEIGHTS, WEIGHTS_ROUND, chunks)
        self.expected = self._next(Weigh, TrainRound, Evaluate)
        return self._reply(WeightUpdate(ciphertexts=payload), at)

    def _train_round(self, received: Received) -> bytes:
        started, at = time.monotonic(), received.envelope
        members = self._begin_sum(received, TrainRound, UPDATE, at.round)
        learned = self.learned
        weight = learned.known_weight()
        values = self.draws.update(at.round, learned.parameters, learned.code, weight, members)
        chunks = pack_fields(values)
        payload = self._protect(exchange_of(at, members), UPDATE, at.round, chunks)
        self.expected = self._next(TrainRound, Evaluate)
        head, opened = self.stage.heads.sign(at.round), self._open_sums().opened
        reply = self._reply(Update(ciphertexts=payload, opened=opened, ledger_head=head), at)
        self.record.round_seconds.append(time.monotonic() - started)
        return reply

    def _evaluate(self, received: Received) -> bytes:
        at = received.envelope
        members = self._begin_sum(received, Evaluate, EVALUATION, EVALUATION_ROUND)
        counts = pack_counts(self.draws.evaluation(self.learned.parameters, members))
        payload = self._protect(exchange_of(at, members), EVALUATION, EVALUATION_ROUND, counts)
        self.expected = self._next(Evaluate, OpenEvaluation)
        head, opened = self.stage.heads.sign(at.round), self._open_sums().opened
        return self._reply(
            EvaluationUpdate(ciphertexts=payload, opened=opened, ledger_head=head), at
        )

    def _unmask(self, received: Received) -> bytes:
        sums, at = self._open_sums(), received.envelope
        label = sums.pending
        if label is None or sums.revealed or (at.round, at.attempt) != (label.round, label.attempt):
            raise ProtocolError("a self-mask is revealed once, for the attempt that was answered")
        body = self.talk.hear(received, Unmask, at.round, attempt=at.attempt, begins=True)
        seed = sums.unmask(body.replies, self.node.party, self._sent)
        final = label.tensor == EVALUATION
        self._evaluation_unmasked |= final
        self.expected = (OpenEvaluation,) if final else (TrainRound, Evaluate)
        return self._reply(Unmasked(seed=seed), at)

    def _begin_sum(
        self, received: Received, kind: type[TrainRound], tensor: str, ledger_round: int
    ) -> dict[str, bytes]:
        """Take TrainRound or Evaluate in and open the sum before it. Returns the participants."""
        body, at, sums = body_of(received, kind), received.envelope, self._open_sums()
        members = self._allowed(body.members, self.participants)
        self._check_attempt(ledger_round, at.attempt)
        learned, pending = self.learned, sums.pending
        weighed = learned.weight is not None
        turn = Turn(
            sums, self.rounds, learned.applied, weighed, self._closed, self._evaluation_unmasked
        )
        turn.check(at, body, tensor)
        again = turn.asks_again(at, tensor)
        self._hear_sum(received, kind, at.round, members)
        if pending is None:
            self.stage.check_confirmations(body.replies)
        elif body.lost and pending.tensor == UPDATE:
            sums.lose()
        elif not again:
            self._open(sums, body.replies, body.total)
        if body.lost and learned.applied + 2 == at.round:
            self._lose()
        return members

    def _hear_sum(
        self, received: Received, kind: type[Body], number: int, members: Mapping[str, bytes]
    ) -> None:
        attempt, manifest = received.envelope.attempt, manifest_hash(members)
        self.talk.hear(received, kind, number, attempt=attempt, begins=True, manifest=manifest)
        self.participants = dict(members)

    def _check_attempt(self, ledger_round: int, attempt: int) -> None:
        attempts = self.node.ledger.state().runs[self.run].attempts
        if attempt <= attempts.get(ledger_round, 0):
            raise ProtocolError("a sum is asked for again with a higher attempt only")

    def _protect(
        self, asked: Exchange, tensor: str, ledger_round: int, chunks: NDArray[np.int64]
    ) -> bytes:
        names = sorted(asked.participants)
        if len(names) <= 2:
            LOG.warning("run %s, round %d: %s", self.run, asked.round, TWO_PARTY)
        self.node.ledger.commit(self.run, ledger_round, asked.attempt, names)
        return self._open_sums().protect(asked, tensor, chunks, self.node.entropy)

    def _open(self, sums: SumStage, replies: Mapping[str, bytes], total: bytes) -> None:
        """Open the sum of the weights, or of a round's updates."""
        label = sums.pending
        assert label is not None  # the caller has checked that a sum waits
        opened = sums.open(replies, total, self.node.party, self._sent)
        if label.tensor == WEIGHTS:
            self.learned.weigh(self.draws.size(label.members), opened)
        else:
            self.learned.add(label, opened)
            self.draws.forget(self.learned.applied)

    def _lose(self) -> None:
        self.learned.lose()
        self.draws.forget(self.learned.applied)

    # The end -----------------------------------------------------------------------------------

    def _open_evaluation(self, received: Received) -> bytes:
        sums, number = self._open_sums(), self.rounds + 2
        body = self.talk.hear(received, OpenEvaluation, number, begins=True)
        opened = sums.open(body.replies, body.total, self.node.party, self._sent)
        self.evaluation = unpack_counts(opened, 2 * self.plan.evaluation.bins)
        self._opening = exchange_of(received.envelope, self.participants)
        self.expected = (Publish,)
        return self._reply(EvaluationOpened(opened=sums.opened), received.envelope)

    def _publish(self, received: Received) -> bytes:
        number, shown = self.rounds + 3, body_of(received, Publish).replies
        members = {party: key for party, key in self.participants.items() if party in shown}
        if self.node.party not in members:
            raise ProtocolError("a publication is for those who opened the evaluation")
        if 2 * len(members) <= len(self.participants):
            raise ProtocolError("an evaluation is told once more than half have opened the same")
        manifest = manifest_hash(members)
        body = self.talk.hear(received, Publish, number, begins=True, manifest=manifest)
        self._check_opened(body.replies, members)
        charged = self.node.ledger.state().runs[self.run].intents
        run = FinishedRun(
            self.run,
            self.admission,
            tuple(sorted(self.learned.contributors | set(self.participants))),
            self.learned.parameters,
            self.evaluation,
            tuple(one.mechanism for one in charged),
        )
        written = publish(self.node, run)
        keep_model(self.node, run)
        self.node.ledger.close(self.run, outcome="finished")
        self.record.participants = tuple(sorted(members))
        self.record.saturated = self.draws.saturated
        write_report(self.node, run, written, self.record)
        self.expected = ()
        counts, head = tuple(int(one) for one in self.evaluation), self.stage.heads.sign(number)
        return self._reply(Receipt(evaluation=counts, ledger_head=head), received.envelope)

    def _check_opened(self, replies: Mapping[str, bytes], members: Mapping[str, bytes]) -> None:
        """All who are left opened one evaluation.

        Whoever vanished after its part was added is missing here. That hides no other model: what
        the last round's sum had made of it was compared before, among all participants. And as more
        than half are left, no other half can have opened the evaluation of another attempt: told
        both, the coordinator would have the counts of whoever is in one of them only.
        """
        me, asked = self.node.party, replace(self._opening, participants=dict(members))
        shown = asked.replies(replies, EvaluationOpened, me, self._sent)
        if len(members) > 1:
            label = SumLabel(asked.round, asked.attempt, EVALUATION, tuple(sorted(members)))
            tags = {party: one.opened for party, one in shown.items()}
            self._open_sums().check_agreed(tags, label)

    # Small parts -------------------------------------------------------------------------------

    def _allowed(self, names: Collection[str], among: Mapping[str, bytes]) -> dict[str, bytes]:
        """These parties and their keys. Raises ProtocolError unless they are `among` those given,
        and plan and policy allow exactly them."""
        if not set(names) <= set(among):
            raise ProtocolError("the participants are not all of those that were agreed before")
        members = {party: among[party] for party in sorted(names)}
        try:
            check_cohort(self.node.policy, self.plan, members, self.node.party)
        except PolicyRefusal as refusal:
            raise ProtocolError(f"these participants are not allowed: {refusal}") from refusal
        return members

    def _open_sums(self) -> SumStage:
        if self._sums is None:
            raise ProtocolError("the keys of this epoch are not confirmed yet")
        return self._sums

    def _next(self, again: type[Body], *following: type[Body]) -> tuple[type[Body], ...]:
        """What may follow an upload: the same sum again, or what opens it."""
        single = self.plan.aggregation.single_opening
        return (again, Unmask) if single else (again, *following)

    def _reply(self, body: Body, at: Envelope) -> bytes:
        frame = self.talk.say(body, at.round, attempt=at.attempt, begins=False)
        self._sent = statement_of(frame)
        return frame


def conversation(node: Node, at: Envelope, cohort: Mapping[str, bytes]) -> Conversation:
    """This party's side of a new epoch, which the message with this header proposes."""
    return Conversation(
        node.party,
        node.key,
        COORDINATOR,
        node.coordinator_public,
        at.run,
        at.plan,
        manifest_hash(cohort),
        at.epoch,
    )
