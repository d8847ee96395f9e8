"""The profile store's tables, as the newest revision in `migrations/` leaves them.

Times are UTC, stored without their zone. A customer's id compares byte by byte everywhere:
MariaDB and MySQL would otherwise take two ids for one that differ in case only.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
)
from sqlalchemy.dialects import mysql

MAX_CUSTOMER_CHARACTERS = 255

_customer = String(MAX_CUSTOMER_CHARACTERS).with_variant(
    mysql.VARCHAR(MAX_CUSTOMER_CHARACTERS, collation="utf8mb4_bin"), "mysql", "mariadb"
)
_row_number = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself there

metadata = MetaData()

publications = Table(
    "publications",
    metadata,
    Column("run_id", String(63), primary_key=True),
    Column("plan_digest", String(64), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("parties", JSON, nullable=False),
    Column("epsilon", Float(53), nullable=False),
    Column("delta", Float(53), nullable=False),
    Column("published_at", DateTime, nullable=False),
    Column("as_of", Date, nullable=False),
    Column("valid_until", Date, nullable=False),
    Column("status", String(15), nullable=False),
)

tag_values = Table(
    "tag_values",
    metadata,
    Column("customer", _customer, primary_key=True),
    Column("tag", String(63), primary_key=True),
    Column("value", String(63), nullable=False),
    Column("score", Float(53), nullable=False),
    Column("run_id", String(63), ForeignKey("publications.run_id"), nullable=False),
    Column("valid_until", Date, nullable=False),
)

tag_history = Table(
    "tag_history",
    metadata,
    Column("id", _row_number, primary_key=True, autoincrement=True),
    Column("customer", _customer, nullable=False, index=True),
    Column("tag", String(63), nullable=False),
    Column("value", String(63), nullable=False),
    Column("score", Float(53), nullable=False),
    Column("run_id", String(63), ForeignKey("publications.run_id"), nullable=False),
    Column("valid_until", Date, nullable=False),
    Column("replaced_by", String(63), ForeignKey("publications.run_id"), nullable=False),
)
