"""Consent inside the profile store: the state that was last taken over from the source.

What is read or written is asked of this state. It is replaced as a whole, in one transaction,
together with the removal of all that it no longer allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    and_,
    delete,
    exists,
    insert,
    or_,
    select,
    true,
)

from party_client.consent import ConsentRow
from party_client.profile_bulk import bulk_load, prepare, settle, temporary
from party_client.profile_tables import (
    consent_states,
    consents,
    customers,
    staged,
    tag_history,
    tag_values,
)
from privacy.errors import StoreError
from privacy.hosting.sealing import Index

EVERY = "*"


def _keys_only(name: str) -> Table:
    return Table(
        name,
        MetaData(),
        Column("customer_key", customers.c.customer_key.type, nullable=False),
        PrimaryKeyConstraint("customer_key"),
        prefixes=["TEMPORARY"],
        sqlite_with_rowid=False,
    )


_gone, _kept = _keys_only("gone_customers"), _keys_only("kept_customers")
SORTED_AT_ONCE = 200_000  # rows; the table is clustered by its key


@dataclass(frozen=True)
class ConsentState:
    """Which state of consent holds. `asserted`: the source names no consent, all have given it."""

    receipt: str
    asserted: bool
    refreshed_at: datetime


def current_state(connection: Connection) -> ConsentState | None:
    """The newest state; None if none was ever taken over."""
    query = select(consent_states).order_by(consent_states.c.id.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return ConsentState(row.receipt, row.asserted, row.refreshed_at.replace(tzinfo=UTC))


def known_state(connection: Connection) -> ConsentState:
    """The newest state. Raises StoreError if none was ever taken over: unknown means refused."""
    state = current_state(connection)
    if state is None:
        raise StoreError(
            "nobody's consent is known to the profile store yet; run fedtags-party consent refresh"
        )
    return state


def stands(
    state: ConsentState, key: ColumnElement[Any], purpose: str, now: datetime
) -> ColumnElement[bool]:
    """A condition: the customer with `key` consents to `purpose` at `now`.

    The row that names the purpose decides; without one, the row for every purpose does.
    """
    return true() if state.asserted else row_decides(key, purpose, microseconds(now))


def row_decides(
    key: ColumnElement[Any], purpose: ColumnElement[str] | str, moment: ColumnElement[int] | int
) -> ColumnElement[bool]:
    """What the rows of `consents` say, where they count. `moment`: microseconds since 1970."""
    special = consents.alias()
    names_it = exists().where(special.c.customer_key == key, special.c.purpose == purpose)
    return or_(
        _row_stands(key, purpose, moment),
        and_(_row_stands(key, EVERY, moment), ~names_it.correlate_except(special)),
    )


def stands_for_any(
    state: ConsentState, key: ColumnElement[Any], purposes: Iterable[str], now: datetime
) -> ColumnElement[bool]:
    """A condition: the customer with `key` consents to one of `purposes` at `now`."""
    return or_(*(stands(state, key, purpose, now) for purpose in purposes))


def _row_stands(
    key: ColumnElement[Any],
    purpose: ColumnElement[str] | str | None,
    moment: ColumnElement[int] | int,
) -> ColumnElement[bool]:
    """A row of the customer for exactly this purpose (None: for any) stands at `moment`."""
    row = consents.alias()
    condition = exists().where(
        row.c.customer_key == key,
        true() if purpose is None else row.c.purpose == purpose,
        row.c.granted == true(),
        or_(row.c.granted_at.is_(None), row.c.granted_at <= moment),
        or_(row.c.expires_at.is_(None), row.c.expires_at > moment),
        or_(row.c.withdrawn_at.is_(None), row.c.withdrawn_at > moment),
    )
    return condition.correlate_except(row)


def replace_consents(
    connection: Connection, index: Index, rows: Iterable[ConsentRow] | None, now: datetime
) -> ConsentState:
    """Take over the source's consent rows; None: the source asserts everyone's consent."""
    prepare(connection)
    connection.execute(delete(consents))
    if rows is not None:
        iterator = (_stored(index, row) for row in rows)
        while part := sorted(islice(iterator, SORTED_AT_ONCE), key=lambda one: one[:2]):
            bulk_load(connection, consents, part)
        settle(connection, consents)
    state = ConsentState(_receipt(connection, rows is None), rows is None, now)
    connection.execute(
        insert(consent_states).values(
            receipt=state.receipt,
            asserted=state.asserted,
            refreshed_at=now.astimezone(UTC).replace(tzinfo=None, microsecond=0),
        )
    )
    return state


def remove_unconsented(
    connection: Connection,
    state: ConsentState,
    tags_by_purposes: Mapping[tuple[str, ...], Sequence[int]],
    now: datetime,
) -> bool:
    """Remove tags, and their history, of customers who consent to none of the tags' purposes.

    Whoever consents to nothing at all is removed from `customers` too. Returns whether any tag
    was removed.
    """
    if state.asserted:
        return False
    anything = _row_stands(customers.c.customer_key, None, microseconds(now))
    removed = _remove(connection, ~anything, None)
    for purposes, tag_ids in tags_by_purposes.items():
        allowed = stands_for_any(state, customers.c.customer_key, purposes, now)
        removed = _remove(connection, ~allowed, tag_ids) or removed
    return removed


def _remove(
    connection: Connection, whose: ColumnElement[bool], tag_ids: Sequence[int] | None
) -> bool:
    """Remove these tags of these customers; with None all of them, and the customers as well."""
    removed = False
    with temporary(connection, _gone):
        chosen = select(customers.c.customer_key).where(whose)
        connection.execute(insert(_gone).from_select(["customer_key"], chosen))
        if connection.execute(select(_gone.c.customer_key).limit(1)).first() is None:
            return False
        settle(connection, _gone)
        keys = select(_gone.c.customer_key)
        for table in (tag_values, tag_history):
            query = delete(table).where(table.c.customer_key.in_(keys))
            if tag_ids is not None:
                query = query.where(table.c.tag_id.in_(tag_ids))
            removed = connection.execute(query).rowcount > 0 or removed
        if tag_ids is None:
            connection.execute(delete(customers).where(customers.c.customer_key.in_(keys)))
    return removed


def remove_unstaged(connection: Connection, keys: Iterable[bytes]) -> None:
    """Remove those of `keys` from `customers` of whom nothing is staged any more.

    They must be new there: nobody asks whether they have other tags.
    """
    with temporary(connection, _gone), temporary(connection, _kept):
        bulk_load(connection, _gone, ((key,) for key in keys))
        settle(connection, _gone)
        still = (
            select(staged.c.customer_key)
            .join(_gone, _gone.c.customer_key == staged.c.customer_key)
            .distinct()
        )
        connection.execute(insert(_kept).from_select(["customer_key"], still))
        connection.execute(
            delete(customers).where(
                customers.c.customer_key.in_(select(_gone.c.customer_key)),
                ~exists().where(_kept.c.customer_key == customers.c.customer_key),
            )
        )


def _stored(index: Index, row: ConsentRow) -> tuple[Any, ...]:
    return (
        index.key(row.customer),
        row.purpose,
        row.granted,
        *(
            None if moment is None else microseconds(moment)
            for moment in (row.granted_at, row.expires_at, row.withdrawn_at)
        ),
    )


def microseconds(moment: datetime) -> int:
    """Since 1970 (UTC)."""
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _receipt(connection: Connection, asserted: bool) -> str:
    """SHA-256 (hex) over all rows in the order of their keys."""
    digest = hashlib.sha256(b"fedtags consent 1\0" + (b"asserted" if asserted else b"rows"))
    for row in _in_order(connection):
        digest.update(repr(tuple(row)).encode())
    return digest.hexdigest()


def _in_order(connection: Connection) -> Iterator[tuple[Any, ...]]:
    query = select(consents).order_by(consents.c.customer_key, consents.c.purpose)
    with connection.execute(query.execution_options(yield_per=10_000)) as found:
        for key, purpose, granted, *moments in found:
            yield (bytes(key).hex(), purpose, bool(granted), *moments)
