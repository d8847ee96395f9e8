"""The access tables, as the newest revision in `access_migrations/` leaves them, or that of a
service which keeps them in its own database.

Times are UTC, stored without their zone. Of a token and a session only a keyed hash is stored.
`identity`: of a person who signs in at a provider, the SHA-256 of the provider and of whom it
calls the person; null for everybody else.
"""

from __future__ import annotations

from sqlalchemy import Column, Date, DateTime, Index, Integer, MetaData, String, Table

metadata = MetaData()

people = Table(
    "people",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("role", String(63), nullable=False),
    Column("state", String(15), nullable=False),
    Column("password_hash", String(255)),
    Column("created_at", DateTime, nullable=False),
    Column("identity", String(64)),
    Index("ix_people_identity", "identity", unique=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("role", String(63), nullable=False),
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
