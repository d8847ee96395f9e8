"""Who belongs to the federation: parties, invitations and requesters.

Invitations' tokens are 256-bit random values, shown once; the database holds their HMAC-SHA-256
under a key that lies in a file, so neither a stolen database nor a stolen key file alone is of any
use.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, or_, select, update

from coordinator.run_store import MIGRATIONS
from coordinator.tables import invitations, parties, requesters
from privacy.errors import ConfigError, NotFound
from privacy.hosting.database import open_engine, reading, store_errors, utc_now
from privacy.hosting.migrations import upgrade_engine
from privacy.identity import PARTY_PATTERN, fingerprint

TOKEN_BYTES = 32


@dataclass(frozen=True)
class Party:
    """A party: its public keys, when it enrolled, and when it was removed, if it was."""

    name: str
    public_key: bytes
    supernode_public_key: str
    enrolled_at: datetime
    removed_at: datetime | None = None

    @property
    def fingerprint(self) -> str:
        """What operators compare out of band."""
        return fingerprint(self.public_key)


@dataclass(frozen=True)
class Requester:
    """Someone who may sign plans."""

    name: str
    public_key: bytes


@dataclass(frozen=True)
class OpenInvitation:
    """An invitation that can still be used, without its token."""

    party: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class Invitation:
    """A fresh invitation. `token` is shown this once and stored nowhere."""

    party: str
    token: str
    expires_at: datetime


class MemberStore:
    """The membership part of the coordinator's database. `token_key` is 32 secret bytes."""

    def __init__(self, url: str, token_key: bytes) -> None:
        self._engine = open_engine(url)
        upgrade_engine(self._engine, MIGRATIONS)
        self._token_key = token_key

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def add_requester(self, name: str, public_key: bytes) -> None:
        """Let `public_key` sign plans; adding the very same again changes nothing."""
        with store_errors(), self._engine.begin() as connection:
            known = connection.execute(
                select(requesters).where(
                    or_(requesters.c.name == name, requesters.c.public_key == public_key)
                )
            ).all()
            if any(row.name != name or row.public_key != public_key for row in known):
                raise ConfigError(f"requester {name}: the name or the key is taken by another")
            if not known:
                connection.execute(
                    insert(requesters).values(name=name, public_key=public_key, added_at=utc_now())
                )

    def requesters(self) -> Sequence[Requester]:
        """Everyone who may sign plans, by name."""
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(select(requesters).order_by(requesters.c.name)).all()
        return [Requester(row.name, row.public_key) for row in rows]

    def invite(self, party: str, valid: timedelta) -> Invitation:
        """A one-time invitation for `party`. Raises ConfigError if it is enrolled already."""
        if not re.fullmatch(PARTY_PATTERN, party):
            raise ConfigError(
                f"party name: lower-case letters, digits and dashes ({PARTY_PATTERN})"
            )
        now = utc_now()
        invitation = Invitation(party, secrets.token_urlsafe(TOKEN_BYTES), now + valid)
        with store_errors(), self._engine.begin() as connection:
            if self._party(connection, party) is not None:
                raise ConfigError(f"party {party} is enrolled already; choose another name")
            connection.execute(
                insert(invitations).values(
                    token_hash=self._hash(invitation.token),
                    party=party,
                    created_at=now,
                    expires_at=invitation.expires_at,
                )
            )
        return invitation

    def enrol(
        self,
        token: str,
        party: str,
        public_key: bytes,
        supernode_public_key: str,
        register: Callable[[], None],
    ) -> Party:
        """Use an invitation up and store the party, calling `register` before it is final.

        One transaction: if `register` raises, the invitation stays usable. The very same party
        with the same keys may repeat a used token (its answer may have been lost); anything else
        raises ConfigError.
        """
        with store_errors(), self._engine.begin() as connection:
            invitation = connection.execute(
                select(invitations).where(invitations.c.token_hash == self._hash(token))
            ).one_or_none()
            if invitation is None or invitation.party != party:
                raise ConfigError(
                    f"the invitation is not valid for party {party}; check that `party` in "
                    "party.toml is the invited name, or ask the coordinator for a new invite"
                )
            enrolled = self._party(connection, party)
            if invitation.used_at is not None:
                keys = (public_key, supernode_public_key)
                if enrolled and (enrolled.public_key, enrolled.supernode_public_key) == keys:
                    return enrolled
                raise ConfigError(
                    "the invitation has been used already; ask the coordinator for a new invite"
                )
            if invitation.expires_at <= utc_now():
                raise ConfigError(
                    "the invitation has expired; ask the coordinator for a new invite"
                )
            if enrolled is not None:
                raise ConfigError(f"party {party} is enrolled already with another invitation")
            new = Party(party, public_key, supernode_public_key, utc_now())
            _store_party(connection, new)
            connection.execute(
                update(invitations)
                .where(invitations.c.token_hash == invitation.token_hash)
                .values(used_at=utc_now())
            )
            register()
        return new

    def parties(self) -> Sequence[Party]:
        """Every enrolled party, by name."""
        return [party for party in self.everyone() if party.removed_at is None]

    def everyone(self) -> Sequence[Party]:
        """Every party, by name, those that were removed included."""
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(select(parties).order_by(parties.c.name)).all()
        return [Party(*row) for row in rows]

    def party(self, name: str) -> Party | None:
        """One enrolled party."""
        with store_errors(), reading(self._engine) as connection:
            return self._party(connection, name)

    def remove(self, name: str, unregister: Callable[[Party], None]) -> Party:
        """Remove a party, calling `unregister` before it is final; it stays listed as removed.

        Its open invitations end. Raises NotFound if it is not enrolled.
        """
        with store_errors(), self._engine.begin() as connection:
            party = self._party(connection, name)
            if party is None:
                raise NotFound("no enrolled party has this name; list them to see which there are")
            connection.execute(
                update(parties).where(parties.c.name == name).values(removed_at=utc_now())
            )
            connection.execute(
                update(invitations)
                .where(invitations.c.party == name, invitations.c.used_at.is_(None))
                .values(expires_at=utc_now())
            )
            unregister(party)
            row = connection.execute(select(parties).where(parties.c.name == name)).one()
        return Party(*row)

    def open_invitations(self) -> Sequence[OpenInvitation]:
        """Invitations that can still be used, by party."""
        query = select(
            invitations.c.party, invitations.c.created_at, invitations.c.expires_at
        ).where(invitations.c.used_at.is_(None), invitations.c.expires_at > utc_now())
        query = query.order_by(invitations.c.party, invitations.c.created_at)
        with store_errors(), reading(self._engine) as connection:
            return [OpenInvitation(*row) for row in connection.execute(query)]

    def _party(self, connection: Connection, name: str) -> Party | None:
        row = connection.execute(
            select(parties).where(parties.c.name == name, parties.c.removed_at.is_(None))
        ).one_or_none()
        return None if row is None else Party(*row)

    def _hash(self, token: str) -> str:
        return hmac.new(
            self._token_key, b"fedtags token 1\0" + token.encode(), hashlib.sha256
        ).hexdigest()


def _store_party(connection: Connection, new: Party) -> None:
    """Store a party, or take a removed one back with the keys that it had: others pinned them."""
    known = connection.execute(select(parties).where(parties.c.name == new.name)).one_or_none()
    if known is not None:
        had = (known.public_key, known.supernode_public_key)
        if had != (new.public_key, new.supernode_public_key):
            raise ConfigError(
                f"party {new.name} was a member with other keys, which the other members have "
                "pinned; join with its old home folder, or under another name"
            )
        connection.execute(
            update(parties)
            .where(parties.c.name == new.name)
            .values(removed_at=None, enrolled_at=new.enrolled_at)
        )
        return
    taken = select(parties.c.name).where(
        or_(
            parties.c.public_key == new.public_key,
            parties.c.supernode_public_key == new.supernode_public_key,
        )
    )
    if connection.execute(taken).first() is not None:
        raise ConfigError(
            "a key of this party belongs to another member; every party makes its own keys with "
            "`fedtags-party init`"
        )
    connection.execute(
        insert(parties).values(
            name=new.name,
            public_key=new.public_key,
            supernode_public_key=new.supernode_public_key,
            enrolled_at=new.enrolled_at,
        )
    )
