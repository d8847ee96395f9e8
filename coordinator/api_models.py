"""What may be sent to the control plane's API. What it answers with are the desk's own values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from coordinator.cursors import MOST_CHARACTERS
from coordinator.desk_views import ACTIVE_STATES, MOST_ON_A_PAGE
from privacy.hosting.access_values import DEFAULT_TOKEN_DAYS, MAX_TOKEN_DAYS, NAME_PATTERN
from privacy.hosting.enrolment import PartyName, PublicKeyHex, WireModel
from privacy.hosting.passwords import LONGEST_PASSWORD, SHORTEST_PASSWORD
from privacy.identity import PARTY_PATTERN, RUN_ID_PATTERN

RunId = Annotated[str, Field(pattern=RUN_ID_PATTERN)]
SignatureHex = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
# Counted in characters here and in bytes by the plan's own check.
PlanText = Annotated[str, Field(max_length=64 * 1024)]
PlanName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Cursor = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]
Limit = Annotated[int, Field(ge=1, le=MOST_ON_A_PAGE)]
RunState = Literal[ACTIVE_STATES, "finished", "failed", "stopped"]  # type: ignore[valid-type]
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
RoleName = Annotated[
    str,
    StringConstraints(
        pattern=rf"^(admin|data-scientist|reviewer|party-operator:{PARTY_PATTERN.strip('^$')})$"
    ),
]
Password = Annotated[str, Field(min_length=SHORTEST_PASSWORD, max_length=LONGEST_PASSWORD)]
IdempotencyKey = Annotated[str, Field(min_length=16, max_length=128, pattern=r"^[!-~]+$")]


class InvitationRequest(WireModel):
    """Ask for an invite for one party."""

    party: PartyName


class PlanRequest(WireModel):
    """A plan's TOML text."""

    plan: PlanText


class PlanDiffRequest(WireModel):
    """A plan's TOML text, and the run whose plan it is compared with."""

    plan: PlanText
    run: RunId


class RunSubmission(WireModel):
    """A plan, the run's id, and the requester's signature of both (`privacy.identity`)."""

    run_id: RunId
    plan: PlanText
    requester_public_key: PublicKeyHex
    requester_signature: SignatureHex


class StopRequest(WireModel):
    """`force` ends the run at once; otherwise it stops before its next exchange."""

    force: bool = False


class PersonRequest(WireModel):
    """A new person. Without a password there is no signing in by one."""

    name: Name
    role: RoleName
    password: Password | None = None


class RoleRequest(WireModel):
    """A person's new role."""

    role: RoleName


class PasswordRequest(WireModel):
    """A person's new password."""

    password: Password


class TokenRequest(WireModel):
    """A new API token. It ends by itself after `days`."""

    name: Name
    role: RoleName
    days: Annotated[int, Field(ge=1, le=MAX_TOKEN_DAYS)] = DEFAULT_TOKEN_DAYS


class Health(WireModel):
    """Whether the process answers, or is ready; `missing` says what is not there."""

    status: Literal["ok", "not ready"]
    federation: str
    missing: tuple[str, ...] = ()


class Told(WireModel):
    """A disclosure was taken in; `sequence` is its own."""

    sequence: int


class Problem(BaseModel):
    """Why a request failed (RFC 9457). `error` and `exit_code` are those of the commands."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    exit_code: int
