"""People and API tokens of a service: who they are and which role they have.

What a role may do is the service's own table; here a role is a word. Tokens are 256-bit random
values, shown once; the database holds their HMAC-SHA-256 under a key that lies in a file. A slow
hash would add nothing to 256 random bits. Passwords get argon2id (`privacy.hosting.passwords`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from privacy.errors import ConfigError, NotFound
from privacy.hosting.access_tables import people, sessions, tokens
from privacy.hosting.access_values import DEFAULT_TOKEN_DAYS as DEFAULT_TOKEN_DAYS
from privacy.hosting.access_values import MAX_TOKEN_DAYS as MAX_TOKEN_DAYS
from privacy.hosting.access_values import NAME_PATTERN as NAME_PATTERN
from privacy.hosting.access_values import Person as Person
from privacy.hosting.access_values import Principal as Principal
from privacy.hosting.access_values import Token as Token
from privacy.hosting.database import (
    create_private_file,
    open_engine,
    reading,
    store_errors,
    utc_now,
)
from privacy.hosting.migrations import upgrade_engine
from privacy.hosting.passwords import hash_password

MIGRATIONS = Path(__file__).parent / "access_migrations"
TOKEN_PREFIX = "fedtags_"  # lets a secret scanner find one  # noqa: S105
TOKEN_BYTES = 32
MAX_SECRET_CHARACTERS = 128
# Asked for every request: built once.
_BY_HASH = select(tokens).where(tokens.c.token_hash == bindparam("hashed"))


class Access:
    """People and tokens in one database, which is created or upgraded when opened.

    `key` is 32 secret bytes. `migrations`: of a service that keeps these tables in its own
    database, that database's. Every error is a FedtagsError and holds no secret.
    """

    def __init__(self, url: str, key: bytes, migrations: Path = MIGRATIONS) -> None:
        self.engine: Engine = open_engine(url)
        create_private_file(url, "the access database's file", "the permissions of its folder")
        upgrade_engine(self.engine, migrations)
        self._key = key

    def close(self) -> None:
        """Give up all connections."""
        self.engine.dispose()

    def keyed_hash(self, what: str, value: str) -> str:
        """HMAC-SHA-256 in hex of `value`, a `what`: only the key's holder can recompute it."""
        message = b"fedtags " + what.encode() + b" 1\0" + value.encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()

    # People --------------------------------------------------------------------------------------

    def people(self) -> list[Person]:
        """Everyone, by name, those who were removed included."""
        with store_errors(), reading(self.engine) as connection:
            rows = connection.execute(select(people).order_by(people.c.name)).all()
        return [_person(row) for row in rows]

    def add_person(self, name: str, role: str, password: str | None = None) -> Person:
        """Add a person, or bring a removed one back. Without a password there is no signing in."""
        _check_name(name)
        hashed = None if password is None else hash_password(password)
        values = {
            "role": role,
            "state": "active",
            "password_hash": hashed,
            "created_at": _stored(utc_now()),
        }
        with store_errors(), self.engine.begin() as connection:
            known = connection.execute(select(people).where(people.c.name == name)).one_or_none()
            if known is not None and known.state == "active":
                raise ConfigError(f"a person named {name} is there already; choose another name")
            if known is None:
                connection.execute(insert(people).values(name=name, **values))
            else:
                connection.execute(update(people).where(people.c.name == name).values(values))
            return _one_person(connection, name)

    def set_role(self, name: str, role: str, *, keep: str | None = None) -> Person:
        """Change a person's role, from the next request on. With `keep`, somebody of that role
        must remain (ConfigError)."""
        with store_errors(), self.engine.begin() as connection:
            person = _active(connection, name)
            if person.role == keep != role:
                _check_another(connection, name, keep)
            connection.execute(update(people).where(people.c.name == name).values(role=role))
            return _one_person(connection, name)

    def set_password(self, name: str, password: str) -> None:
        """Give a person a new password and end that person's sessions."""
        hashed = hash_password(password)
        with store_errors(), self.engine.begin() as connection:
            _active(connection, name)
            connection.execute(
                update(people).where(people.c.name == name).values(password_hash=hashed)
            )
            connection.execute(delete(sessions).where(sessions.c.person == name))

    def remove_person(self, name: str, *, keep: str | None = None) -> tuple[str, ...]:
        """Remove a person and end the sessions; the name stays listed. Returns the names of valid
        tokens that the person made. With `keep`, somebody of that role must remain."""
        with store_errors(), self.engine.begin() as connection:
            person = _active(connection, name)
            if person.role == keep:
                _check_another(connection, name, keep)
            connection.execute(
                update(people)
                .where(people.c.name == name)
                .values(state="removed", password_hash=None)
            )
            connection.execute(delete(sessions).where(sessions.c.person == name))
            made = connection.execute(select(tokens).where(tokens.c.created_by == name)).all()
        now = utc_now()
        return tuple(sorted(row.name for row in made if _token(row).valid(now)))

    # Tokens --------------------------------------------------------------------------------------

    def tokens(self) -> list[Token]:
        """Every API token, by name, those that were revoked or have expired included."""
        with store_errors(), reading(self.engine) as connection:
            rows = connection.execute(select(tokens).order_by(tokens.c.name)).all()
        return [_token(row) for row in rows]

    def create_token(
        self, name: str, role: str, *, created_by: str, days: int = DEFAULT_TOKEN_DAYS
    ) -> tuple[Token, str]:
        """A new token and its secret, which is stored nowhere. A name is never used again."""
        _check_name(name)
        if not 1 <= days <= MAX_TOKEN_DAYS:
            raise ConfigError(f"days: a token is valid for 1 to {MAX_TOKEN_DAYS} days")
        secret = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        now = utc_now()
        values = {
            "token_hash": self.keyed_hash("token", secret),
            "name": name,
            "role": role,
            "created_by": created_by,
            "created_at": _stored(now),
            "expires_at": _stored(now + timedelta(days=days)),
        }
        with store_errors(), self.engine.begin() as connection:
            try:
                connection.execute(insert(tokens).values(values))
            except IntegrityError:
                raise ConfigError(
                    f"a token named {name} is there, or was; a name is not used again: choose "
                    "another"
                ) from None
            row = connection.execute(select(tokens).where(tokens.c.name == name)).one()
        return _token(row), secret

    def revoke_token(self, name: str) -> Token:
        """Make a token useless from the next request on; revoking it again changes nothing."""
        with store_errors(), self.engine.begin() as connection:
            connection.execute(
                update(tokens)
                .where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
                .values(revoked_at=_stored(utc_now()))
            )
            row = connection.execute(select(tokens).where(tokens.c.name == name)).one_or_none()
        if row is None:
            raise NotFound("no token has this name; list them to see which there are")
        return _token(row)

    def principal_of_token(self, secret: str, address: str) -> Principal | None:
        """Whom an API token stands for; None if it is unknown, revoked or expired.

        Asked of the database each time, so revoking works at once. The day of use is written once
        a day.
        """
        token = self._token_of(secret)
        if token is None:
            return None
        today = utc_now().date()
        if token.last_used != today:
            with store_errors(), self.engine.begin() as connection:
                connection.execute(
                    update(tokens).where(tokens.c.name == token.name).values(last_used=today)
                )
        return Principal(token.name, token.role, "token", address)

    def principal_of_token_in_use(self, secret: str, address: str) -> Principal | None:
        """The same for a token that was used today before; None otherwise. Never writes, so it
        waits for no lock."""
        token = self._token_of(secret)
        if token is None or token.last_used != utc_now().date():
            return None
        return Principal(token.name, token.role, "token", address)

    def _token_of(self, secret: str) -> Token | None:
        if not 0 < len(secret) <= MAX_SECRET_CHARACTERS:
            return None
        hashed = self.keyed_hash("token", secret)
        with store_errors(), reading(self.engine) as connection:
            row = connection.execute(_BY_HASH, {"hashed": hashed}).one_or_none()
        token = None if row is None else _token(row)
        return token if token is not None and token.valid(utc_now()) else None


