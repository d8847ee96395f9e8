"""What a person sees before deciding about a plan. No data are opened for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from pydantic import BaseModel

from models.catalogue import columns_of
from models.plan import Plan, parse_plan
from models.plan_diff import Change, changes, meaning, written
from models.tasks import label_window
from party_client.admission import BUDGET, PLAN_INVALID
from party_client.approvals import WaitingPlan, checked_state, last_approved, one_plan
from party_client.forecast import Forecast, forecast
from party_client.policy import EPSILON, FORBIDDEN, Policy, forbidden_refusals, load_policy
from party_client.settings import PartySettings
from party_client.waiting_plans import WaitingPlans
from privacy.accounting import epsilon
from privacy.errors import PlanError, PolicyRefusal, PrivacyError
from privacy.ledger import Ledger
from privacy.ledger_state import LedgerState
from privacy.messages import (
    PARTY_MESSAGES,
    Acknowledged,
    Decision,
    EvaluationOpened,
    EvaluationUpdate,
    Header,
    KeyConfirm,
    KeySeal,
    Receipt,
    Unmasked,
    Update,
    WeightUpdate,
)

# When a run sends each kind of message; `leaving` leaves out those that the plan never asks for.
_WHEN = {
    Decision: "when the plan is proposed, and whenever the cohort changes",
    KeySeal: "when keys are agreed",
    KeyConfirm: "when keys are agreed",
    WeightUpdate: "before the first round",
    Update: "in each of {rounds} rounds",
    EvaluationUpdate: "once, after the rounds",
    Unmasked: "after each update and the evaluation",
    EvaluationOpened: "once, after the evaluation",
    Receipt: "once, when tags are written",
    Acknowledged: "if the run is aborted",
}


@dataclass(frozen=True)
class DataTouched:
    """What of this party's data a run of the plan would read.

    `kind`: of the source, 'events' or 'table'. `columns`: the party's own mapping, canonical name
    to own column. `features`: (name, group, in words), each that the model sees. `label`: in words.
    `cutoff`: features use records before this ISO day; None for a table without one. `as_of`: the
    day that the tags speak about; None: the day of publication.
    """

    kind: str
    columns: Mapping[str, str]
    features: tuple[tuple[str, str, str], ...]
    groups: tuple[str, ...]
    label: str
    horizon_days: int | None
    cutoff: str | None
    as_of: str | None
    tags: tuple[str, ...]


@dataclass(frozen=True)
class CoveringLimit:
    """One sub-limit of policy.toml that covers the plan, with what is spent in its window now and
    how many such runs fit; epsilon at the ledger's delta."""

    name: str
    window: str
    epsilon: float
    spent: float
    runs_left: int


@dataclass(frozen=True)
class PlanCost:
    """What one run costs: an upper bound, and exact if nothing fails.

    `epsilon` at `delta`, the run's own; `epsilon_at_ledger` at `ledger_delta`. `used_before`,
    `used_after`: shares of the lifetime budget. `runs_left`: by the tightest budget, `binding`.
    """

    epsilon: float
    delta: float
    epsilon_at_ledger: float
    ledger_delta: float
    used_before: float
    used_after: float
    runs_left: int
    binding: str
    limits: tuple[CoveringLimit, ...]


@dataclass(frozen=True)
class LeavingField:
    """A field of a message. `treatment`: of `privacy.messages.Treatment`; `note`: why, in words."""

    name: str
    treatment: str
    note: str


@dataclass(frozen=True)
class LeavingMessage:
    """A kind of message that the plan makes this party send, and when."""

    kind: str
    when: str
    fields: tuple[LeavingField, ...]


@dataclass(frozen=True)
class PlanReview:
    """Everything about one plan that a person needs.

    `compared_with`: hash of the approved plan that `changes` compares with; None: none was
    approved yet, so every key is new. No changes, and another hash: only comments or layout differ.
    `cost`: None if it cannot be told; `refusals` says why. `refusals`: (reason code, message) for
    which policy or budget would refuse the plan now, whatever a person decides.
    """

    plan: WaitingPlan
    text: str
    description: str
    compared_with: str | None
    compared_with_name: str | None
    changes: tuple[Change, ...]
    data: DataTouched
    cost: PlanCost | None
    leaves: tuple[LeavingMessage, ...]
    refusals: tuple[tuple[str, str], ...]


def plan_review(settings: PartySettings, digest: str) -> PlanReview:
    """Everything about the kept plan `digest`. Raises NotFound, ConfigError, LedgerError, and
    PlanError for one that this version of fedtags cannot read."""
    folder = WaitingPlans(settings.waiting_plans)
    ledger = Ledger(settings.ledger)
    state = checked_state(settings)
    policy = load_policy(settings.policy)
    source, _ = folder.read(digest)
    plan = parse_plan(source)
    known = last_approved(state, folder, digest, plan.name)
    before = {} if known is None else meaning(parse_plan(folder.read(known.plan_digest)[0]))
    cost, refusals = _judged(settings, policy, plan, ledger, state)
    return PlanReview(
        plan=one_plan(folder, state, digest),
        text=source.decode("utf-8"),
        description=plan.description,
        compared_with=None if known is None else known.plan_digest,
        compared_with_name=None if known is None else known.plan,
        changes=changes(before, meaning(plan)),
        data=data_touched(settings, plan),
        cost=cost,
        leaves=leaving(plan),
        refusals=refusals,
    )


