"""A horizontal run from the coordinator's side: plan to receipts, over any `Channel`.

Read it top to bottom: preflight, keys, rounds, evaluation, publication. How a set of parties
becomes an epoch, and what happens while too few are there, is in `coordinator.epochs`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from coordinator.aggregate import Adder
from coordinator.channel import Channel, Recorder
from coordinator.checkpoints import Answers, Journal
from coordinator.epochs import Carried, Epochs
from coordinator.exchange import Exchanges, RunRequest
from coordinator.membership import Membership, refusal_error, timeout_error
from coordinator.outcome import (
    Figures,
    RunOutcome,
    agreed_evaluation,
    check_opened,
    figures_of,
)
from models.plan import Plan, parse_plan
from privacy.errors import CohortError, FedtagsError, RunError, RunInterrupted, StoreError
from privacy.identity import SigningKey
from privacy.messages import (
    MAX_ATTEMPTS,
    Abort,
    Evaluate,
    EvaluationOpened,
    EvaluationUpdate,
    OpenEvaluation,
    Publish,
    Receipt,
    TrainRound,
    Unmask,
    Unmasked,
    Update,
    Weigh,
    WeightUpdate,
)

__all__ = ["Conduct", "RunOutcome", "RunRequest", "run"]

ABORT_TIMEOUT_S = 20.0
Part = type[WeightUpdate] | type[Update] | type[EvaluationUpdate]


def run(
    request: RunRequest,
    channel: Channel,
    signer: SigningKey,
    recorder: Recorder,
    journal: Journal | None = None,
) -> RunOutcome:
    """Drive one run to its end. Raises PlanError, or a RunError that names phase and party.

    Whatever ends a run early, every party that was asked is told to abort, so that a party
    that has not touched data gives its reservation back. `journal`: another process can go on
    where this one ends; RunInterrupted and StoreError then end the process, not the run.
    """
    plan = parse_plan(request.plan_source)
    with Adder() as adder:
        exchanges = Exchanges(request, plan, channel, signer, recorder, journal)
        return Conduct(exchanges, adder).run()


@dataclass(frozen=True)
class _Sum:
    """One sum that is asked for: `name` for its attempts, `number` as in the header's round."""

    name: str
    number: int
    part: Part


