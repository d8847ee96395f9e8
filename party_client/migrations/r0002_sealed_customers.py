"""Customers by key, their ids sealed; consent, opt-outs, participation, reasons, the outbox.

Whatever the first version left is carried over; its plain ids are gone afterwards. On MariaDB and
MySQL, which cannot undo a change of tables, an upgrade that broke off is simply run again: the old
tables go last.

Revision ID: 0002
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CHUNK = 1000
OLD = ("tag_history", "tag_values", "publications")  # whoever refers to another one first
SUFFIX = "_r0001"

_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_key = sa.LargeBinary(16).with_variant(mysql.BINARY(16), "mysql", "mariadb")
_blob = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def _text(characters: int) -> Any:
    return sa.String(characters).with_variant(
        mysql.VARCHAR(characters, collation="utf8mb4_bin"), "mysql", "mariadb"
    )


def upgrade() -> None:
    """Make the new tables, move the old rows into them, drop the old tables."""
    connection = op.get_bind()
    present = set(sa.inspect(connection).get_table_names())
    for name in OLD:
        if name + SUFFIX not in present:
            op.rename_table(name, name + SUFFIX)
            present.discard(name)
    for name in sorted(present & set(_NEW)):  # of an upgrade that broke off
        op.drop_table(name)
    made = {name: make() for name, make in _NEW.items()}
    if connection.dialect.name == "postgresql":
        # A new version of a row finds room on its page, and no index has to be told.
        op.execute("ALTER TABLE tag_values SET (fillfactor = 50)")
    _carry_over(connection, made, context.config.attributes["sealing"])
    for name in OLD:
        op.drop_table(name + SUFFIX)


def _carry_over(connection: sa.Connection, made: dict[str, sa.Table], sealing: Any) -> None:
    index, column = sealing.index("customers"), sealing.column("customers", "sealed")
    old = {name: _old_table(connection, name) for name in OLD}
    runs = connection.execute(sa.select(old["publications"])).mappings().all()
    kept = ("run_id", "plan_digest", "model_digest", "parties", "epsilon", "delta")
    _insert(
        connection,
        made["publications"],
        (
            {
                **{name: run[name] for name in (*kept, "published_at", "as_of", "status")},
                "kind": "joint",
                "consent_receipt": "",  # the first version wrote none
            }
            for run in sorted(runs, key=lambda run: (run["published_at"], run["run_id"]))
        ),
    )
    # The database counts; a number given by hand would meet it again on PostgreSQL.
    new = made["publications"].c
    numbers = {run: number for number, run in connection.execute(sa.select(new.id, new.run_id))}
    names = sorted(
        {
            tag
            for name in ("tag_values", "tag_history")
            for (tag,) in connection.execute(sa.select(old[name].c.tag).distinct())
        }
    )
    _insert(connection, made["terms"], ({"text": name} for name in names))
    terms = made["terms"].c
    tags = {tag: number for number, tag in connection.execute(sa.select(terms.id, terms.text))}
    for name in ("tag_values", "tag_history"):
        table = old[name]
        pairs = connection.execute(sa.select(table.c.run_id, table.c.tag).distinct()).all()
        until = {run["run_id"]: run["valid_until"] for run in runs}
        known = {tuple(row) for row in connection.execute(_pairs_of(made["publication_tags"]))}
        _insert(
            connection,
            made["publication_tags"],
            (
                {
                    "publication_id": numbers[run],
                    "tag_id": tags[tag],
                    "valid_until": until[run],
                }
                for run, tag in pairs
                if (numbers[run], tags[tag]) not in known
            ),
        )
    for customers in _customers(connection, old):
        _insert(
            connection,
            made["customers"],
            (
                {"customer_key": key, "sealed": column.seal(key, customer)}
                for customer in customers
                for key in [index.key(customer)]
            ),
        )
    for name in ("tag_values", "tag_history"):
        rows = connection.execute(sa.select(old[name])).mappings().all()
        _insert(
            connection,
            made[name],
            (
                {
                    "tag_id": tags[row["tag"]],
                    "customer_key": index.key(row["customer"]),
                    "value": row["value"],
                    "score": row["score"],
                    "reasons_id": None,
                    "publication_id": numbers[row["run_id"]],
                    **(
                        {"changed_id": numbers[row["run_id"]]}
                        if name == "tag_values"
                        else {"replaced_by": numbers[row["replaced_by"]]}
                    ),
                }
                for row in rows
            ),
        )
    if runs:
        _insert(connection, made["key_checks"], [{"name": "store.key", "value": sealing.check}])


def _old_table(connection: sa.Connection, name: str) -> sa.Table:
    # MariaDB keeps JSON as text and would give it back so.
    given = [sa.Column("parties", sa.JSON())] if name == "publications" else []
    return sa.Table(name + SUFFIX, sa.MetaData(), *given, autoload_with=connection)


def _pairs_of(table: sa.Table) -> Any:
    return sa.select(table.c.publication_id, table.c.tag_id)


def _customers(connection: sa.Connection, old: dict[str, sa.Table]) -> Iterator[list[str]]:
    every = sa.union(
        sa.select(old["tag_values"].c.customer), sa.select(old["tag_history"].c.customer)
    )
    found = [customer for (customer,) in connection.execute(every)]
    for start in range(0, len(found), CHUNK):
        yield found[start : start + CHUNK]


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterable[dict[str, Any]]) -> None:
    iterator = iter(rows)
    while chunk := list(islice(iterator, CHUNK)):
        connection.execute(sa.insert(table), chunk)


def _made(name: str, *columns: Any, rowid: bool = False) -> Any:
    arguments = {} if rowid else {"sqlite_with_rowid": False}
    return lambda: op.create_table(name, *columns, **arguments)


def _primary(table: str, *names: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*names, name=f"pk_{table}")


def _unique(table: str, name: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(name, name=f"uq_{table}")


def _whole(name: str, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _counting(kind: Any) -> sa.Column[int]:
    return sa.Column("id", kind, nullable=False, autoincrement=True)


def _needed(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _optional(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True)


_NEW: dict[str, Any] = {
    "key_checks": _made(
        "key_checks",
        _needed("name", _text(31)),
        _needed("value", _key),
        _primary("key_checks", "name"),
    ),
    "customers": _made(
        "customers",
        _needed("customer_key", _key),
        _needed("sealed", _blob),
        _primary("customers", "customer_key"),
    ),
    "terms": _made(
        "terms",
        _counting(sa.Integer()),
        _needed("text", _text(255)),
        _primary("terms", "id"),
        _unique("terms", "text"),
        rowid=True,
    ),
    "publications": _made(
        "publications",
        _counting(sa.Integer()),
        _needed("run_id", _text(63)),
        _needed("kind", _text(7)),
        _optional("plan_digest", _text(64)),
        _needed("model_digest", _text(64)),
        _needed("parties", sa.JSON()),
        _needed("epsilon", sa.Float(53)),
        _needed("delta", sa.Float(53)),
        _needed("published_at", sa.DateTime()),
        _needed("as_of", sa.Date()),
        _needed("consent_receipt", _text(64)),
        _needed("status", _text(15)),
        _primary("publications", "id"),
        _unique("publications", "run_id"),
        rowid=True,
    ),
    "publication_tags": _made(
        "publication_tags",
        _whole("publication_id"),
        _whole("tag_id"),
        _needed("valid_until", sa.Date()),
        _primary("publication_tags", "publication_id", "tag_id"),
    ),
    "tag_values": _made(
        "tag_values",
        _whole("tag_id"),
        _needed("customer_key", _key),
        _needed("value", _text(64)),
        _optional("score", sa.Float(53)),
        _whole("reasons_id", nullable=True),
        _whole("publication_id"),
        _whole("changed_id"),
        _primary("tag_values", "tag_id", "customer_key"),
    ),
    "tag_history": _made(
        "tag_history",
        _whole("publication_id"),
        _whole("tag_id"),
        _needed("customer_key", _key),
        _needed("value", _text(64)),
        _optional("score", sa.Float(53)),
        _whole("reasons_id", nullable=True),
        _whole("replaced_by"),
        _primary("tag_history", "publication_id", "tag_id", "customer_key"),
    ),
    "consents": _made(
        "consents",
        _needed("customer_key", _key),
        _needed("purpose", _text(63)),
        _needed("granted", sa.Boolean()),
        _optional("granted_at", sa.BigInteger()),
        _optional("expires_at", sa.BigInteger()),
        _optional("withdrawn_at", sa.BigInteger()),
        _primary("consents", "customer_key", "purpose"),
    ),
    "consent_states": _made(
        "consent_states",
        _counting(sa.Integer()),
        _needed("receipt", _text(64)),
        _needed("asserted", sa.Boolean()),
        _needed("refreshed_at", sa.DateTime()),
        _primary("consent_states", "id"),
        rowid=True,
    ),
    "opt_outs": _made(
        "opt_outs",
        _needed("customer_key", _key),
        _needed("sealed", _blob),
        _needed("sealed_reason", _blob),
        _needed("person", _text(191)),
        _needed("at", sa.DateTime()),
        _primary("opt_outs", "customer_key"),
    ),
    "participations": _made(
        "participations",
        _needed("run_id", _text(63)),
        _needed("role", _text(15)),
        _whole("part"),
        _needed("plan", _text(191)),
        _needed("plan_digest", _text(64)),
        _optional("model_digest", _text(64)),
        _needed("at", sa.DateTime()),
        _needed("members", _blob),
        _primary("participations", "run_id", "role", "part"),
    ),
    "outbox": _made(
        "outbox",
        _counting(_number),
        _needed("event_id", _text(63)),
        _needed("type", _text(63)),
        _needed("created_at", sa.DateTime()),
        _needed("data", sa.Text()),
        _optional("sealed_customer", _blob),
        _whole("attempts"),
        _needed("next_attempt_at", sa.DateTime()),
        _optional("delivered_at", sa.DateTime()),
        _primary("outbox", "id"),
        _unique("outbox", "event_id"),
        rowid=True,
    ),
}
