"""The bodies of the control plane's API, shared by the service and its client. Keys are hex."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from privacy.hosting.enrolment import PartyName, PublicKeyHex, WireModel
from privacy.identity import RUN_ID_PATTERN

RunId = Annotated[str, Field(pattern=RUN_ID_PATTERN)]
SignatureHex = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
PlanText = Annotated[str, Field(max_length=64 * 1024)]


class InvitationRequest(WireModel):
    """Ask for an invite for one party."""

    party: PartyName


class PlanCheckRequest(WireModel):
    """A plan's TOML text."""

    plan: PlanText


class PlanCheck(WireModel):
    """A valid plan: its identity, and which enrolled parties its cohort can draw on."""

    name: str
    digest: str
    parties: tuple[str, ...]
    minimum: int


class RunSubmission(WireModel):
    """A plan, the run's id, and the requester's signature of both (`privacy.identity`)."""

    run_id: RunId
    plan: PlanText
    requester_public_key: PublicKeyHex
    requester_signature: SignatureHex


class StopRequest(WireModel):
    """`force` ends the run at once; otherwise it stops before its next exchange."""

    force: bool = False


class PartyView(WireModel):
    """An enrolled party."""

    name: str
    public_key: PublicKeyHex
    fingerprint: str
    enrolled_at: datetime


class PartyList(WireModel):
    """Every enrolled party, by name."""

    parties: tuple[PartyView, ...]


class ExchangeView(WireModel):
    """One exchange: wall-clock seconds and frame bytes by party (up = from the party)."""

    phase: str
    round: int | None
    seconds: float
    bytes_up: Mapping[str, int]
    bytes_down: Mapping[str, int]


class MembershipView(WireModel):
    """A party left a run ('left' without an answer, 'refused') or came back ('returned')."""

    party: str
    event: str
    phase: str
    round: int | None
    at: datetime


class RunView(WireModel):
    """A run. `error`, `exit_code` and `message` say why it failed or was stopped; `waiting_for`
    and `pause_until` (UTC) whom a paused run waits for, and how long."""

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
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    waiting_for: tuple[str, ...]
    pause_until: datetime | None

    @property
    def active(self) -> bool:
        """True until the run has ended."""
        return self.state in ("created", "running", "paused")


class RunDetail(RunView):
    """A run with what it measured and released."""

    outcome: Mapping[str, Any] | None
    members: tuple[str, ...]
    exchanges: tuple[ExchangeView, ...]
    membership: tuple[MembershipView, ...]
    metrics: Mapping[str, float]


class RunList(WireModel):
    """The newest runs, newest first."""

    runs: tuple[RunView, ...]


class Health(WireModel):
    """The control plane is up."""

    status: str
    federation: str
