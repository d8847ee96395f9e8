"""What the API keeps of requests that may come twice, beside the run store's own tables."""

from __future__ import annotations

from sqlalchemy import Column, Integer, LargeBinary, String, Table

from coordinator.tables import UtcDateTime, metadata

# key_hash: keyed, of the one who asks, the path and the Idempotency-Key. request_hash: of the body.
# status is null while the first request is being answered; answer is sealed.
idempotency = Table(
    "idempotency",
    metadata,
    Column("key_hash", String(64), primary_key=True),
    Column("request_hash", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("status", Integer),
    Column("answer", LargeBinary),
)
