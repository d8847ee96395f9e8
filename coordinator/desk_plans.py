"""Judging a plan without running it: what one run costs each party, and which could take part.

The cost is computed from the plan and the public size that a party tells, by the same functions
with which the party computes it (`models.charges`). It is an upper bound of what a run is charged.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.desk_parties import Known, state_of
from coordinator.desk_runs import asked_of
from coordinator.desk_views import DryRun, PartyForecast, PartyState, PlanDiff
from coordinator.disclosures import PartyDisclosure
from coordinator.member_store import Party
from models.plan import Plan, parse_plan, plan_digest
from models.plan_diff import changes, meaning
from privacy.errors import PrivacyError, RateLimited

_MOST_KEPT = 4096
# Of those who wait for a cost to be computed, each of whom holds a thread of the service; and how
# long one request may go on to a further public size.
_MOST_WAITING = 4
_LONGEST_S = 20.0
_NOT_YET = "its cost is not computed yet: there are many public sizes; check again for the rest"
_TWO_PARTY = (
    "with two parties each can take its own part off the sum and knows the other's noised update; "
    "there only differential privacy protects it"
)
_WORST_CASE = (
    "every epsilon is for one customer at one party; a customer who is at several parties has the "
    "sum of theirs at most"
)


@dataclass(frozen=True)
class Cost:
    """What one run costs at one public size. `fault`: why it cannot be told."""

    delta: float | None = None
    epsilon: float | None = None
    training: float | None = None
    evaluation: float | None = None
    weights: float | None = None
    fault: str | None = None


class Costs:
    """Costs by plan and public size, each computed once, one at a time: it takes a second or two
    of a processor. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(_MOST_WAITING)
        self._found: OrderedDict[tuple[str, int], Cost] = OrderedDict()

    def of(self, digest: str, plan: Plan, public_size: int, until: float) -> Cost | None:
        """The cost of `plan` (its digest) at a party of this public size; None if it is not known
        and `until` (monotonic, seconds) has passed. Raises RateLimited if too many wait for one."""
        key = (digest, public_size)
        known = self._found.get(key)
        if known is not None or time.monotonic() >= until:
            return known
        if not self._places.acquire(blocking=False):
            raise RateLimited("the costs of other plans are being computed; try again in a minute")
        try:
            with self._lock:
                found = self._found.get(key)
                if found is None:
                    found = self._found[key] = _cost(plan, public_size)
                    while len(self._found) > _MOST_KEPT:
                        self._found.popitem(last=False)
                return found
        finally:
            self._places.release()


def dry_run(
    source: bytes, parties: Sequence[Party], known: Known, costs: Costs, only: str | None = None
) -> DryRun:
    """Judge a plan for the enrolled `parties`; with `only`, of this one alone.

    Raises PlanError, and RateLimited while too many other plans are judged.
    """
    plan, digest = parse_plan(source), plan_digest(source)
    until = time.monotonic() + _LONGEST_S
    enrolled = {party.name: party for party in parties}
    wanted = plan.cohort.parties or tuple(enrolled)
    forecasts = tuple(
        _forecast(name, enrolled.get(name), plan, digest, known, costs, until)
        for name in wanted
        if only in (None, name)
    )
    least = plan.cohort.minimum if only is None else 1
    able = sum(one.can_take_part for one in forecasts)
    notes = [_WORST_CASE]
    if plan.cohort.minimum == 2:
        notes.append(_TWO_PARTY)
    if able < least:
        notes.insert(
            0,
            f"{able} of at least {least} parties can take part now",
        )
    return DryRun(
        name=plan.name,
        digest=digest,
        purpose=plan.purpose,
        minimum=plan.cohort.minimum,
        enough=able >= least,
        asked=asked_of(plan),
        parties=forecasts,
        notes=tuple(notes),
    )


