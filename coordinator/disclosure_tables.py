"""Tables of what parties tell: the newest disclosure of each, its budget over time, contradictions.

No foreign key to `parties`: what a party told stays after it has left the federation.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, String, Table, Text

from coordinator.tables import UtcDateTime, metadata

# body, signed_at and signature: the request as it came, so that the party can be held to it.
# ledger_position, ledger_hash: the furthest place of its ledger that the party has ever told, and
# ledger_request the request that told it.
disclosures = Table(
    "disclosures",
    metadata,
    Column("party", String(31), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("signed_at", BigInteger, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("ledger_position", BigInteger),
    Column("ledger_hash", String(64)),
    Column("ledger_request", Text),
)

# A row each time that a party's spend is another than before.
disclosed_budgets = Table(
    "disclosed_budgets",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("party", String(31), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("epsilon", Float, nullable=False),
    Column("delta", Float, nullable=False),
    Column("spent", Float, nullable=False),
    Column("used", Float, nullable=False),
)

# earlier and later: the two requests that cannot both be true. earlier_hash: SHA-256 of the first.
contradictions = Table(
    "contradictions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("party", String(31), nullable=False, index=True),
    Column("kind", String(31), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("what", Text, nullable=False),
    Column("earlier_hash", String(64), nullable=False),
    Column("earlier", Text, nullable=False),
    Column("later", Text, nullable=False),
)
