"""A horizontal run from the coordinator's side: plan to receipts, over any `Channel`.

The coordinator relays signed frames, adds ciphertexts, and checks that everyone said what the
protocol allows. It is no root of trust: parties check each other's signatures themselves.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from coordinator.aggregate import Adder
from coordinator.channel import Channel, Recorder
from models.evaluation import auc_standard_error, histogram_auc, histogram_calibration
from models.plan import Plan, parse_plan
from privacy.accounting import calibrate_release, run_delta
from privacy.conversation import Conversation
from privacy.errors import (
    CohortError,
    FedtagsError,
    PartyTimeout,
    ProtocolError,
    RunStopped,
)
from privacy.identity import SigningKey
from privacy.ledger_heads import read_head
from privacy.messages import (
    REFUSAL,
    Abort,
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
    manifest_hash,
)

COORDINATOR = "coordinator"
ABORT_TIMEOUT_S = 20.0
BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True)
class RunRequest:
    """A signed request for one run. `members`: every enrolled party and its public key."""

    run_id: str
    plan_source: bytes
    requester_public: bytes
    requester_signature: bytes
    members: Mapping[str, bytes]


@dataclass(frozen=True)
class RunOutcome:
    """What the coordinator may know of a finished run; every figure is noised and charged.

    `ledger_heads`: each party's signed head after the run, as its receipt gave it.
    """

    parties: tuple[str, ...]
    refused: Mapping[str, str]
    evaluation: tuple[int, ...]
    auc: float | None
    auc_standard_error: float | None
    calibration: float | None
    ledger_heads: Mapping[str, bytes] = field(default_factory=dict)


def run(
    request: RunRequest, channel: Channel, signer: SigningKey, recorder: Recorder
) -> RunOutcome:
    """Drive one run to its end. Raises PlanError, or a RunError that names phase and party.

    Whatever ends a run early, every party that was asked is told to abort, so that a party
    that has not touched data gives its reservation back.
    """
    plan = parse_plan(request.plan_source)
    conduct = _Conduct(request, plan, channel, signer, recorder)
    try:
        return conduct.run()
    except BaseException as error:
        conduct.abort(error)
        raise


class _Conduct:
    """One run in progress: the conversations with the parties that are still in it."""

    def __init__(
        self,
        request: RunRequest,
        plan: Plan,
        channel: Channel,
        signer: SigningKey,
        recorder: Recorder,
    ) -> None:
        self.request, self.plan = request, plan
        self.channel, self.recorder = channel, recorder
        self.cohort = _proposed(plan, request.members)
        self.phase, self.round = "preflight", 0
        # Each member's ledger head of the exchange before, for all members.
        self.heads: dict[str, bytes] = {}
        manifest = manifest_hash(self.cohort)
        digest = hashlib.sha256(request.plan_source).digest()
        self.talks = {
            party: Conversation(
                COORDINATOR, signer, party, public, request.run_id, digest, manifest
            )
            for party, public in self.cohort.items()
        }
        # Parties that did not answer: an abort would only wait for them again.
        self.missing: set[str] = set()

    def run(self) -> RunOutcome:
        """Preflight, keys, rounds, evaluation, publication."""
        refused = self._preflight()
        seals = self._keys()
        adder = Adder()
        total: tuple[bytes, ...] = ()
        for number in range(1, self.plan.training.rounds + 1):
            self._enter("round", number)
            confirmations = seals if number == 1 else {}
            body = TrainRound(confirmations=confirmations, total=total, heads=self.heads)
            total = self._sum(body, Update, adder)
        self._enter("evaluation", 0)
        total = self._sum(Evaluate(total=total, heads=self.heads), EvaluationUpdate, adder)
        self._enter("publication", 0)
        with self._exchange(Publish(total=total, heads=self.heads)) as replies:
            receipts = {
                party: self._heard(party, frame, Receipt) for party, frame in replies.items()
            }
            last = {party: one.ledger_head for party, one in receipts.items()}
            self._keep_heads(last, self.plan.training.rounds + 2)
        return self._outcome(receipts, refused)

    def abort(self, error: BaseException) -> None:
        """Tell every party that still answers that the run has ended."""
        reason = type(error).__name__ if isinstance(error, FedtagsError) else "InternalError"
        frames = {
            party: talk.say(Abort(reason=reason), 0, begins=True)
            for party, talk in self.talks.items()
            if party not in self.missing and talk.sequence > 0
        }
        if frames:
            self.channel.exchange(frames, ABORT_TIMEOUT_S)

    def _preflight(self) -> dict[str, str]:
        self._enter("preflight", 0)
        body = Preflight(
            plan=self.request.plan_source,
            requester=self.request.requester_public,
            requester_signature=self.request.requester_signature,
            cohort=self.cohort,
        )
        with self._exchange(body) as self.decisions:
            decisions = {
                party: self._heard(party, frame, Decision)
                for party, frame in self.decisions.items()
            }
        self.public_sizes = {party: one.public_size for party, one in decisions.items()}
        refused = {party: one.reason for party, one in decisions.items() if not one.accepted}
        for party in refused:
            self._leave(party)
        if len(self.cohort) < self.plan.cohort.minimum:
            reasons = ", ".join(f"{party} ({reason})" for party, reason in sorted(refused.items()))
            raise CohortError(
                f"{len(self.cohort)} parties accepted, the plan's cohort.minimum is "
                f"{self.plan.cohort.minimum}; refused: {reasons or 'none'}. Ask the parties that "
                "refused, change the plan, or lower cohort.minimum"
            )
        return refused

    def _keys(self) -> dict[str, bytes]:
        """Key seals, then confirmations; returns the signed confirmations for round 1."""
        self._enter("keys", 0)
        for talk in self.talks.values():
            talk.manifest = manifest_hash(self.cohort)
        decisions = {party: self.decisions[party] for party in self.cohort}
        with self._exchange(SealKeys(decisions=decisions)) as seals:
            for party, frame in seals.items():
                self._heard(party, frame, KeySeal)
        with self._exchange(ConfirmKeys(seals=dict(seals))) as confirmations:
            for party, frame in confirmations.items():
                self._heard(party, frame, KeyConfirm)
        return dict(confirmations)

    def _sum(
        self,
        body: TrainRound | Evaluate,
        expected: type[Update] | type[EvaluationUpdate],
        adder: Adder,
    ) -> tuple[bytes, ...]:
        """Everyone's ciphertexts, added."""
        number = self.round or self.plan.training.rounds + 1
        with self._exchange(body) as replies:
            heard = {party: self._heard(party, one, expected) for party, one in replies.items()}
            self._keep_heads({party: one.ledger_head for party, one in heard.items()}, number)
            return adder.total({party: one.ciphertexts for party, one in heard.items()})

    def _keep_heads(self, frames: Mapping[str, bytes], number: int) -> None:
        """Check the members' ledger heads, as each member will, and keep them for the next relay.

        `number` as in `privacy.ledger_heads.SignedHead.round`.
        """
        for party, frame in frames.items():
            head = read_head(frame, party, self.cohort[party])
            if (head.run, head.round) != (self.request.run_id, number):
                raise ProtocolError(f"the ledger head of {party} is not of this run and round")
        self.heads = dict(frames)

    def _outcome(self, receipts: Mapping[str, Receipt], refused: dict[str, str]) -> RunOutcome:
        opened = {one.evaluation for one in receipts.values()}
        if len(opened) != 1:
            raise ProtocolError("the parties' copies of the opened evaluation differ")
        evaluation = opened.pop()
        if len(evaluation) != 2 * self.plan.evaluation.bins:
            raise ProtocolError("the opened evaluation does not have the plan's number of bins")
        counts = np.array(evaluation, dtype=np.int64)
        auc, error = histogram_auc(counts), auc_standard_error(counts, self._noise_deviation())
        calibration = histogram_calibration(counts, self.plan.evaluation.logit_bound)
        if auc is not None:
            self.recorder.metric("auc", auc)
        if error is not None:
            self.recorder.metric("auc_standard_error", error)
        if calibration is not None:
            self.recorder.metric("calibration", calibration)
        parties = tuple(sorted(self.cohort))
        figures = (auc, error, calibration)
        return RunOutcome(parties, refused, evaluation, *figures, ledger_heads=self.heads)

    def _noise_deviation(self) -> float:
        """Standard deviation of the noise in each opened evaluation cell: every party's, added."""
        asked = self.plan.privacy
        variances = [
            calibrate_release(asked.evaluation_epsilon, run_delta(size, asked.delta)) ** 2
            for party, size in self.public_sizes.items()
            if party in self.cohort
        ]
        return math.sqrt(sum(variances))

    def _enter(self, phase: str, number: int) -> None:
        self.phase, self.round = phase, number
        self.recorder.phase(phase, number or None, self.plan.training.rounds)

    def _heard(self, party: str, frame: bytes, expected: type[BodyT]) -> BodyT:
        return self.talks[party].hear(frame, expected, self.round, begins=False)

    @contextmanager
    def _exchange(self, body: Body) -> Iterator[Mapping[str, bytes]]:
        """Say `body` to everyone in the cohort; every one must answer. What the block does with
        the answers belongs to the exchange, and so to its recorded time."""
        if self.recorder.stop_requested():
            raise RunStopped("an operator stopped the run")
        frames = {
            party: talk.say(body, self.round, begins=True) for party, talk in self.talks.items()
        }
        started = time.monotonic()
        replies = self.channel.exchange(frames, self.plan.cohort.timeout_seconds)
        self._check_answers(frames, replies)
        yield replies
        self.recorder.exchange(
            self.phase,
            self.round or None,
            time.monotonic() - started,
            {party: len(frame) for party, frame in replies.items()},
            {party: len(frame) for party, frame in frames.items()},
        )

    def _check_answers(self, frames: Mapping[str, bytes], replies: Mapping[str, bytes]) -> None:
        """Raise CohortError or PartyTimeout unless everyone answered and nobody refused."""
        missing = sorted(set(frames) - set(replies))
        refused = sorted(party for party, frame in replies.items() if frame == REFUSAL)
        self.missing.update(missing)
        where = self.phase + (f" {self.round}" if self.round else "")
        if refused:
            raise CohortError(
                f"{', '.join(refused)} refused a message in phase {where}; the reason is in that "
                "party's own log. The run has ended; rounds that had begun stay spent there, and "
                "the rest of what was reserved is free again"
            )
        if missing:
            raise PartyTimeout(
                f"{', '.join(missing)} did not answer in phase {where} (the plan's "
                f"cohort.timeout_seconds is {self.plan.cohort.timeout_seconds}). Check there that "
                "the node is running (fedtags-party status) and of this version (logs/relay.log), "
                "then submit again"
            )

    def _leave(self, party: str) -> None:
        del self.talks[party]
        del self.cohort[party]


def _proposed(plan: Plan, members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The plan's parties, or all members. Raises CohortError if they are too few or unknown."""
    unknown = sorted(set(plan.cohort.parties) - set(members))
    if unknown:
        raise CohortError(
            f"the plan's cohort.parties names {', '.join(unknown)}, not enrolled here; invite "
            "them (fedtags-coordinator party invite NAME) or correct the plan"
        )
    wanted = plan.cohort.parties or tuple(members)
    if len(wanted) < plan.cohort.minimum:
        raise CohortError(
            f"{len(wanted)} parties are enrolled, the plan's cohort.minimum is "
            f"{plan.cohort.minimum}; invite more parties or change the plan"
        )
    return {party: members[party] for party in sorted(wanted)}
