"""Figures over all runs for alerts and metrics, read so that they cost the same with many runs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from coordinator.run_store import MIGRATIONS
from coordinator.tables import exchange_bytes, exchanges, phases, runs
from privacy.errors import StoreError
from privacy.hosting.database import open_engine, reading, store_errors
from privacy.hosting.migrations import upgrade_engine


@dataclass(frozen=True)
class ExchangeTotals:
    """All exchanges of all runs: how many and their seconds by phase, frame bytes by party (up:
    from the party)."""

    count: Mapping[str, int]
    seconds: Mapping[str, float]
    bytes_up: Mapping[str, int]
    bytes_down: Mapping[str, int]


class RunFigures:
    """Reads the runs' tables. Safe between threads. Raises StoreError if they cannot be read."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        upgrade_engine(self._engine, MIGRATIONS)
        self._lock = threading.Lock()
        self._read_to = 0
        self._count: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._up: Counter[str] = Counter()
        self._down: Counter[str] = Counter()

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def by_state(self) -> Mapping[str, int]:
        """How many runs there are in each state that any is in."""
        query = select(runs.c.state, func.count()).group_by(runs.c.state)
        with store_errors(), reading(self._engine) as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def last_progress(self, run_id: str) -> datetime:
        """When a run last began a phase, ended an exchange or was taken up again."""
        with store_errors(), reading(self._engine) as connection:
            run = connection.execute(
                select(runs.c.created_at, runs.c.started_at, runs.c.attempt_at).where(
                    runs.c.run_id == run_id
                )
            ).one_or_none()
            if run is None:
                raise StoreError(f"there is no run {run_id}")
            phase = connection.execute(
                select(func.max(phases.c.started_at)).where(phases.c.run_id == run_id)
            ).scalar_one()
            exchange = connection.execute(
                select(func.max(exchanges.c.ended_at)).where(exchanges.c.run_id == run_id)
            ).scalar_one()
        known: list[datetime] = [one for one in (*run, phase, exchange) if one is not None]
        return max(known)

    def exchanges(self) -> ExchangeTotals:
        """The totals until now. Only what came since the last call is read."""
        with self._lock:
            with store_errors(), reading(self._engine) as connection:
                newest = connection.execute(select(func.max(exchanges.c.id))).scalar_one() or 0
                between = (exchanges.c.id > self._read_to) & (exchanges.c.id <= newest)
                by_phase = connection.execute(
                    select(exchanges.c.phase, func.count(), func.sum(exchanges.c.seconds))
                    .where(between)
                    .group_by(exchanges.c.phase)
                ).all()
                up, down = exchange_bytes.c.bytes_up, exchange_bytes.c.bytes_down
                by_party = connection.execute(
                    select(exchange_bytes.c.party, func.sum(up), func.sum(down))
                    .where(
                        exchange_bytes.c.exchange_id > self._read_to,
                        exchange_bytes.c.exchange_id <= newest,
                    )
                    .group_by(exchange_bytes.c.party)
                ).all()
            for phase, count, seconds in by_phase:
                self._count[phase] += count
                self._seconds[phase] += seconds
            for party, sent, received in by_party:
                self._up[party] += int(sent)
                self._down[party] += int(received)
            self._read_to = newest
            return ExchangeTotals(
                dict(self._count), dict(self._seconds), dict(self._up), dict(self._down)
            )