def data_touched(settings: PartySettings, plan: Plan) -> DataTouched:
    """What of this party's data `plan` would read, by its text and this party's mapping."""
    task, columns = plan.task, columns_of(plan)
    cutoff = task.cutoff_by_party.get(settings.party, task.cutoff)
    as_of = None if cutoff is None and task.kind != "label" else plan.as_of(settings.party)
    return DataTouched(
        kind=settings.source.kind,
        columns=dict(settings.source.columns),
        features=tuple((one.name, one.group, one.description) for one in columns),
        groups=tuple(dict.fromkeys(one.group for one in columns)),
        label=_label(plan, settings.party),
        horizon_days=None if task.kind == "label" else task.horizon_days,
        cutoff=None if cutoff is None else cutoff.isoformat(),
        as_of=None if as_of is None else as_of.isoformat(),
        tags=plan.publication.tags,
    )


def leaving(plan: Plan) -> tuple[LeavingMessage, ...]:
    """The kinds of message that `plan` makes a party send, the header of all of them first."""
    never: set[type[BaseModel]] = set()
    if plan.aggregation.weights != "noised_size":
        never.add(WeightUpdate)
    if not plan.aggregation.single_opening:
        never.add(Unmasked)
    sent = [LeavingMessage("header", "with every message", _fields(Header))]
    for body in PARTY_MESSAGES:
        if body not in never:
            when = _WHEN[body].format(rounds=plan.training.rounds)
            sent.append(LeavingMessage(body.kind, when, _fields(body)))
    return tuple(sent)


def _fields(body: type[BaseModel]) -> tuple[LeavingField, ...]:
    extras = {
        name: cast(dict[str, str], field.json_schema_extra or {})
        for name, field in body.model_fields.items()
    }
    return tuple(
        LeavingField(name, extra["treatment"], extra["note"]) for name, extra in extras.items()
    )


def _label(plan: Plan, party: str) -> str:
    task = plan.task
    if task.kind == "label":
        return f"your column for {written(task.label)}"
    what = "no purchase" if task.kind == "churn" else "at least one purchase"
    if task.category is not None:
        what += f" in category {written(task.category)}"
    cutoff = task.cutoff_by_party.get(party, task.cutoff)
    if cutoff is None:
        return f"{what} within {task.horizon_days} days"
    first, end = label_window(task, cutoff)
    return f"{what} from {first} to {end - timedelta(days=1)}"


def _judged(
    settings: PartySettings, policy: Policy, plan: Plan, ledger: Ledger, state: LedgerState
) -> tuple[PlanCost | None, tuple[tuple[str, str], ...]]:
    found = forbidden_refusals(plan, settings.source.columns)
    try:
        made = forecast(
            policy, plan, ledger, party=settings.party, public_size=settings.public_size
        )
    except PlanError as error:
        return None, _told(found, PLAN_INVALID, str(error))
    except PolicyRefusal as error:
        return None, _told(found, error.reason, str(error))
    except PrivacyError as error:
        return None, _told(found, EPSILON, str(error))
    found += [one for one in made.refusals if one.reason != FORBIDDEN]
    if not made.binding.runs_left:
        return _cost(policy, made, state), _told(found, BUDGET, f"no room in {made.binding.budget}")
    return _cost(policy, made, state), _told(found)


def _told(found: list[PolicyRefusal], *last: str) -> tuple[tuple[str, str], ...]:
    said = [(one.reason, str(one)) for one in found]
    return tuple([*said, (last[0], last[1])] if last else said)


def _cost(policy: Policy, made: Forecast, state: LedgerState) -> PlanCost:
    limits = {one.name: one for one in policy.budget.limits}
    return PlanCost(
        epsilon=made.at_run.together,
        delta=made.at_run.delta,
        epsilon_at_ledger=made.at_ledger.together,
        ledger_delta=made.at_ledger.delta,
        used_before=made.used,
        used_after=state.cap.used([*state.charged(), *made.terms.mechanisms]),
        runs_left=made.binding.runs_left,
        binding=made.binding.budget,
        limits=tuple(
            CoveringLimit(
                name=room.budget,
                window=room.window,
                epsilon=limits[room.budget].epsilon,
                spent=epsilon(state.charged_under(limits[room.budget]), state.cap_delta),
                runs_left=room.runs_left,
            )
            for room in made.rooms[1:]
        ),
    )
