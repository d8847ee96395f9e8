"""One run at one party: a sequence of messages, each of which may come once, in order.

preflight -> seal keys -> confirm keys -> round 1 .. R -> evaluate -> publish. The ledger's
`intent` is durable before data are touched in a step, `commit` follows the sealed reply. Every
answer about data carries the ledger's head, and every step begins by checking the others' heads.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from models.catalogue import input_width
from models.families import start_parameters
from models.training import (
    delta_code,
    local_update,
    noised_evaluation,
    public_weights,
)
from party_client.admission import PLAN_INVALID, Admission, admit
from party_client.head_exchange import HeadExchange
from party_client.node import Node
from party_client.policy import check_cohort
from party_client.provenance import evaluation_provenance, training_provenance
from party_client.publication import FinishedRun, publish
from party_client.report import write_report
from privacy.conversation import Conversation
from privacy.encryption import MODULUS, SLOTS, RunKey
from privacy.errors import PlanError, PolicyRefusal, ProtocolError
from privacy.key_agreement import (
    agreement_hash,
    check_confirmations,
    confirm,
    lead_of,
    open_run_key,
    pair_keys,
    seal_run_key,
    shared_keys,
)
from privacy.masking import exchange_public
from privacy.messages import (
    Body,
    ConfirmKeys,
    Decision,
    Evaluate,
    EvaluationUpdate,
    KeyConfirm,
    KeySeal,
    Preflight,
    Publish,
    Receipt,
    SealKeys,
    TrainRound,
    Update,
    body_of,
    manifest_hash,
    read,
)
from privacy.packing import pack_counts, pack_fields, unpack_counts, unpack_fields

LOG = logging.getLogger(__name__)
COORDINATOR = "coordinator"
UPDATE, EVALUATION = "update", "evaluation"
BodyT = TypeVar("BodyT", bound=Body)


class Session:
    """A run that this party has accepted. Holds the keys; dropping it drops them.

    Invariant: `stage` names the only message that may come next; `ended` is true once no further
    message is allowed.
    """

    def __init__(
        self,
        node: Node,
        talk: Conversation,
        admission: Admission,
        cohort: Mapping[str, bytes],
        exchange_key: bytes,
    ) -> None:
        self.node, self.talk, self.admission = node, talk, admission
        self.heads = HeadExchange(node, talk.run, cohort)
        self.plan, self.plan_hash = admission.plan, talk.plan
        self.cohort = dict(cohort)
        self.round = 0
        self.applied = 0
        self.round_seconds: list[float] = []
        self.stage: type[Body] = SealKeys
        self._exchange_key = exchange_key
        self.parameters = start_parameters(self.plan.model, input_width(self.plan), self.plan_hash)

    @property
    def run(self) -> str:
        """The run's id."""
        return self.talk.run

    @property
    def ended(self) -> bool:
        """True after publication."""
        return self.stage is Receipt

    def answer(self, frame: bytes) -> bytes:
        """The reply to the one message that may come now. Raises ProtocolError or SignatureError,
        with nothing changed, if `frame` is not that; any other error ends the run here."""
        if self.stage is SealKeys:
            return self._seal_keys(frame)
        if self.stage is ConfirmKeys:
            return self._confirm_keys(frame)
        if self.stage is TrainRound:
            return self._train_round(frame)
        if self.stage is Evaluate:
            return self._evaluate(frame)
        if self.stage is Publish:
            return self._publish(frame)
        raise ProtocolError("this run has ended here")

    # Keys --------------------------------------------------------------------------------------

    def _seal_keys(self, frame: bytes) -> bytes:
        proposed = body_of(read(frame, self.node.coordinator_public), SealKeys).decisions
        if not set(proposed) <= set(self.cohort):
            raise ProtocolError("the final cohort is not part of the one proposed at preflight")
        cohort = {party: self.cohort[party] for party in proposed}
        try:
            check_cohort(self.node.policy, self.plan, cohort, self.node.party)
        except PolicyRefusal as refusal:
            raise ProtocolError(f"the final cohort is not allowed: {refusal}") from refusal
        decisions = {
            party: self._relayed(one, party, Decision, self.talk.manifest)
            for party, one in proposed.items()
        }
        if not all(one.accepted for one in decisions.values()):
            raise ProtocolError("the final cohort holds a party that refused")
        manifest = manifest_hash(cohort)
        self.talk.hear(frame, SealKeys, 0, begins=True, manifest=manifest)
        self.cohort = cohort
        self.heads.meet(decisions)
        sizes = {party: one.public_size for party, one in decisions.items()}
        self.weights = public_weights(self.plan, sizes)
        self.code = delta_code(self.plan, self.weights)
        self.agreement = agreement_hash(manifest, self.plan_hash, self.run, proposed)
        exchange_keys = {party: one.exchange_key for party, one in decisions.items()}
        self.pairs = pair_keys(self.node.party, self._exchange_key, exchange_keys, self.agreement)
        self._exchange_key = b""
        self.lead = lead_of(list(cohort))
        sealed: dict[str, bytes] = {}
        if self.lead == self.node.party:
            self.run_key = RunKey.generate()
            sealed = seal_run_key(self.run_key, self.node.party, self.pairs, self.agreement)
        self.stage = ConfirmKeys
        return self._reply(KeySeal(sealed=sealed))

    def _confirm_keys(self, frame: bytes) -> bytes:
        seals = self.talk.hear(frame, ConfirmKeys, 0, begins=True).seals
        sealed = self._relayed(seals.get(self.lead, b""), self.lead, KeySeal, self.talk.manifest)
        if self.lead != self.node.party:
            self.run_key = open_run_key(
                sealed.sealed, self.node.party, self.lead, self.pairs, self.agreement
            )
        self.keys = shared_keys(self.node.party, self.run, self.pairs, self.run_key, self.agreement)
        self.stage = TrainRound
        return self._reply(KeyConfirm(tag=confirm(self.run_key, self.agreement, self.node.party)))

    def _check_confirmations(self, frames: Mapping[str, bytes]) -> None:
        tags = {
            party: self._relayed(frames.get(party, b""), party, KeyConfirm, self.talk.manifest).tag
            for party in self.cohort
        }
        check_confirmations(self.run_key, self.agreement, list(self.cohort), tags)

    def _relayed(self, frame: bytes, party: str, expected: type[BodyT], manifest: bytes) -> BodyT:
        """Another member's signed message of this run, relayed by the coordinator."""
        envelope = read(frame, self.cohort[party])
        bound = (envelope.run, envelope.plan, envelope.sender, envelope.manifest)
        if bound != (self.run, self.plan_hash, party, manifest):
            raise ProtocolError("a relayed message is not of this run and member")
        return body_of(envelope, expected)

    # Rounds ------------------------------------------------------------------------------------

    def _train_round(self, frame: bytes) -> bytes:
        started = time.monotonic()
        number = self.round + 1
        body = self.talk.hear(frame, TrainRound, number, begins=True)
        self.round = number
        if number == 1:
            self._check_confirmations(body.confirmations)
        else:
            self.heads.follow(body.heads, number - 1)
            self._apply(body.total)
        mechanism = self.admission.terms.round_mechanism
        ran = training_provenance(self.admission, self.cohort)
        self.node.ledger.intent(self.run, number, mechanism, ran)
        values = local_update(
            self.plan,
            self.plan_hash,
            self.admission.terms,
            self.parameters,
            self.admission.training,
            self.code,
            self.weights[self.node.party],
            number,
            self.node.entropy,
        )
        ciphertexts = self.keys.protect(pack_fields(values, SLOTS), UPDATE, number)
        if number == self.plan.training.rounds:
            self.stage = Evaluate
        reply = self._reply(Update(ciphertexts=ciphertexts, ledger_head=self.heads.sign(number)))
        self.node.ledger.commit(self.run, round_number=number)
        self.round_seconds.append(time.monotonic() - started)
        return reply

    def _apply(self, total: tuple[bytes, ...]) -> None:
        """Add the previous round's weighted sum of model deltas to the model."""
        chunks = -(-self.parameters.size // (2 * SLOTS))
        opened = self.keys.open_total(total, chunks, UPDATE, self.applied + 1)
        self.applied += 1
        values = unpack_fields(opened, self.parameters.size)
        self.parameters = self.parameters + self.code.dequantise(values, len(self.cohort))

    def _evaluate(self, frame: bytes) -> bytes:
        body = self.talk.hear(frame, Evaluate, 0, begins=True)
        self.heads.follow(body.heads, self.round)
        self._apply(body.total)
        terms = self.admission.terms
        ran = evaluation_provenance(self.admission, self.cohort)
        self.node.ledger.intent(self.run, 0, terms.evaluation, ran)
        counts = noised_evaluation(
            self.plan,
            terms,
            self.parameters,
            self.admission.held_out,
            self.node.entropy,
        )
        ciphertexts = self.keys.protect(pack_counts(counts, SLOTS, MODULUS), EVALUATION, 0)
        self.stage = Publish
        head = self.heads.sign(self.round + 1)
        reply = self._reply(EvaluationUpdate(ciphertexts=ciphertexts, ledger_head=head))
        self.node.ledger.commit(self.run, round_number=0)
        return reply

    def _publish(self, frame: bytes) -> bytes:
        body = self.talk.hear(frame, Publish, 0, begins=True)
        self.heads.follow(body.heads, self.round + 1)
        cells = 2 * self.plan.evaluation.bins
        opened = self.keys.open_total(body.total, -(-cells // SLOTS), EVALUATION, 0)
        evaluation = unpack_counts(opened, cells, MODULUS)
        finished = FinishedRun(
            self.run, self.admission, tuple(sorted(self.cohort)), self.parameters, evaluation
        )
        written = publish(self.node, finished)
        self.node.ledger.close(self.run, outcome="finished")
        write_report(self.node, finished, written, self.round_seconds)
        self.stage = Receipt
        counts, head = tuple(int(one) for one in evaluation), self.heads.sign(self.round + 2)
        return self._reply(Receipt(evaluation=counts, ledger_head=head))

    def _reply(self, body: Body) -> bytes:
        return self.talk.say(body, self.round if isinstance(body, Update) else 0, begins=False)


def begin(
    node: Node, frame: bytes, end_earlier: Callable[[], None]
) -> tuple[Session | None, bytes]:
    """Answer a preflight: a session and an accepting Decision, or None and a refusing one.

    `end_earlier` ends an unfinished run; see `admit` for when.

    Raises ProtocolError or SignatureError for anything that is not a fresh, well-signed preflight
    of the pinned coordinator and requester.
    """
    envelope = read(frame, node.coordinator_public)
    request = body_of(envelope, Preflight)
    talk = Conversation(
        node.party,
        node.key,
        COORDINATOR,
        node.coordinator_public,
        envelope.run,
        hashlib.sha256(request.plan).digest(),
        manifest_hash(request.cohort),
    )
    talk.hear(frame, Preflight, 0, begins=True)
    exchange_key = node.entropy("exchange key")
    reason = ""
    session: Session | None = None
    try:
        admission = admit(node, talk.run, request, end_earlier)
        session = Session(node, talk, admission, request.cohort, exchange_key)
    except PolicyRefusal as refusal:
        reason = refusal.reason
        LOG.warning("run %s refused (%s): %s", talk.run, refusal.reason, refusal)
    except PlanError as error:
        reason = PLAN_INVALID
        LOG.warning("run %s refused (%s): %s", talk.run, reason, error)
    decision = Decision(
        accepted=session is not None,
        reason=reason,
        public_size=node.public_size,
        exchange_key=exchange_public(exchange_key),
        ledger_head=b"" if session is None else session.heads.sign(0),
        known_heads={} if session is None else session.heads.known(),
    )
    return session, talk.say(decision, 0, begins=False)
