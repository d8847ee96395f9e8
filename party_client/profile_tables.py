"""The profile store's tables, as the newest revision in `migrations/` leaves them.

A customer stands here by a key of 16 bytes, an HMAC of the id; the id itself is sealed, in
`customers` and `opt_outs` only. Whoever takes the database without keys/store.key has pseudonyms.
Times are UTC, stored without their zone; consent's are microseconds since 1970, which every
database compares alike.

The two large tables name their tag and reasons by numbers of `terms` and refer to nothing by a
foreign key: PostgreSQL would check each of millions of rows by itself, and nothing that they name
is ever deleted.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql

MAX_CUSTOMER_CHARACTERS = 255
KEY_BYTES = 16

_number = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself there
_key = LargeBinary(KEY_BYTES).with_variant(mysql.BINARY(KEY_BYTES), "mysql", "mariadb")
_blob = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
# MariaDB and MySQL would otherwise take two texts for one that differ in case only.
_exact = {"collation": "utf8mb4_bin"}


def _text(characters: int) -> Any:
    return String(characters).with_variant(mysql.VARCHAR(characters, **_exact), "mysql", "mariadb")


# Named, because PostgreSQL keeps an index's name for ever: the first version's are taken.
metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s"})


def _table(name: str, *columns: Any) -> Table:
    # Clustered by its key: rows that come in its order are written one after the other.
    return Table(name, metadata, *columns, sqlite_with_rowid=False)


key_checks = _table(
    "key_checks",
    Column("name", _text(31), nullable=False),
    Column("value", _key, nullable=False),
    PrimaryKeyConstraint("name"),
)

customers = _table(
    "customers",
    Column("customer_key", _key, nullable=False),
    Column("sealed", _blob, nullable=False),
    PrimaryKeyConstraint("customer_key"),
)

terms = Table(
    "terms",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("text", _text(255), nullable=False),
    UniqueConstraint("text"),
)

publications = Table(
    "publications",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("run_id", _text(63), nullable=False),
    Column("kind", _text(7), nullable=False),
    Column("plan_digest", _text(64), nullable=True),
    Column("model_digest", _text(64), nullable=False),
    Column("parties", JSON, nullable=False),
    Column("epsilon", Float(53), nullable=False),
    Column("delta", Float(53), nullable=False),
    Column("published_at", DateTime, nullable=False),
    Column("as_of", Date, nullable=False),
    Column("consent_receipt", _text(64), nullable=False),
    Column("status", _text(15), nullable=False),
    UniqueConstraint("run_id"),
)

publication_tags = _table(
    "publication_tags",
    Column("publication_id", Integer, nullable=False),
    Column("tag_id", Integer, nullable=False),
    Column("valid_until", Date, nullable=False),
    PrimaryKeyConstraint("publication_id", "tag_id"),
)

# publication_id: the newest that said so; changed_id: the one that set the value.
tag_values = _table(
    "tag_values",
    Column("tag_id", Integer, nullable=False),
    Column("customer_key", _key, nullable=False),
    Column("value", _text(64), nullable=False),
    Column("score", Float(53), nullable=True),
    Column("reasons_id", Integer, nullable=True),
    Column("publication_id", Integer, nullable=False),
    Column("changed_id", Integer, nullable=False),
    PrimaryKeyConstraint("tag_id", "customer_key"),
)

# The key begins with the publication, so that history only ever grows at its end.
tag_history = _table(
    "tag_history",
    Column("publication_id", Integer, nullable=False),
    Column("tag_id", Integer, nullable=False),
    Column("customer_key", _key, nullable=False),
    Column("value", _text(64), nullable=False),
    Column("score", Float(53), nullable=True),
    Column("reasons_id", Integer, nullable=True),
    Column("replaced_by", Integer, nullable=False),
    PrimaryKeyConstraint("publication_id", "tag_id", "customer_key"),
)

consents = _table(
    "consents",
    Column("customer_key", _key, nullable=False),
    Column("purpose", _text(63), nullable=False),
    Column("granted", Boolean, nullable=False),
    Column("granted_at", BigInteger, nullable=True),
    Column("expires_at", BigInteger, nullable=True),
    Column("withdrawn_at", BigInteger, nullable=True),
    PrimaryKeyConstraint("customer_key", "purpose"),
)

consent_states = Table(
    "consent_states",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("receipt", _text(64), nullable=False),
    Column("asserted", Boolean, nullable=False),
    Column("refreshed_at", DateTime, nullable=False),
)

opt_outs = _table(
    "opt_outs",
    Column("customer_key", _key, nullable=False),
    Column("sealed", _blob, nullable=False),
    Column("sealed_reason", _blob, nullable=False),
    Column("person", _text(191), nullable=False),
    Column("at", DateTime, nullable=False),
    PrimaryKeyConstraint("customer_key"),
)

# Who took part in a run: sorted, each the first 8 bytes of a customer's key; in parts, because
# MariaDB takes no packet beyond 16 MB.
participations = _table(
    "participations",
    Column("run_id", _text(63), nullable=False),
    Column("role", _text(15), nullable=False),
    Column("part", Integer, nullable=False),
    Column("plan", _text(191), nullable=False),
    Column("plan_digest", _text(64), nullable=False),
    Column("model_digest", _text(64), nullable=True),
    Column("at", DateTime, nullable=False),
    Column("members", _blob, nullable=False),
    PrimaryKeyConstraint("run_id", "role", "part"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _number, primary_key=True, autoincrement=True),
    Column("event_id", _text(63), nullable=False),
    Column("type", _text(63), nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("data", Text, nullable=False),
    Column("sealed_customer", _blob, nullable=True),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", DateTime, nullable=False),
    Column("delivered_at", DateTime, nullable=True),
    UniqueConstraint("event_id"),
)

# What a publication brings, before it is merged; every connection has its own.
staged = Table(
    "staged_tags",
    MetaData(),
    Column("tag_id", Integer, nullable=False),
    Column("customer_key", _key, nullable=False),
    Column("value", _text(64), nullable=True),
    Column("score", Float(53), nullable=True),
    Column("reasons_id", Integer, nullable=True),
    PrimaryKeyConstraint("tag_id", "customer_key"),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)
