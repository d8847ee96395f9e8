"""Signing in with a password: sessions, and how often somebody may try.

A session's value is 256 random bits, kept in a cookie; the database holds its keyed hash. It ends
after half an hour without a request, after twelve hours in any case, and when its person signs
out, gets a new password or is removed.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, insert, or_, select, update

from privacy.errors import NotSignedIn, RateLimited
from privacy.hosting.access import MAX_SECRET_CHARACTERS, Access, Principal
from privacy.hosting.access_tables import failures, people, sessions
from privacy.hosting.database import reading, store_errors, utc_now
from privacy.hosting.passwords import password_fits, password_turn

IDLE = timedelta(minutes=30)
ABSOLUTE = timedelta(hours=12)
SEEN_EVERY = timedelta(minutes=1)  # a write for each request would take the database's lock
SESSION_BYTES = 32

# Failed attempts in WINDOW after which no more are looked at, by name and by address.
WINDOW = timedelta(minutes=15)
MOST_BY_NAME = 10
MOST_BY_ADDRESS = 30


@dataclass(frozen=True)
class Session:
    """A signed-in person. `csrf` must come back with every request that changes something."""

    principal: Principal
    csrf: str
    expires_at: datetime


@dataclass(frozen=True)
class NewSession:
    """A session just opened. `secret` goes into the cookie and nowhere else."""

    session: Session
    secret: str


class Sessions:
    """The sessions of the people in `access`."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def sign_in(self, name: str, password: str, address: str) -> NewSession:
        """Open a session. Raises NotSignedIn, with one text whatever was wrong, and RateLimited
        after too many failures of this name or from this address."""
        return self.open(name, self.check_password(name, password, address), address)

    def open(self, name: str, role: str, address: str) -> NewSession:
        """A session of a person whose identity has been proved, here or elsewhere."""
        secret = secrets.token_urlsafe(SESSION_BYTES)
        now = _stored(utc_now())
        with store_errors(), self._access.engine.begin() as connection:
            connection.execute(
                delete(sessions).where(
                    or_(sessions.c.seen_at < now - IDLE, sessions.c.created_at < now - ABSOLUTE)
                )
            )
            connection.execute(
                delete(failures).where(failures.c.subject == self._subject("name", name))
            )
            connection.execute(
                insert(sessions).values(
                    session_hash=self._hash(secret), person=name, created_at=now, seen_at=now
                )
            )
        principal = Principal(name, role, "person", address)
        expires = _aware(now) + min(IDLE, ABSOLUTE)
        return NewSession(Session(principal, self._csrf(secret), expires), secret)

    def check_password(self, name: str, password: str, address: str) -> str:
        """The role of the person whose password this is. Raises as `sign_in` does."""
        with password_turn():
            self._check_rate(name, address)
            query = select(people.c.password_hash, people.c.role).where(
                people.c.name == name, people.c.state == "active"
            )
            with store_errors(), reading(self._access.engine) as connection:
                row = connection.execute(query).one_or_none()
            if not password_fits(None if row is None else row.password_hash, password):
                self._record_failure(name, address)
                raise NotSignedIn("the name or the password is wrong")
        assert row is not None  # no password fits a person who is not there
        return str(row.role)

    def find(self, secret: str, address: str) -> Session | None:
        """The session of a cookie's value; None if there is none, or it has ended. The role is
        the one that the person has now."""
        if not 0 < len(secret) <= MAX_SECRET_CHARACTERS:
            return None
        query = (
            select(sessions, people.c.role)
            .join(people, people.c.name == sessions.c.person)
            .where(sessions.c.session_hash == self._hash(secret), people.c.state == "active")
        )
        with store_errors(), reading(self._access.engine) as connection:
            row = connection.execute(query).one_or_none()
        now = _stored(utc_now())
        if row is None or now >= min(row.seen_at + IDLE, row.created_at + ABSOLUTE):
            return None
        if now - row.seen_at >= SEEN_EVERY:
            with store_errors(), self._access.engine.begin() as connection:
                connection.execute(
                    update(sessions)
                    .where(sessions.c.session_hash == row.session_hash)
                    .values(seen_at=now)
                )
        principal = Principal(row.person, row.role, "person", address)
        return Session(
            principal, self._csrf(secret), _aware(min(now + IDLE, row.created_at + ABSOLUTE))
        )

    def sign_out(self, secret: str) -> None:
        """End a session; ending one that has ended changes nothing."""
        with store_errors(), self._access.engine.begin() as connection:
            connection.execute(
                delete(sessions).where(sessions.c.session_hash == self._hash(secret))
            )

    def forgive(self, name: str) -> None:
        """Forget the failed attempts of a name."""
        with store_errors(), self._access.engine.begin() as connection:
            connection.execute(
                delete(failures).where(failures.c.subject == self._subject("name", name))
            )

    def _check_rate(self, name: str, address: str) -> None:
        limits = {
            self._subject("name", name): MOST_BY_NAME,
            self._subject("address", address): MOST_BY_ADDRESS,
        }
        query = select(failures).where(failures.c.subject.in_(limits))
        with store_errors(), reading(self._access.engine) as connection:
            rows = connection.execute(query).all()
        now = _stored(utc_now())
        if any(row.failed >= limits[row.subject] and now < row.since + WINDOW for row in rows):
            minutes = int(WINDOW.total_seconds() // 60)
            raise RateLimited(f"too many failed attempts; wait {minutes} minutes")

    def _record_failure(self, name: str, address: str) -> None:
        now = _stored(utc_now())
        with store_errors(), self._access.engine.begin() as connection:
            connection.execute(delete(failures).where(failures.c.since <= now - WINDOW))
            for subject in (self._subject("name", name), self._subject("address", address)):
                counted = connection.execute(
                    update(failures)
                    .where(failures.c.subject == subject)
                    .values(failed=failures.c.failed + 1)
                )
                if counted.rowcount == 0:
                    connection.execute(
                        insert(failures).values(subject=subject, failed=1, since=now)
                    )

    def _subject(self, kind: str, value: str) -> str:
        return self._access.keyed_hash(f"failure by {kind}", value)

    def _hash(self, secret: str) -> str:
        return self._access.keyed_hash("session", secret)

    def _csrf(self, secret: str) -> str:
        return self._access.keyed_hash("csrf", secret)


def same_secret(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _stored(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None, microsecond=0)


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)
