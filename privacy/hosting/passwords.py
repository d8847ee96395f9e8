"""Passwords: argon2id (RFC 9106), one at a time.

A check takes about a tenth of a second of one processor on purpose. Only one runs at a time and
only a few wait, so that a flood of attempts cannot take the processors from other requests.
"""

from __future__ import annotations

import secrets
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from privacy.errors import ConfigError, RateLimited

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 256
MOST_WAITING = 4
WAIT_SECONDS = 3.0

# One lane: it runs on one processor, and leaves the others alone.
_hasher = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)
_turn = threading.Lock()
_places = threading.BoundedSemaphore(MOST_WAITING + 1)


def hash_password(password: str) -> str:
    """The argon2id hash to store. Raises ConfigError for a password that is too short or long."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ConfigError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return _hasher.hash(_normal(password))


def password_fits(stored: str | None, password: str) -> bool:
    """Whether `password` is the one of `stored`. Without one it takes as long, and is False."""
    if len(password) > LONGEST_PASSWORD:
        return False
    try:
        matches = _hasher.verify(stored or _nobody(), _normal(password))
    except (VerificationError, InvalidHashError):
        return False
    return matches and stored is not None


@contextmanager
def password_turn() -> Iterator[None]:
    """One check at a time. Raises RateLimited if too many wait already."""
    if not _places.acquire(blocking=False):
        raise RateLimited("too many people are signing in; try again in a few seconds")
    try:
        if not _turn.acquire(timeout=WAIT_SECONDS):
            raise RateLimited("too many people are signing in; try again in a few seconds")
        try:
            yield
        finally:
            _turn.release()
    finally:
        _places.release()


@cache
def _nobody() -> str:
    """A hash that nobody's password has, so that an unknown name takes as long as a known one."""
    return _hasher.hash(secrets.token_bytes(32))


def _normal(password: str) -> bytes:
    # Keyboards compose one letter in two ways; both are the same password.
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
