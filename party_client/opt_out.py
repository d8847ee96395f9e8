"""A customer's opt-out, and the record of who took part in which run, which it answers from.

An opt-out removes tags and history, and leaves a tombstone: whatever is imported or published
later, the customer has no tags, is not scored and is in no cohort. It does **not** unlearn: a model
that the customer's data helped to train stays as it is. What the model can show about any one
customer is bounded by the differential privacy it was trained under, which is why the models are
listed and not called clean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Select, bindparam, delete, insert, select, tuple_, update

from party_client.profile_records import OptOut, Participation, Role
from party_client.profile_tables import (
    consents,
    customers,
    opt_outs,
    participations,
    publication_tags,
    tag_history,
    tag_values,
)
from privacy.hosting.sealing import Column, Index

SHORT_KEY_BYTES = 8
PART = 100_000  # customers in one row: well below MariaDB's largest packet


def record_opt_out(
    connection: Connection,
    key: bytes,
    customer: str,
    person: str,
    sealed: Column,
    sealed_reason: Column,
    reason: str,
    now: datetime,
) -> OptOut:
    """Remove all that is kept about a customer but the tombstone. Repeating it changes nothing."""
    models = participations_of(connection, key)
    before = connection.execute(
        select(opt_outs.c.at).where(opt_outs.c.customer_key == key)
    ).scalar_one_or_none()
    _remove_tags(connection, key)
    for table in (consents, customers):
        connection.execute(delete(table).where(table.c.customer_key == key))
    if before is not None:
        return OptOut(customer, before.replace(tzinfo=UTC), models, repeated=True)
    at = now.astimezone(UTC).replace(microsecond=0)
    connection.execute(
        insert(opt_outs).values(
            customer_key=key,
            sealed=sealed.seal(key, customer),
            sealed_reason=sealed_reason.seal(key, reason),
            person=person,
            at=at.replace(tzinfo=None),
        )
    )
    return OptOut(customer, at, models, repeated=False)


def _remove_tags(connection: Connection, key: bytes) -> None:
    tags = connection.execute(select(publication_tags.c.tag_id).distinct()).scalars().all()
    connection.execute(
        delete(tag_values).where(tag_values.c.tag_id.in_(tags), tag_values.c.customer_key == key)
    )
    found = connection.execute(earlier_rows(), {"key": key})
    if rows := [row._asdict() | {"key": key} for row in found]:
        connection.execute(_DELETE_EARLIER, rows)


def earlier_rows() -> Select[tuple[int, int]]:
    """Publication and tag of all rows in the history of the customer with the key `:key`.

    History is clustered by publication: each row is looked up by its whole key. MariaDB would not
    do so for a subselect in a DELETE.
    """
    return select(
        tag_history.c.publication_id.label("publication"), tag_history.c.tag_id.label("tag")
    ).where(
        tuple_(tag_history.c.publication_id, tag_history.c.tag_id).in_(
            select(publication_tags.c.publication_id, publication_tags.c.tag_id)
        ),
        tag_history.c.customer_key == bindparam("key"),
    )


_DELETE_EARLIER = delete(tag_history).where(
    tag_history.c.publication_id == bindparam("publication"),
    tag_history.c.tag_id == bindparam("tag"),
    tag_history.c.customer_key == bindparam("key"),
)


def all_opted_out(connection: Connection, sealed: Column) -> frozenset[str]:
    """Every customer who has opted out."""
    rows = connection.execute(select(opt_outs.c.customer_key, opt_outs.c.sealed))
    return frozenset(sealed.open(bytes(key), blob) for key, blob in rows)


def record_participation(
    connection: Connection,
    index: Index,
    run_id: str,
    plan: tuple[str, str],
    role: Role,
    members: Iterable[str],
    now: datetime,
) -> None:
    """Note who takes part in a run in one role; who was noted before stays. `plan`: name, digest.

    Eight bytes of each key are kept: at a million customers, somebody is taken for a member who was
    none with a probability below one in ten million million.
    """
    mine = (participations.c.run_id == run_id) & (participations.c.role == role)
    before = connection.execute(
        select(participations.c.members).where(mine).order_by(participations.c.part)
    ).all()
    blobs = [bytes(row.members) for row in before]
    blobs.append(b"".join(index.key(member)[:SHORT_KEY_BYTES] for member in members))
    short = np.unique(np.frombuffer(b"".join(blobs), dtype=">u8"))
    connection.execute(delete(participations).where(mine))
    at = now.astimezone(UTC).replace(tzinfo=None, microsecond=0)
    for part, start in enumerate(range(0, max(1, len(short)), PART)):
        connection.execute(
            insert(participations).values(
                run_id=run_id,
                role=role,
                part=part,
                plan=plan[0],
                plan_digest=plan[1],
                model_digest=None,
                at=at,
                members=short[start : start + PART].astype(">u8").tobytes(),
            )
        )


def name_model(connection: Connection, run_id: str, model_digest: str) -> None:
    """Say which model a run ended with."""
    connection.execute(
        update(participations)
        .where(participations.c.run_id == run_id)
        .values(model_digest=model_digest)
    )


def participations_of(connection: Connection, key: bytes) -> tuple[Participation, ...]:
    """Every run in which the customer with this key took part, the oldest first."""
    wanted = np.frombuffer(key[:SHORT_KEY_BYTES], dtype=">u8")[0]
    query = select(participations).order_by(
        participations.c.at, participations.c.run_id, participations.c.role, participations.c.part
    )
    found = []
    for row in connection.execute(query.execution_options(yield_per=8)):
        if _holds(np.frombuffer(bytes(row.members), dtype=">u8"), wanted):
            at = row.at.replace(tzinfo=UTC)
            found.append(
                Participation(row.run_id, row.plan, row.plan_digest, row.model_digest, row.role, at)
            )
    return tuple(found)


def _holds(members: NDArray[Any], wanted: Any) -> bool:
    place = int(np.searchsorted(members, wanted))
    return place < len(members) and bool(members[place] == wanted)


def models_in_words(models: Sequence[Participation]) -> list[str]:
    """One line for each run, for a person."""
    return [
        f"run {one.run_id}, plan {one.plan}, {one.role} on {one.at:%Y-%m-%d}, "
        + (f"model {one.model_digest}" if one.model_digest else "which named no model")
        for one in models
    ]