def _check_name(name: str) -> None:
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise ConfigError(
            "name: 1 to 63 lower-case letters, digits and . _ @ -, beginning with a letter"
        )


def _active(connection: Connection, name: str) -> Person:
    row = connection.execute(
        select(people).where(people.c.name == name, people.c.state == "active")
    ).one_or_none()
    if row is None:
        raise NotFound("no person has this name; list them to see who there is")
    return _person(row)


def _one_person(connection: Connection, name: str) -> Person:
    return _person(connection.execute(select(people).where(people.c.name == name)).one())


def _check_another(connection: Connection, name: str, role: str) -> None:
    others: Sequence[Any] = connection.execute(
        select(people.c.name).where(
            people.c.role == role, people.c.state == "active", people.c.name != name
        )
    ).all()
    if not others:
        raise ConfigError(f"{name} is the last {role}; give somebody else that role first")


def _person(row: Row[Any]) -> Person:
    return Person(
        name=row.name,
        role=row.role,
        state=row.state,
        has_password=row.password_hash is not None,
        created_at=_aware(row.created_at),
        elsewhere=row.identity is not None,
    )


def _token(row: Row[Any]) -> Token:
    return Token(
        name=row.name,
        role=row.role,
        created_by=row.created_by,
        created_at=_aware(row.created_at),
        expires_at=_aware(row.expires_at),
        revoked_at=None if row.revoked_at is None else _aware(row.revoked_at),
        last_used=row.last_used,
    )


def _stored(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
