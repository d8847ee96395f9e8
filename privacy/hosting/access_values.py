"""Who somebody is to a service: values that need no database, for its clients too."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

NAME_PATTERN = r"[a-z][a-z0-9._@-]{0,62}"
MAX_TOKEN_DAYS = 3650
DEFAULT_TOKEN_DAYS = 365


@dataclass(frozen=True)
class Principal:
    """Who asks. `kind`: a person in a session, an API token, or a command on the service's own
    machine. `address`: where the request came from, for the access log."""

    name: str
    role: str
    kind: Literal["person", "token", "command"] = "person"
    address: str = "local"


@dataclass(frozen=True)
class Person:
    """A person with a role. `state`: 'active' or 'removed'; a removed one cannot sign in.
    `elsewhere`: the person signs in at a provider, whose word on the role counts."""

    name: str
    role: str
    state: str
    has_password: bool
    created_at: datetime
    elsewhere: bool = False


@dataclass(frozen=True)
class Token:
    """An API token, without its secret. `last_used`: the newest day (UTC) with a request."""

    name: str
    role: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used: date | None

    def valid(self, now: datetime) -> bool:
        """Whether the token still opens anything."""
        return self.revoked_at is None and now < self.expires_at
