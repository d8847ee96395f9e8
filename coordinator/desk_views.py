"""What the desk answers with: plain values for the API, its client, the commands and the pages.

Times carry their zone (UTC). Every epsilon is for one customer at one party, added or removed, at
the delta beside it. What a party tells of itself is shown as told; what it does not tell is None.
A party operator gets None, or nothing, in place of what is told about other parties alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coordinator.run_views import ACTIVE_STATES as ACTIVE_STATES
from coordinator.run_views import ComparedRun as ComparedRun
from coordinator.run_views import Comparison as Comparison
from coordinator.run_views import DryRun as DryRun
from coordinator.run_views import ExchangeView as ExchangeView
from coordinator.run_views import FailureView as FailureView
from coordinator.run_views import FigureView as FigureView
from coordinator.run_views import MembershipView as MembershipView
from coordinator.run_views import PartyForecast as PartyForecast
from coordinator.run_views import PartyInRun as PartyInRun
from coordinator.run_views import PartyState as PartyState
from coordinator.run_views import PhaseView as PhaseView
from coordinator.run_views import PlanCheck as PlanCheck
from coordinator.run_views import PlanDiff as PlanDiff
from coordinator.run_views import RunDetail as RunDetail
from coordinator.run_views import RunPage as RunPage
from coordinator.run_views import RunPlan as RunPlan
from coordinator.run_views import RunView as RunView
from privacy.hosting.access_log import AccessRecord
from privacy.hosting.access_values import Token
from privacy.hosting.enrolment import NamedKey

PAGE_SIZE = 50
MOST_ON_A_PAGE = 500
MOST_COMPARED = 6


# The federation ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FederationView:
    """What this coordinator is. `fingerprint`: of its key, which partners compare out of band;
    `bundle`: hash of the Flower bundle, which every party's must equal."""

    name: str
    public_key: str
    fingerprint: str
    control_url: str
    superlink: str
    requesters: tuple[NamedKey, ...]
    parties: int
    version: str
    bundle: str


@dataclass(frozen=True, kw_only=True)
class PartyView:
    """A party. `state`: its node is connected ('up') or not ('down'), the SuperLink cannot be
    asked ('unknown'), or it was removed. `last_seen`: its newest sign of life.

    As the party tells it, None if it does not: `told_at`, `public_size` (its declared size, not a
    count), `budget_used` (share of its lifetime budget, 0 to 1 and more), `runs_left` (like its
    last one), `waiting_plans` (for a person there), `node_version` and `bundle`.
    """

    name: str
    public_key: str
    fingerprint: str
    enrolled_at: datetime
    removed_at: datetime | None
    state: PartyState
    last_seen: datetime | None
    told_at: datetime | None
    public_size: int | None
    budget_used: float | None
    runs_left: int | None
    waiting_plans: int | None
    node_version: str | None
    bundle: str | None


@dataclass(frozen=True, kw_only=True)
class PartyPage:
    """Parties by name. `next`: what to ask the following page with; None at the end."""

    parties: tuple[PartyView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True)
class PartyDetail(PartyView):
    """A party with everything that it tells (`told`: the newest disclosure's fields by name) and
    its budget over time, with what is wrong with that (`doubts`, in words), and its newest runs."""

    told: Mapping[str, Any] | None
    budget: BudgetView | None
    doubts: tuple[str, ...]
    runs: tuple[RunView, ...]


@dataclass(frozen=True, kw_only=True)
class InvitationView:
    """An invitation that can still be used. Its token is shown to nobody again."""

    party: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class ChainView:
    """A hash-chained file. `whole`: every byte is as it was written; `head`: SEQUENCE:HASH to keep
    elsewhere, empty if there is none; `fault`: what is wrong, in words."""

    name: str
    whole: bool
    entries: int
    head: str
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class AlertView:
    """Something that a person should look at. `resolved_at`: None while it lasts."""

    id: str
    kind: str
    subject: str
    text: str
    raised_at: datetime
    resolved_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class AlertPage:
    """Alerts, newest first."""

    alerts: tuple[AlertView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True)
class Overview:
    """How the federation stands, for a first look. `parties` are those still enrolled; `budgets`
    of those that tell them; `last_runs`: the newest few; `alerts`: those that last."""

    federation: str
    parties: tuple[PartyView, ...]
    up: int
    down: int
    waiting_plans: int
    active_run: RunView | None
    last_runs: tuple[RunView, ...]
    alerts: tuple[AlertView, ...]
    budgets: tuple[BudgetView, ...]


# Models, budgets, tags, evidence -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """A model version: what a finished run made. The coordinator has no model, only its lineage.
    `digests`: the model's digest as parties tell it, with those who say to hold it; more than one
    means that somebody's is wrong. `version` counts the finished runs of one plan name from 1."""

    run_id: str
    plan_name: str
    plan_digest: str
    version: int
    made_at: datetime
    digests: Mapping[str, tuple[str, ...]]
    parties: tuple[str, ...]
    figures: tuple[FigureView, ...]
    task: str
    family: str


@dataclass(frozen=True, kw_only=True)
class ModelPage:
    """Model versions, newest first."""

    models: tuple[ModelView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True)
class LimitView:
    """A sub-limit of a party's policy as it tells it: what it covers, and what counts in its
    window now; epsilon at the lifetime budget's delta."""

    name: str
    window: str
    purpose: str | None
    plan: str | None
    epsilon: float
    spent: float


@dataclass(frozen=True, kw_only=True)
class SpendPoint:
    """What a party had spent at this moment, as it told it; `used`: share of the budget."""

    at: datetime
    spent: float
    used: float


@dataclass(frozen=True, kw_only=True)
class BudgetView:
    """A party's lifetime budget as it tells it. `used`: share, 0 to 1 and more; `runs_left`: like
    its last one, `last_run`; `over_time`: oldest first, where one party is shown. `doubt`: why it
    may be untrue."""

    party: str
    told_at: datetime
    epsilon: float
    delta: float
    spent: float
    used: float
    last_run: str | None
    runs_left: int | None
    limits: tuple[LimitView, ...]
    over_time: tuple[SpendPoint, ...]
    ledger_head: str | None
    doubt: str | None


@dataclass(frozen=True, kw_only=True)
class TagView:
    """A joint tag: its entry in the shipped catalogue, its state at each party that tells it, and
    the newest finished runs that published it, newest first."""

    tag: str
    display_name: str
    display_name_zh: str
    dimension: str
    states: Mapping[str, str]
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvidenceView:
    """The evidence pack of a run. `made_at`: None until it is asked for the first time."""

    run_id: str
    state: str
    sha256: str | None
    bytes: int | None
    made_at: datetime | None


# People ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PersonRemoved:
    """A person was removed. `tokens`: names of API tokens that this person made; they stay valid
    until somebody revokes them."""

    name: str
    tokens: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NewToken:
    """An API token just made. `secret` is in this answer and nowhere else."""

    token: Token
    secret: str


@dataclass(frozen=True, kw_only=True)
class AuditPage:
    """Lines of the audit log, newest first."""

    lines: tuple[AccessRecord, ...]
    next: str | None