def plan_diff(before: bytes, after: bytes) -> PlanDiff:
    """How two plans differ in what they mean. Raises PlanError."""
    old, new = parse_plan(before), parse_plan(after)
    return PlanDiff(
        before=old.name,
        before_digest=plan_digest(before),
        after=new.name,
        after_digest=plan_digest(after),
        changes=changes(meaning(old), meaning(new)),
    )


def _forecast(
    name: str,
    party: Party | None,
    plan: Plan,
    digest: str,
    known: Known,
    costs: Costs,
    until: float,
) -> PartyForecast:
    if party is None:
        return _told(name, "removed", False, "it is not enrolled in this federation", None, Cost())
    state, told = state_of(party, known), known.told.get(name)
    status = None if told is None else told.disclosure.status
    size = None if status is None else status.public_size
    cost = None if size is None else costs.of(digest, plan, size, until)
    if size is None or cost is None:
        why = "it does not tell its public size, so its cost is not known"
        why = _unless_down(state, why if size is None else _NOT_YET) or ""
        return _told(name, state, state != "down", why, size, Cost(), budget=told)
    if cost.fault is not None:
        return _told(name, state, False, cost.fault, size, cost, budget=told)
    used, share, left = _room(told, plan, size)
    why_not = _unless_down(state, None)
    if why_not is None and left is not None and left < 1:
        why_not = "its lifetime budget, as it tells it, has no room for such a run"
    can = state != "down" and (left is None or left >= 1)
    after = None if used is None or share is None else used + share
    return _told(name, state, can, why_not, size, cost, budget=told, after=after, left=left)


def _unless_down(state: PartyState, otherwise: str | None) -> str | None:
    if state == "down":
        return "its node is not connected"
    if state == "unknown" and otherwise is None:
        return "the SuperLink does not answer, so whether its node is connected is not known"
    return otherwise


def _told(
    name: str,
    state: PartyState,
    can: bool,
    why: str | None,
    public_size: int | None,
    cost: Cost,
    *,
    budget: PartyDisclosure | None = None,
    after: float | None = None,
    left: int | None = None,
) -> PartyForecast:
    said = None if budget is None else budget.disclosure.budget
    return PartyForecast(
        party=name,
        state=state,
        can_take_part=can,
        why=why,
        public_size=public_size,
        delta=cost.delta,
        epsilon=cost.epsilon,
        training=cost.training,
        evaluation=cost.evaluation,
        weights=cost.weights,
        budget_used=None if said is None else said.used,
        budget_after=after,
        runs_left=left,
    )


def _room(
    told: PartyDisclosure | None, plan: Plan, public_size: int
) -> tuple[float | None, float | None, int | None]:
    """The share of the told budget that is used, the share of one run, and how many runs fit: the
    filter adds shares up (`privacy.budget`)."""
    from models.charges import charges
    from privacy.budget import Cap

    budget = None if told is None else told.disclosure.budget
    if budget is None:
        return None, None, None
    try:
        share = Cap.of(budget.epsilon, budget.delta).used(charges(plan, public_size).mechanisms)
    except PrivacyError:
        return budget.used, None, None
    left = math.floor((1 - budget.used) / share + 1e-9) if share > 0 else None
    return budget.used, share, None if left is None else max(0, left)


def _cost(plan: Plan, public_size: int) -> Cost:
    # Imported here: a control plane that judges no plan needs no accountant.
    from models.charges import charges
    from privacy.accounting import epsilon, run_delta

    limit = run_delta(public_size)
    if plan.privacy.delta is not None and plan.privacy.delta > limit:
        return Cost(
            fault="it will refuse: the plan's privacy.delta is above 1 / (10 * public_size) there"
        )
    try:
        made = charges(plan, public_size)
        return Cost(
            delta=made.delta,
            epsilon=epsilon(made.mechanisms, made.delta),
            training=epsilon([made.training], made.delta),
            evaluation=epsilon([made.evaluation], made.delta),
            weights=0.0 if made.weights is None else epsilon([made.weights], made.delta),
        )
    except PrivacyError as error:
        return Cost(fault=str(error))