class Conduct:
    """One run in progress. `adder` adds, `exchanges` speaks; tests put liars in their places."""

    def __init__(self, exchanges: Exchanges, adder: Adder) -> None:
        self.exchanges, self.adder = exchanges, adder
        self.plan, self.recorder = exchanges.plan, exchanges.recorder
        self.members = Membership(
            self.plan, _proposed(self.plan, exchanges.request.members), self.recorder
        )
        self.epochs = Epochs(exchanges, self.members)
        # Rounds that have a sum (the evaluation counts as one more), opened or not.
        self.summed = 0
        self.attempts: dict[str, int] = {}
        self.two_party = False

    def run(self) -> RunOutcome:
        """To the end, or to an error; then every party that takes part is told to abort."""
        try:
            refused = self.epochs.preflight()
            self._form()
            self._rounds()
            parties = self._open_evaluation()
            figures, published = self._publish(parties)
        except BaseException as error:
            if not (self.exchanges.durable and _process_only(error)):
                self._abort(error)
            raise
        return RunOutcome(
            parties,
            refused,
            figures.evaluation,
            figures.auc,
            figures.auc_standard_error,
            figures.calibration,
            ledger_heads=self.exchanges.heads,
            left=dict(self.members.left),
            returned=dict(self.members.returned),
            unpublished=tuple(one for one in parties if one not in published),
            two_party=self.two_party,
        )

    def _form(self) -> None:
        """Keys, and weights where the plan sums them, among those who accepted; if one is lost
        meanwhile, again among the rest."""
        waiting = self.summed + 1 if self.exchanges.phase == "round" else 0
        while not (self.epochs.agree(waiting) and self._weigh(waiting)):
            self.summed = self.epochs.gather(self.summed)

    def _weigh(self, waiting: int) -> bool:
        """The sum of the members' noised sizes, which the next round's message brings them.
        False if it needs another epoch."""
        rounds = self.plan.training.rounds
        if self.plan.aggregation.weights != "noised_size" or self.summed >= rounds:
            return True
        self.exchanges.enter("weights", waiting)
        return self._stands(_Sum("weights", 0, WeightUpdate))

    def _rounds(self) -> None:
        """Every round's sum, then the evaluation's. A lost party may come back before each."""
        last = self.plan.training.rounds + 1
        while self.summed < last:
            wanted = self._enter_next()
            join = self.epochs.readmit if self.members.enough else self.epochs.gather
            held = join(self.summed)
            if held is not None:
                self.summed = held
                self._form()
                wanted = self._enter_next()
            if self._stands(wanted):
                self.summed = wanted.number
                if wanted.part is Update:
                    self.epochs.openers = frozenset(self.members.present)
                    if not self.epochs.carried.lost:
                        self.epochs.newest = self.epochs.carried

    def _enter_next(self) -> _Sum:
        number = self.summed + 1
        if number > self.plan.training.rounds:
            self.exchanges.enter("evaluation")
            return _Sum("evaluation", number, EvaluationUpdate)
        self.exchanges.enter("round", number)
        return _Sum(f"round {number}", number, Update)

    def _stands(self, wanted: _Sum) -> bool:
        """Ask for a sum until all of a set have answered; False if too few are left for that."""
        while not self._attempt(wanted):
            if not self.members.enough:
                return False
        return True

    def _attempt(self, wanted: _Sum) -> bool:
        """Ask everyone present for their part of a sum. True once it stands, and is carried on.

        Who is there after one was lost has opened what this message brought: the next attempt
        brings nothing, and asks for the same values under fresh masks.
        """
        attempt = self.attempts[wanted.name] = self.attempts.get(wanted.name, 0) + 1
        if attempt > MAX_ATTEMPTS:
            raise RunError(
                f"{wanted.name} was asked for {MAX_ATTEMPTS} times, and each time one was lost; "
                "see in their logs why, then submit the plan again"
            )
        asked = self.members.present
        with self.exchanges.ask(asked, self._asking(wanted), wanted.number, attempt) as answers:
            parts, statements = self.exchanges.hear(answers, wanted.part, wanted.number, attempt)
            answered = bool(parts)
            total = answers.keep(partial(self._add, parts)) if answers.complete else b""
            parts.clear()
        if answered:
            self.epochs.carried = Carried()
        if not self._kept(answers):
            return False
        self.epochs.carried = Carried(statements, total, of_round=wanted.part is Update)
        if self.plan.aggregation.single_opening:
            self._unmask(wanted, attempt)
        self.two_party = self.two_party or (len(asked) == 2 and not self.epochs.carried.lost)
        self.epochs.stand()
        return True

    def _asking(self, wanted: _Sum) -> Weigh | TrainRound | Evaluate:
        carried, members = self.epochs.carried, self.members.present
        if wanted.part is WeightUpdate:
            return Weigh(members=members, replies=carried.replies)
        kind = TrainRound if wanted.part is Update else Evaluate
        return kind(
            members=members, replies=carried.replies, total=carried.total, lost=carried.lost
        )

    def _add(self, parts: Mapping[str, WeightUpdate | Update | EvaluationUpdate]) -> bytes:
        return self.adder.total({party: one.ciphertexts for party, one in parts.items()})

    def _unmask(self, wanted: _Sum, attempt: int) -> None:
        """Show all what all sent, and ask for their self-masks. If one is lost now, nobody can
        open the sum any more: nothing may be revealed for another attempt."""
        body = Unmask(replies=self.epochs.carried.replies)
        with self.exchanges.ask(self.members.present, body, wanted.number, attempt) as answers:
            _, statements = self.exchanges.hear(answers, Unmasked, wanted.number, attempt)
        if self._kept(answers):
            total = self.epochs.carried.total
            self.epochs.carried = Carried(statements, total, of_round=wanted.part is Update)
            return
        if wanted.part is EvaluationUpdate:
            raise RunError(
                f"{', '.join((*answers.vanished, *answers.refused))} was lost before the "
                "evaluation could be opened, and under aggregation.single_opening it may not be "
                "summed again; what was begun stays spent, submit the plan again"
            )
        self.epochs.carried = Carried(lost=True)
        self.epochs.lost = wanted.number

    def _kept(self, answers: Answers) -> bool:
        """True if nobody was lost; else the others go on by themselves."""
        if answers.complete:
            return True
        self.members.lose(answers.vanished, answers.refused, self.exchanges.where)
        self.exchanges.narrow(self.members.present)
        return False

    def _open_evaluation(self) -> tuple[str, ...]:
        """All open the evaluation's sum and say which it was, before anyone tells it or publishes.
        Returns whose counts are in it."""
        number = self.plan.training.rounds + 2
        parties, carried = self.members.present, self.epochs.carried
        body = OpenEvaluation(replies=carried.replies, total=carried.total)
        with self.exchanges.ask(parties, body, number) as answers:
            opened, statements = self.exchanges.hear(answers, EvaluationOpened, number)
        self._kept(answers)
        self._check_left(answers, at_least=len(parties) // 2 + 1)
        check_opened({party: one.opened for party, one in opened.items()})
        self.epochs.carried = Carried(statements)
        return parties

    def _publish(self, parties: tuple[str, ...]) -> tuple[Figures, set[str]]:
        """Everyone who opened the evaluation writes its tags and tells it; who confirmed that."""
        self.exchanges.enter("publication")
        number = self.plan.training.rounds + 3
        body = Publish(replies=self.epochs.carried.replies)
        with self.exchanges.ask(self.members.present, body, number) as answers:
            receipts, _ = self.exchanges.hear(answers, Receipt, number)
        self._kept(answers)
        self._check_left(answers, at_least=1)
        copies = {party: one.evaluation for party, one in receipts.items()}
        evaluation = agreed_evaluation(self.plan, copies)
        sizes = [self.members.decisions[party].public_size for party in parties]
        return figures_of(self.plan, evaluation, sizes, self.recorder), set(receipts)

    def _check_left(self, answers: Answers, at_least: int) -> None:
        """After the last sum nothing is protected any more, so the plan's minimum does not hold for
        parties that do not answer; one that refuses has found something wrong. More than half of
        the evaluation's parties must have opened it: else no party tells it."""
        where = self.exchanges.where
        if answers.refused and not self.members.enough:
            missing = dict.fromkeys(answers.vanished, where)
            raise refusal_error(dict.fromkeys(answers.refused, where), missing)
        if len(self.members.present) < at_least:
            lost = dict.fromkeys((*answers.vanished, *answers.refused), where)
            raise timeout_error(lost, self.plan.cohort)

    def _abort(self, error: BaseException) -> None:
        reason = type(error).__name__ if isinstance(error, FedtagsError) else "InternalError"
        with contextlib.suppress(FedtagsError):  # the run's own error is the one to tell
            self.exchanges.tell(Abort(reason=reason), ABORT_TIMEOUT_S)


def _process_only(error: BaseException) -> bool:
    """Whether it ends this process only: also a signal's SystemExit, or Flower's end of its run."""
    return isinstance(error, RunInterrupted | StoreError) or not isinstance(error, Exception)


def _proposed(plan: Plan, members: Mapping[str, bytes]) -> list[str]:
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
    return sorted(wanted)
