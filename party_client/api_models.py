"""What may be sent to the node's API. What it answers with are the desk's own values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from party_client.roles import Role
from privacy.hosting.access import DEFAULT_TOKEN_DAYS, MAX_TOKEN_DAYS, NAME_PATTERN
from privacy.hosting.passwords import LONGEST_PASSWORD, SHORTEST_PASSWORD

# Control characters have no place in what people type, and some databases refuse them.
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
CustomerId = Annotated[
    str, Field(min_length=1, max_length=1000, description="A customer's id at this party.")
]
Word = Annotated[str, Field(min_length=1, max_length=64, pattern=_PRINTABLE)]
Purpose = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
RunId = Annotated[str, Field(min_length=1, max_length=80, pattern=_PRINTABLE)]
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Reason = Annotated[str, Field(min_length=1, max_length=200, pattern=_PRINTABLE)]
Password = Annotated[str, Field(min_length=SHORTEST_PASSWORD, max_length=LONGEST_PASSWORD)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LookupRequest(_Body):
    """Ask about one customer for one purpose. The id is in the body, so no log of addresses,
    here or in a proxy, holds it."""

    customer: CustomerId
    purpose: Purpose


class OptOutRequest(_Body):
    """A customer's opt-out, and why it is made."""

    customer: CustomerId
    reason: Reason


class ExportRequest(_Body):
    """A segment to export. Without `value`: everyone who has the tag. `since`: the run of an
    earlier export; only what was set after it."""

    tag: Word
    value: Word | None = None
    purpose: Purpose
    format: Literal["csv", "parquet"] = "csv"
    since: RunId | None = None


class DecisionRequest(_Body):
    """Approve a plan, or refuse it. `seen`: the plan's `seen` when it was looked at."""

    approve: bool
    reason: Reason
    seen: Annotated[str, Field(max_length=128)] | None = None


class SignInRequest(_Body):
    """A name and its password."""

    name: Annotated[str, Field(max_length=255)]
    password: Annotated[str, Field(max_length=1024)]


class OwnPasswordRequest(_Body):
    """The signed-in person's password, and the one that replaces it."""

    current: Annotated[str, Field(max_length=1024)]
    new: Password


class PersonRequest(_Body):
    """A new person. Without a password there is no signing in."""

    name: Name
    role: Role
    password: Password | None = None


class RoleRequest(_Body):
    """A person's new role."""

    role: Role


class PasswordRequest(_Body):
    """A person's new password."""

    password: Password


class TokenRequest(_Body):
    """A new API token. It ends by itself after `days`."""

    name: Name
    role: Role
    days: Annotated[int, Field(ge=1, le=MAX_TOKEN_DAYS)] = DEFAULT_TOKEN_DAYS


class SignedIn(_Body):
    """A session was opened; its cookie is in the answer's head. `csrf` goes into the header
    X-CSRF-Token of every request that changes something."""

    name: str
    role: str
    csrf: str


class Me(_Body):
    """Who asks, and what that role may do."""

    name: str
    role: str
    kind: str
    may: tuple[str, ...]


class Health(_Body):
    """Whether the process answers, or is ready; `missing` says what is not there."""

    status: Literal["ok", "not ready"]
    missing: tuple[str, ...] = ()


class Problem(BaseModel):
    """Why a request failed (RFC 9457). `error` and `exit_code` are those of the commands."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    exit_code: int
