"""The run store's tables, as the newest revision in `migrations/` leaves them.

Nothing here is secret: of a token only its keyed SHA-256 is kept, of a key only its public half.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
)
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; stored without its zone, which not every database keeps."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData()

parties = Table(
    "parties",
    metadata,
    Column("name", String(31), primary_key=True),
    Column("public_key", LargeBinary, nullable=False, unique=True),
    Column("supernode_public_key", String(512), nullable=False, unique=True),
    Column("enrolled_at", UtcDateTime, nullable=False),
    Column("removed_at", UtcDateTime),
)

invitations = Table(
    "invitations",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("party", String(31), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
)

requesters = Table(
    "requesters",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("public_key", LargeBinary, nullable=False, unique=True),
    Column("added_at", UtcDateTime, nullable=False),
)

# active_slot is 1 while a run is active and null afterwards: its unique constraint is what makes
# a second active run impossible, whoever asks at the same moment.
runs = Table(
    "runs",
    metadata,
    Column("run_id", String(63), primary_key=True),
    Column("plan_name", String(63), nullable=False),
    Column("plan_source", LargeBinary, nullable=False),
    Column("plan_digest", String(64), nullable=False),
    Column("requester_public", LargeBinary, nullable=False),
    Column("requester_signature", LargeBinary, nullable=False),
    Column("state", String(15), nullable=False),
    Column("active_slot", Integer, unique=True),
    Column("stop_requested", Boolean, nullable=False),
    Column("resume_requested", Boolean, nullable=False, server_default=false()),
    Column("phase", String(31)),
    Column("round", Integer),
    Column("total_rounds", Integer),
    Column("flower_run_id", String(63)),
    Column("error", String(63)),
    Column("exit_code", Integer),
    Column("message", Text),
    Column("outcome", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    # While the run is paused: names of absent parties (JSON), and when it gives up.
    Column("waiting_for", Text),
    Column("pause_until", UtcDateTime),
    # Which attempt conducts the run (0: begun by a version that kept no checkpoints), since when,
    # its process, and how often in a row it was taken up again without getting any further.
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("attempt_at", UtcDateTime),
    Column("stalled", Integer, nullable=False, server_default="0"),
    Column("process", String(255)),
    # How many events (phases, pauses, comings and goings, figures) are recorded.
    Column("recorded", Integer, nullable=False, server_default="0"),
    # Why the last attempt ended.
    Column("interruption", Text),
    Index("ix_runs_newest", "created_at", "run_id"),
)

run_members = Table(
    "run_members",
    metadata,
    Column("run_id", String(63), ForeignKey("runs.run_id"), primary_key=True),
    Column("party", String(31), primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
)

phases = Table(
    "phases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", String(63), ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("phase", String(31), nullable=False),
    Column("round", Integer),
    Column("started_at", UtcDateTime, nullable=False),
)

exchanges = Table(
    "exchanges",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", String(63), ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("phase", String(31), nullable=False),
    Column("round", Integer),
    Column("seconds", Float, nullable=False),
    Column("ended_at", UtcDateTime, nullable=False),
)

exchange_bytes = Table(
    "exchange_bytes",
    metadata,
    Column("exchange_id", Integer, ForeignKey("exchanges.id"), primary_key=True),
    Column("party", String(31), primary_key=True),
    Column("bytes_up", BigInteger, nullable=False),
    Column("bytes_down", BigInteger, nullable=False),
)

metrics = Table(
    "metrics",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", String(63), ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("name", String(63), nullable=False),
    Column("value", Float, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
)

membership = Table(
    "membership",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", String(63), ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("party", String(31), nullable=False),
    Column("event", String(31), nullable=False),
    Column("phase", String(31), nullable=False),
    Column("round", Integer),
    Column("at", UtcDateTime, nullable=False),
)
