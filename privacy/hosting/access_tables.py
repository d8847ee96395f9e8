"""The access database's tables, as the newest revision in `access_migrations/` leaves them.

Times are UTC, stored without their zone. Of a token and a session only a keyed hash is stored.
"""

from __future__ import annotations

from sqlalchemy import Column, Date, DateTime, Integer, MetaData, String, Table

metadata = MetaData()

people = Table(
    "people",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("role", String(31), nullable=False),
    Column("state", String(15), nullable=False),
    Column("password_hash", String(255)),
    Column("created_at", DateTime, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("role", String(31), nullable=False),
    Column("created_by", String(63), nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("expires_at", DateTime, nullable=False),
    Column("revoked_at", DateTime),
    Column("last_used", Date),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_hash", String(64), primary_key=True),
    Column("person", String(63), nullable=False, index=True),
    Column("created_at", DateTime, nullable=False),
    Column("seen_at", DateTime, nullable=False),
)

# What failed lately, by keyed hash of a name or an address: a limit outlives a restart.
failures = Table(
    "failures",
    metadata,
    Column("subject", String(64), primary_key=True),
    Column("failed", Integer, nullable=False),
    Column("since", DateTime, nullable=False),
)
