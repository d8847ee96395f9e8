"""The coordinator's people and API tokens, in its own database beside runs and parties.

A person signs in here with a password, or at an OpenID Connect provider. The provider's word
makes such a person, with the role that it gives, anew at each sign-in.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from sqlalchemy import insert, select, update

from coordinator.roles import Role
from coordinator.run_store import MIGRATIONS
from coordinator.settings import CoordinatorSettings
from privacy.errors import AccessDenied
from privacy.hosting.access import MAX_TOKEN_DAYS, NAME_PATTERN, Access
from privacy.hosting.access_tables import people
from privacy.hosting.database import store_errors, utc_now
from privacy.identity import read_secret

FIRST_TOKEN = "admin"  # noqa: S105  its name


@dataclass(frozen=True)
class Elsewhere:
    """Whom a provider says that somebody is. `subject`: its own name for the person, which never
    changes; `name` and `role`: what the person is called here, and may do."""

    issuer: str
    subject: str
    name: str
    role: str

    @property
    def identity(self) -> str:
        """What stands for issuer and subject in the database: SHA-256 in hex."""
        parts = (self.issuer.encode(), self.subject.encode("utf-8", "surrogatepass"))
        return hashlib.sha256(b"\0".join((b"fedtags identity 1", *parts))).hexdigest()


def open_access(settings: CoordinatorSettings) -> Access:
    """The coordinator's people and tokens. Raises ConfigError or StoreError."""
    return Access(settings.database_url, read_secret(settings.token_key), MIGRATIONS)


def make_first_token(access: Access) -> str:
    """The admin's API token for the commands on the coordinator's machine."""
    return access.create_token(
        FIRST_TOKEN, Role.ADMIN.value, created_by="init", days=MAX_TOKEN_DAYS
    )[1]


def admit(access: Access, found: Elsewhere) -> str:
    """Let a person sign in whom a provider vouches for, from now on with the role it gives.

    Returns the name here, which stays the one of the first time. Raises AccessDenied for somebody
    who was removed here, and for a name that another person has: a provider's word never opens
    what belongs to a person of this coordinator's own.
    """
    if re.fullmatch(NAME_PATTERN, found.name) is None:
        raise AccessDenied(
            "the provider's name for you cannot be used here: 1 to 63 lower-case letters, digits "
            "and . _ @ -, beginning with a letter; an admin chooses another claim (oidc.name_claim)"
        )
    with store_errors(), access.engine.begin() as connection:
        known = connection.execute(
            select(people).where(people.c.identity == found.identity)
        ).one_or_none()
        if known is not None:
            if known.state != "active":
                raise AccessDenied("you were removed here; an admin can add you again")
            connection.execute(
                update(people).where(people.c.name == known.name).values(role=found.role)
            )
            return str(known.name)
        values = {
            "role": found.role,
            "state": "active",
            "created_at": utc_now().replace(tzinfo=None, microsecond=0),
            "identity": found.identity,
        }
        holder = connection.execute(select(people).where(people.c.name == found.name)).one_or_none()
        if holder is None:
            connection.execute(insert(people).values(name=found.name, **values))
        elif holder.state == "removed" and holder.identity is None:
            connection.execute(update(people).where(people.c.name == found.name).values(values))
        else:
            raise AccessDenied(
                f"the name {found.name} belongs to somebody else here; an admin chooses another "
                "claim for names (oidc.name_claim), or removes a person who has it with a password"
            )
    return found.name
