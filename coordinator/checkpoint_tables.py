"""The tables of what a run has heard so far, until it ends; revision 0003 makes them.

They hold signed statements that the coordinator relayed anyway, and ciphertexts that it cannot
open.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, String, Table

from coordinator.tables import metadata

# One row an answered exchange, or a moment that the run decided by (`coordinator.checkpoints`).
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("run_id", String(63), ForeignKey("runs.run_id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

# What later messages still carry: an encrypted sum, a sealed model. By SHA-256, in hex.
checkpoint_attachments = Table(
    "checkpoint_attachments",
    metadata,
    Column("run_id", String(63), ForeignKey("runs.run_id"), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
