"""Where the coordinator keeps what evidence packs are made of, and which packs there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, delete, insert, select

from coordinator.evidence_tables import evidence_packs, evidence_statements
from coordinator.tables import runs
from privacy.evidence_statements import Heard, Line
from privacy.hosting.database import reading, store_errors


@dataclass(frozen=True)
class PackRecord:
    """A pack that was made. `sha256`: of its file, hexadecimal; `bytes`: its length."""

    run_id: str
    made_at: datetime
    sha256: str
    bytes: int


def keep(connection: Connection, run_id: str, heard: Sequence[Heard]) -> None:
    """Keep parties' answers of one exchange; what is kept already stays as it was first heard."""
    for one in (Line.of(item) for item in heard):
        known = select(evidence_statements.c.id).where(
            evidence_statements.c.run_id == run_id,
            evidence_statements.c.party == one.party,
            evidence_statements.c.epoch == one.epoch,
            evidence_statements.c.sequence == one.sequence,
        )
        if connection.execute(known).first() is not None:
            continue
        connection.execute(
            insert(evidence_statements).values(
                run_id=run_id,
                party=one.party,
                epoch=one.epoch,
                sequence=one.sequence,
                kind=one.kind,
                asked=one.asked,
                cohort=json.dumps(one.cohort),
                statement=one.statement,
                digest=one.digest,
                bytes=one.bytes,
            )
        )


def lines_of(engine: Engine, run_id: str) -> tuple[Line, ...]:
    """What the parties signed in a run, in the order that it was heard."""
    query = select(evidence_statements).where(evidence_statements.c.run_id == run_id)
    with store_errors(), reading(engine) as connection:
        rows = connection.execute(query.order_by(evidence_statements.c.id)).all()
    return tuple(
        Line(
            row.party,
            row.epoch,
            row.sequence,
            row.kind,
            row.asked,
            tuple(json.loads(row.cohort)),
            row.statement,
            row.digest,
            row.bytes,
        )
        for row in rows
    )


def save_pack(engine: Engine, record: PackRecord) -> None:
    """Remember a pack, in place of an earlier one of the same run."""
    with store_errors(), engine.begin() as connection:
        connection.execute(delete(evidence_packs).where(evidence_packs.c.run_id == record.run_id))
        connection.execute(
            insert(evidence_packs).values(
                run_id=record.run_id,
                made_at=record.made_at,
                sha256=record.sha256,
                bytes=record.bytes,
            )
        )


def find_pack(engine: Engine, run_id: str) -> PackRecord | None:
    """The pack of a run, if one was made."""
    query = select(evidence_packs).where(evidence_packs.c.run_id == run_id)
    with store_errors(), reading(engine) as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else PackRecord(row.run_id, row.made_at, row.sha256, row.bytes)


def list_packs(engine: Engine, limit: int = 500) -> Sequence[PackRecord]:
    """The packs, newest first."""
    query = select(evidence_packs).order_by(evidence_packs.c.made_at.desc()).limit(limit)
    with store_errors(), reading(engine) as connection:
        rows = connection.execute(query).all()
    return [PackRecord(row.run_id, row.made_at, row.sha256, row.bytes) for row in rows]


def without_pack(engine: Engine) -> Sequence[str]:
    """Runs that have ended and have no pack, oldest first."""
    packed = select(evidence_packs.c.run_id)
    query = select(runs.c.run_id).where(runs.c.active_slot.is_(None), runs.c.run_id.not_in(packed))
    with store_errors(), reading(engine) as connection:
        return list(connection.execute(query.order_by(runs.c.created_at)).scalars())
