"""What the desk reads of stored runs: pages, the newest rows, and what changed since a mark.

Reads only. A page costs the same whatever number of runs there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, Select, and_, func, or_, select

from coordinator.run_store import MIGRATIONS
from coordinator.tables import exchange_bytes, exchanges, membership, metrics, phases, runs
from coordinator.tables import run_members as members
from privacy.errors import NotFound
from privacy.hosting.database import open_engine, reading, store_errors
from privacy.hosting.migrations import upgrade_engine

# All but what is large: the plan, its signature, the outcome.
_HEAD = [column for column in runs.c if column.name not in ("plan_source", "outcome")]


@dataclass(frozen=True)
class RunFilter:
    """Which runs. `member`: the party was enrolled when the run was made."""

    state: str | None = None
    plan: str | None = None
    member: str | None = None


@dataclass(frozen=True)
class Marks:
    """How far the rows of a run have been read: the greatest ids of exchanges, metrics and
    comings and goings."""

    exchange: int = 0
    metric: int = 0
    membership: int = 0


class DeskStore:
    """Reads the run store at `url`. Every method raises StoreError if it cannot be read."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        upgrade_engine(self._engine, MIGRATIONS)

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def page(
        self, which: RunFilter, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[RowMapping]:
        """Runs, newest first, that come after the one made at `before` (its time and id)."""
        query = _chosen(select(*_HEAD), which)
        if before is not None:
            made, run_id = before
            query = query.where(
                or_(
                    runs.c.created_at < made,
                    and_(runs.c.created_at == made, runs.c.run_id < run_id),
                )
            )
        query = query.order_by(runs.c.created_at.desc(), runs.c.run_id.desc()).limit(limit)
        with store_errors(), reading(self._engine) as connection:
            return connection.execute(query).mappings().all()

    def one(self, run_id: str, member: str | None = None) -> RowMapping:
        """Everything of one run. Raises NotFound; with `member`, also if it is not one."""
        query = _chosen(select(runs), RunFilter(member=member)).where(runs.c.run_id == run_id)
        with store_errors(), reading(self._engine) as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise NotFound(
                "there is no run of this id; `fedtags-coordinator run list` shows the runs"
            )
        return row

    def head(self, run_id: str) -> RowMapping:
        """One run without its plan and outcome. Raises NotFound."""
        with store_errors(), reading(self._engine) as connection:
            row = (
                connection.execute(select(*_HEAD).where(runs.c.run_id == run_id))
                .mappings()
                .one_or_none()
            )
        if row is None:
            raise NotFound("there is no run of this id")
        return row

    def active(self, member: str | None = None) -> RowMapping | None:
        """The active run, if there is one (and `member` is one of it)."""
        query = _chosen(select(*_HEAD), RunFilter(member=member))
        with store_errors(), reading(self._engine) as connection:
            query = query.where(runs.c.active_slot.is_not(None))
            return connection.execute(query).mappings().one_or_none()

    def metrics_of(self, run_ids: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """The newest value of every released figure, by run."""
        query = select(metrics).where(metrics.c.run_id.in_(run_ids)).order_by(metrics.c.id)
        found: dict[str, dict[str, float]] = {run_id: {} for run_id in run_ids}
        with store_errors(), reading(self._engine) as connection:
            for row in connection.execute(query):
                found[row.run_id][row.name] = row.value
        return found

    def phases_of(self, run_id: str) -> Sequence[Any]:
        """Every phase of a run (phase, round, started_at), oldest first."""
        query = select(phases.c.phase, phases.c.round, phases.c.started_at)
        query = query.where(phases.c.run_id == run_id).order_by(phases.c.id)
        with store_errors(), reading(self._engine) as connection:
            return connection.execute(query).all()

    def bytes_of(
        self, run_ids: Sequence[str], party: str | None = None
    ) -> Mapping[str, tuple[int, int]]:
        """Frame bytes up and down of all parties together, or of one, by run."""
        query = (
            select(
                exchanges.c.run_id,
                func.sum(exchange_bytes.c.bytes_up),
                func.sum(exchange_bytes.c.bytes_down),
            )
            .join(exchanges, exchanges.c.id == exchange_bytes.c.exchange_id)
            .where(exchanges.c.run_id.in_(run_ids))
            .group_by(exchanges.c.run_id)
        )
        if party is not None:
            query = query.where(exchange_bytes.c.party == party)
        with store_errors(), reading(self._engine) as connection:
            found = {
                row[0]: (int(row[1] or 0), int(row[2] or 0)) for row in connection.execute(query)
            }
        return {run_id: found.get(run_id, (0, 0)) for run_id in run_ids}

    def versions(self, run_ids: Sequence[str]) -> Mapping[str, int]:
        """The number of each finished run among those of its plan's name, from 1."""
        counted = (
            select(
                runs.c.run_id,
                func.row_number()
                .over(partition_by=runs.c.plan_name, order_by=(runs.c.created_at, runs.c.run_id))
                .label("version"),
            )
            .where(runs.c.state == "finished")
            .subquery()
        )
        query = select(counted.c.run_id, counted.c.version).where(counted.c.run_id.in_(run_ids))
        with store_errors(), reading(self._engine) as connection:
            return {row.run_id: int(row.version) for row in connection.execute(query)}

    def states_of(self, run_ids: Sequence[str], member: str | None = None) -> Mapping[str, str]:
        """The state of each run, by id; with `member`, of those that it is one of."""
        query = _chosen(select(runs.c.run_id, runs.c.state), RunFilter(member=member))
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(query.where(runs.c.run_id.in_(run_ids)))
            return {row.run_id: row.state for row in rows}

    def sources_of(self, run_ids: Sequence[str]) -> Mapping[str, tuple[bytes, str | None]]:
        """Each run's plan, and its outcome as stored (JSON), by run."""
        query = select(runs.c.run_id, runs.c.plan_source, runs.c.outcome)
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(query.where(runs.c.run_id.in_(run_ids)))
            return {row.run_id: (row.plan_source, row.outcome) for row in rows}

    def finished_sources(
        self, limit: int, member: str | None = None
    ) -> Sequence[tuple[str, str, bytes]]:
        """The newest finished runs (that `member` is one of): id, plan digest and plan, newest
        first."""
        query = (
            _chosen(
                select(runs.c.run_id, runs.c.plan_digest, runs.c.plan_source),
                RunFilter(state="finished", member=member),
            )
            .order_by(runs.c.created_at.desc(), runs.c.run_id.desc())
            .limit(limit)
        )
        with store_errors(), reading(self._engine) as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def peek(self, run_id: str) -> tuple[Marks, RowMapping]:
        """How far a run has come: the marks of its newest rows, and its head. Raises NotFound."""
        newest = [
            select(func.coalesce(func.max(table.c.id), 0))
            .where(table.c.run_id == run_id)
            .scalar_subquery()
            for table in (exchanges, metrics, membership)
        ]
        head = self.head(run_id)  # first: an ended run records nothing more
        with store_errors(), reading(self._engine) as connection:
            return Marks(*connection.execute(select(*newest)).one()), head

    def between(
        self, run_id: str, low: Marks, high: Marks
    ) -> Sequence[tuple[str, RowMapping, Mapping[str, tuple[int, int]]]]:
        """What was recorded of a run above `low` and up to `high`: ('exchange' | 'metric' |
        'membership', row, frame bytes up and down by party), each kind oldest first."""
        found: list[tuple[str, RowMapping, Mapping[str, tuple[int, int]]]] = []
        with store_errors(), reading(self._engine) as connection:
            sizes: dict[int, dict[str, tuple[int, int]]] = {}
            query = (
                select(exchange_bytes)
                .join(exchanges, exchanges.c.id == exchange_bytes.c.exchange_id)
                .where(exchanges.c.run_id == run_id, exchanges.c.id > low.exchange)
            )
            for size in connection.execute(query):
                by_party = sizes.setdefault(size.exchange_id, {})
                by_party[size.party] = (size.bytes_up, size.bytes_down)
            for kind, table, first, last in (
                ("exchange", exchanges, low.exchange, high.exchange),
                ("metric", metrics, low.metric, high.metric),
                ("membership", membership, low.membership, high.membership),
            ):
                rows = select(table).where(
                    table.c.run_id == run_id, table.c.id > first, table.c.id <= last
                )
                found += [
                    (kind, row, sizes.get(row["id"], {}) if kind == "exchange" else {})
                    for row in connection.execute(rows.order_by(table.c.id)).mappings()
                ]
        return found


def _chosen(query: Select[Any], which: RunFilter) -> Select[Any]:
    if which.state is not None:
        query = query.where(runs.c.state == which.state)
    if which.plan is not None:
        query = query.where(runs.c.plan_name == which.plan)
    if which.member is not None:
        query = query.join(members, members.c.run_id == runs.c.run_id).where(
            members.c.party == which.member
        )
    return query
