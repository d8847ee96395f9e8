"""The table of alerts, as the newest revision in `migrations/` leaves it."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, String, Table, Text

from coordinator.tables import UtcDateTime, metadata

# open_key is "kind:subject" while an alert is open and null afterwards: its unique constraint is
# what makes the same alert twice impossible. told: how many of its two events (raised, resolved)
# the webhook has taken.
alerts = Table(
    "alerts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("kind", String(31), nullable=False),
    Column("subject", String(127), nullable=False),
    Column("message", Text, nullable=False),
    Column("open_key", String(159), unique=True),
    Column("raised_at", UtcDateTime, nullable=False),
    Column("resolved_at", UtcDateTime),
    Column("told", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", UtcDateTime),
    Index("ix_alerts_told", "told"),
)
