"""The evidence packs' tables, as the newest revision in `migrations/` leaves them.

Statements are kept for as long as their run's history: they are what a pack is made of.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, LargeBinary, String, Table, Text

from coordinator.tables import UtcDateTime, metadata

# One reply of a party, once: a run that goes on after its ServerApp was killed hears it again.
evidence_statements = Table(
    "evidence_statements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", String(63), ForeignKey("runs.run_id"), nullable=False),
    Column("party", String(31), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("kind", String(31), nullable=False),
    Column("asked", LargeBinary, nullable=False),
    # Names of the participants (JSON).
    Column("cohort", Text, nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("bytes", Integer, nullable=False),
    Index("one_statement", "run_id", "party", "epoch", "sequence", unique=True),
)

# The file itself lies in HOME/evidence.
evidence_packs = Table(
    "evidence_packs",
    metadata,
    Column("run_id", String(63), ForeignKey("runs.run_id"), primary_key=True),
    Column("made_at", UtcDateTime, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", Integer, nullable=False),
)
