"""Reading tags: only listed and frozen ones of the catalogue, for a purpose that the tag names, of
customers whose consent to it stands, before they expire, and of nobody who opted out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    String,
    and_,
    bindparam,
    exists,
    func,
    select,
)

from party_client.profile_consent import (
    ConsentState,
    known_state,
    microseconds,
    row_decides,
    stands,
)
from party_client.profile_records import Provenance, SegmentCount, TagRecord
from party_client.profile_tables import (
    consent_states,
    customers,
    opt_outs,
    publication_tags,
    publications,
    tag_history,
    tag_values,
    terms,
)
from privacy.errors import StoreError
from privacy.hosting.sealing import Column

PAGE = 2_000  # rows held at once while reading many

_reasons = terms.alias("reasons")
_later = publications.alias("later")
_PROVENANCE = [column for column in publications.c if column.name != "id"]


@dataclass(frozen=True)
class Standing:
    """What decides whether anything of a customer may be read."""

    consent: bool
    opted_out: bool


def standing(connection: Connection, key: bytes, purpose: str, now: datetime) -> Standing:
    """Where a customer stands for `purpose`. Raises StoreError if no consent is known at all."""
    given = {"key": key, "purpose": purpose, "moment": microseconds(now)}
    row = connection.execute(STANDING, given).one_or_none()
    if row is None:
        known_state(connection)
        raise StoreError("the profile store was changed meanwhile; repeat")
    return Standing(bool(row.asserted or row.decided), bool(row.opted_out))


def earlier_tags(connection: Connection, key: bytes, tag_id: int) -> Sequence[Row[Any]]:
    """What one customer's tag was before, the newest first."""
    named = select(publication_tags.c.publication_id).where(publication_tags.c.tag_id == tag_id)
    query = (
        _with_source(tag_history)
        .add_columns(_later.c.run_id.label("replaced_by"))
        .join(_later, _later.c.id == tag_history.c.replaced_by)
        .where(
            tag_history.c.publication_id.in_(named),
            tag_history.c.tag_id == tag_id,
            tag_history.c.customer_key == key,
        )
        .order_by(tag_history.c.publication_id.desc())
    )
    return connection.execute(query).all()


def count_values(
    connection: Connection,
    state: ConsentState,
    names: Mapping[int, str],
    purpose: str,
    now: datetime,
    value: str | None = None,
) -> list[SegmentCount]:
    """How many customers have each value of these tags that may be read."""
    if not names:
        return []
    query = (
        select(tag_values.c.tag_id, tag_values.c.value, func.count())
        .join_from(tag_values, publication_tags, _named())
        .where(*_readable(state, names, purpose, now))
        .group_by(tag_values.c.tag_id, tag_values.c.value)
    )
    if value is not None:
        query = query.where(tag_values.c.value == value)
    found = [
        SegmentCount(names[number], text, int(count))
        for number, text, count in connection.execute(query)
    ]
    return sorted(found, key=lambda one: (one.tag, one.value))


def every_record(
    connection: Connection,
    state: ConsentState,
    tag: tuple[int, str],
    purpose: str,
    now: datetime,
    column: Column,
    value: str | None,
    since: int | None,
) -> Iterator[TagRecord]:
    """Every customer's tag (id, name) that may be read, by one statement."""
    number, name = tag
    query = (
        _with_source(tag_values)
        .add_columns(customers.c.sealed)
        .join(customers, customers.c.customer_key == tag_values.c.customer_key)
        .where(*_readable(state, {number: name}, purpose, now))
        .order_by(tag_values.c.tag_id, tag_values.c.customer_key)
    )
    if value is not None:
        query = query.where(tag_values.c.value == value)
    if since is not None:
        query = query.where(tag_values.c.changed_id > since)
    for page in connection.execute(query.execution_options(yield_per=PAGE)).partitions():
        for row in page:
            yield record(row, name, column.open(bytes(row.customer_key), row.sealed))


def publication_number(connection: Connection, run_id: str) -> int:
    """The place of a run's publication in their order. Raises StoreError if there is none."""
    query = select(publications.c.id).where(publications.c.run_id == run_id)
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        raise StoreError("no run of this name has published tags here; see `tags runs`")
    return int(found)


def record(row: Row[Any], tag: str, customer: str) -> TagRecord:
    """A row of `earlier_tags` or `every_record` as a value."""
    return TagRecord(
        customer=customer,
        tag=tag,
        value=row.value,
        score=row.score,
        reasons=reason_codes(row.reasons),
        valid_until=row.valid_until,
        provenance=provenance(row),
        replaced_by=getattr(row, "replaced_by", None),
    )


def reason_codes(text: str | None) -> tuple[str, ...]:
    """What a row's reasons are, none included: a model may have nothing to say of a customer."""
    return tuple(text.split(",")) if text else ()


def provenance(row: Row[Any]) -> Provenance:
    """The publication in a row that has all its columns."""
    return Provenance(
        run_id=row.run_id,
        kind=row.kind,
        plan_digest=row.plan_digest,
        model_digest=row.model_digest,
        parties=tuple(row.parties),
        epsilon=row.epsilon,
        delta=row.delta,
        published_at=row.published_at.replace(tzinfo=UTC),
        as_of=row.as_of,
        consent_receipt=row.consent_receipt,
        status=row.status,
    )


def day(now: datetime) -> Any:
    """The UTC day of a moment."""
    return now.astimezone(UTC).date()


def _with_source(table: Any) -> Select[Any]:
    return (
        select(
            table.c.tag_id,
            table.c.customer_key,
            table.c.value,
            table.c.score,
            _reasons.c.text.label("reasons"),
            publication_tags.c.valid_until,
            *_PROVENANCE,
        )
        .join_from(table, publications, publications.c.id == table.c.publication_id)
        .join(publication_tags, _named(table))
        .outerjoin(_reasons, _reasons.c.id == table.c.reasons_id)
    )


def _named(table: Any = tag_values) -> ColumnElement[bool]:
    return and_(
        publication_tags.c.publication_id == table.c.publication_id,
        publication_tags.c.tag_id == table.c.tag_id,
    )


def _readable(
    state: ConsentState, names: Mapping[int, str], purpose: str, now: datetime
) -> list[ColumnElement[bool]]:
    key = tag_values.c.customer_key
    return [
        tag_values.c.tag_id.in_(list(names)),
        publication_tags.c.valid_until >= day(now),
        stands(state, key, purpose, now),
        ~exists().where(opt_outs.c.customer_key == key),
    ]


# Built once: a look-up takes less time than SQLAlchemy takes to put these together.
# `newest`: the run of the last publication.
KEY = bindparam("key", type_=tag_values.c.customer_key.type)
STANDING = (
    select(
        consent_states.c.asserted,
        row_decides(
            KEY, bindparam("purpose", type_=String()), bindparam("moment", type_=BigInteger())
        ).label("decided"),
        exists().where(opt_outs.c.customer_key == KEY).label("opted_out"),
        select(publications.c.run_id)
        .order_by(publications.c.id.desc())
        .limit(1)
        .scalar_subquery()
        .label("newest"),
    )
    .order_by(consent_states.c.id.desc())
    .limit(1)
)
