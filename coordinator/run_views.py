"""What the desk answers with about plans and runs; `coordinator.desk_views` has the rest, and these
too. Times carry their zone (UTC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from models.plan_diff import Change

ACTIVE_STATES = ("created", "running", "paused", "recovering")

PartyState = Literal["up", "down", "unknown", "removed"]


# Plans -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PlanCheck:
    """A valid plan: its identity, and which enrolled parties its cohort can draw on."""

    name: str
    digest: str
    parties: tuple[str, ...]
    minimum: int


@dataclass(frozen=True, kw_only=True)
class PartyForecast:
    """What one run of a plan costs at one party: an upper bound, and exact if nothing fails.

    `epsilon` at `delta`, of which `training`, `evaluation` and `weights` are the parts (they
    compose to less than their sum). None without the party's public size. `budget_used` and
    `budget_after`: shares of its lifetime budget, before and after one such run; `runs_left`: how
    many such runs it holds now. `can_take_part`: as far as the coordinator can know; `why`: why
    not, or what is not known. The party alone decides.
    """

    party: str
    state: PartyState
    can_take_part: bool
    why: str | None
    public_size: int | None
    delta: float | None
    epsilon: float | None
    training: float | None
    evaluation: float | None
    weights: float | None
    budget_used: float | None
    budget_after: float | None
    runs_left: int | None


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """A plan judged without running it. `asked`: the plan's own epsilons by part. `enough`: as many
    parties can take part as `minimum`; `notes`: what a person should know before submitting."""

    name: str
    digest: str
    purpose: str
    minimum: int
    enough: bool
    asked: Mapping[str, float]
    parties: tuple[PartyForecast, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PlanDiff:
    """What differs between two plans, key by key; empty: they mean the same."""

    before: str
    before_digest: str
    after: str
    after_digest: str
    changes: tuple[Change, ...]


# Runs --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FailureView:
    """Why a run ended early. `error`, `exit_code` and `message` are the run's own; `cause` and
    `next_step` say in plain words what that means and what to do. `message` may speak of several
    parties, so a party's operator gets it empty."""

    error: str
    exit_code: int
    message: str
    cause: str
    next_step: str


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run. `error`, `exit_code` and `message` say why it failed or was stopped, `failure` in
    plain words; `waiting_for` and `pause_until` whom a paused run waits for, and how long.
    `attempt` counts the processes that took it up, from 1; `interruption`: why the last ended."""

    run_id: str
    plan_name: str
    plan_digest: str
    requester: str
    state: str
    stop_requested: bool
    resume_requested: bool
    phase: str | None
    round: int | None
    total_rounds: int | None
    flower_run_id: str | None
    error: str | None
    exit_code: int | None
    message: str | None
    failure: FailureView | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    waiting_for: tuple[str, ...]
    pause_until: datetime | None
    attempt: int
    interruption: str | None
    metrics: Mapping[str, float]

    @property
    def active(self) -> bool:
        """True until the run has ended."""
        return self.state in ACTIVE_STATES

    @property
    def seconds(self) -> float | None:
        """Wall-clock seconds from its first phase to its end; None before that."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """Runs, newest first. `next`: what to ask the following page with; None at the end."""

    runs: tuple[RunView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True)
class PhaseView:
    """A phase of a run, or one round of it; it lasts until the next one's start."""

    phase: str
    round: int | None
    started_at: datetime


@dataclass(frozen=True, kw_only=True)
class ExchangeView:
    """One exchange: wall-clock seconds and frame bytes by party (up = from the party)."""

    phase: str
    round: int | None
    seconds: float
    bytes_up: Mapping[str, int]
    bytes_down: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class MembershipView:
    """A party left a run ('left' without an answer, 'refused') or came back ('returned')."""

    party: str
    event: str
    phase: str
    round: int | None
    at: datetime


@dataclass(frozen=True, kw_only=True)
class FigureView:
    """A released figure with its noise: the value may well be `standard_error` away from what it
    would be without noise; None where that is not known. How the choice of held-out customers
    moves it is not in it."""

    name: str
    value: float
    standard_error: float | None


@dataclass(frozen=True, kw_only=True)
class PartyInRun:
    """One party in a run: where it stands ('not asked', 'asked', 'takes part', 'away', 'left',
    'refused', 'finished', 'unpublished'), why it refused (a reason code), and its bytes.
    `private`: what is told about this party alone is not for the one who asks."""

    party: str
    status: str
    reason: str | None
    bytes_up: int | None
    bytes_down: int | None
    private: bool


@dataclass(frozen=True, kw_only=True)
class RunDetail(RunView):
    """A run with what it measured and released. `outcome`: what the coordinator keeps of a
    finished run, by name. `purpose` and `asked` (epsilon by part) are the plan's."""

    purpose: str
    asked: Mapping[str, float]
    outcome: Mapping[str, Any] | None
    members: tuple[str, ...]
    parties: tuple[PartyInRun, ...]
    phases: tuple[PhaseView, ...]
    exchanges: tuple[ExchangeView, ...]
    membership: tuple[MembershipView, ...]
    figures: tuple[FigureView, ...]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The plan that a run was asked to follow, as its requester signed it."""

    run_id: str
    digest: str
    text: str
    requester: str
    requester_public_key: str
    requester_signature: str


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One column of a comparison. `changes`: how its plan differs from the first run's."""

    run: RunView
    figures: tuple[FigureView, ...]
    parties: tuple[str, ...]
    seconds: float | None
    bytes_up: int
    bytes_down: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs side by side, in the order that was asked for."""

    runs: tuple[ComparedRun, ...]
