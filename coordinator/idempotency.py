"""Requests that may come twice: the answer of the first is given to the second.

A client that lost an answer repeats the request with the same Idempotency-Key and learns what came
of it; nothing is done twice. An answer is kept for a day, sealed under a key that is made of the
service's secret and of the client's Idempotency-Key: the database alone opens none of them, which
matters where an answer holds an invite or a new token. A request that failed is forgotten, so it
can be made again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from coordinator.api_tables import idempotency
from privacy.errors import ConfigError
from privacy.hosting.access import Access
from privacy.hosting.database import store_errors, utc_now

KEPT = timedelta(hours=24)
# A request that has not been answered after this was cut off; the next one may try.
ABANDONED = timedelta(minutes=5)
_NONCE_BYTES = 12


@dataclass(frozen=True)
class Answer:
    """A stored answer: HTTP status and body."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Begun:
    """A request that is to be answered. Its handle for `Answers.done` and `Answers.forget`."""

    key_hash: str
    secret: bytes


class Answers:
    """Answers in the database of `access`, under its key. Safe between threads and processes."""

    def __init__(self, access: Access) -> None:
        self._engine, self._keyed = access.engine, access.keyed_hash

    def begin(self, who: str, path: str, key: str, body: bytes) -> Begun | Answer | None:
        """The stored answer of the same request, or a handle to answer it now; None while the first
        one is being answered. Raises ConfigError if `who` used the key here for another request.
        """
        given = f"{who}\0{path}\0{key}"
        begun = Begun(
            self._keyed("idempotency", given),
            bytes.fromhex(self._keyed("idempotent answer", given)),
        )
        wanted = hashlib.sha256(body).hexdigest()
        with store_errors(), self._engine.begin() as connection:
            return self._begin(connection, begun, wanted)

    def _begin(self, connection: Connection, begun: Begun, wanted: str) -> Begun | Answer | None:
        now, table = utc_now(), idempotency.c
        connection.execute(delete(idempotency).where(table.created_at < now - KEPT))
        connection.execute(
            delete(idempotency).where(
                table.key_hash == begun.key_hash,
                table.status.is_(None),
                table.created_at < now - ABANDONED,
            )
        )
        row = connection.execute(
            select(idempotency).where(table.key_hash == begun.key_hash)
        ).one_or_none()
        if row is None:
            values = {"key_hash": begun.key_hash, "request_hash": wanted, "created_at": now}
            try:
                with connection.begin_nested():
                    connection.execute(insert(idempotency).values(values))
            except IntegrityError:
                return None  # elsewhere than on SQLite two may both have seen no row
            return begun
        if row.request_hash != wanted:
            raise ConfigError(
                "Idempotency-Key: it was used here for another request; use a new one for each"
            )
        if row.status is None:
            return None
        sealed: bytes = row.answer
        opened = AESGCM(begun.secret).decrypt(
            sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], begun.key_hash.encode()
        )
        return Answer(row.status, opened)

    def done(self, begun: Begun, answer: Answer) -> None:
        """Keep the answer for a day."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + AESGCM(begun.secret).encrypt(nonce, answer.body, begun.key_hash.encode())
        self._change(
            lambda connection: connection.execute(
                update(idempotency)
                .where(idempotency.c.key_hash == begun.key_hash)
                .values(status=answer.status, answer=sealed)
            )
        )

    def forget(self, begun: Begun) -> None:
        """The request failed and may be made again."""
        self._change(
            lambda connection: connection.execute(
                delete(idempotency).where(idempotency.c.key_hash == begun.key_hash)
            )
        )

    def _change(self, change: Callable[[Connection], object]) -> None:
        with store_errors(), self._engine.begin() as connection:
            change(connection)
