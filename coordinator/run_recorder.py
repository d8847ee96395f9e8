"""The recorder that a run writes its progress to, and reads an operator's wish to stop from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection, Engine, func, insert, select, update

from coordinator.tables import exchange_bytes, exchanges, membership, metrics, phases, runs
from privacy.errors import RunError
from privacy.hosting.database import reading, store_errors, utc_now

STOP_POLL_SECONDS = 0.2

T = TypeVar("T")


class RunRecorder:
    """Records one run's progress. The first phase turns a created run into a running one."""

    def __init__(self, engine: Engine, run_id: str) -> None:
        self._engine = engine
        self._run_id = run_id
        self._asked_at = 0.0
        self._stop = False
        self._where: tuple[str, int | None] = ("", None)

    def phase(self, name: str, round_number: int | None, total_rounds: int) -> None:
        """A phase begins. Raises RunError if the run was ended from outside."""
        self._where = (name, round_number)
        self._begin(name, round_number, state="running", total_rounds=total_rounds)

    def pause(self, absent: Sequence[str], until: datetime) -> None:
        """The run waits in the round that was begun last. Raises RunError as `phase` does."""
        names = json.dumps(sorted(absent))
        number = self._where[1]
        self._begin("pause", number, state="paused", waiting_for=names, pause_until=until)

    def _begin(self, name: str, round_number: int | None, **values: object) -> None:
        now = utc_now()
        values = {"waiting_for": None, "pause_until": None, **values}

        def change(connection: Connection) -> int:
            started = func.coalesce(runs.c.started_at, now)
            changed = connection.execute(
                update(runs)
                .where(runs.c.run_id == self._run_id, runs.c.active_slot.is_not(None))
                .values(
                    started_at=started,
                    phase=name,
                    round=round_number,
                    resume_requested=False,
                    **values,
                )
            ).rowcount
            connection.execute(
                insert(phases).values(
                    run_id=self._run_id, phase=name, round=round_number, started_at=now
                )
            )
            return changed

        if not self._write(change):
            raise RunError(f"run {self._run_id} was ended from outside; submit it again")

    def exchange(
        self,
        phase: str,
        round_number: int | None,
        seconds: float,
        bytes_up: Mapping[str, int],
        bytes_down: Mapping[str, int],
    ) -> None:
        """One exchange ended."""

        def change(connection: Connection) -> None:
            key = connection.execute(
                insert(exchanges).values(
                    run_id=self._run_id,
                    phase=phase,
                    round=round_number,
                    seconds=seconds,
                    ended_at=utc_now(),
                )
            ).inserted_primary_key
            assert key is not None
            rows = [
                {
                    "exchange_id": key[0],
                    "party": party,
                    "bytes_up": bytes_up.get(party, 0),
                    "bytes_down": bytes_down.get(party, 0),
                }
                for party in sorted({*bytes_up, *bytes_down})
            ]
            if rows:
                connection.execute(insert(exchange_bytes), rows)

        self._write(change)

    def metric(self, name: str, value: float) -> None:
        """A released figure of the run."""
        self._write(
            lambda connection: connection.execute(
                insert(metrics).values(
                    run_id=self._run_id, name=name, value=value, recorded_at=utc_now()
                )
            )
        )

    def membership(self, party: str, event: str) -> None:
        """A party left or came back, in the phase that was begun last."""
        phase, number = self._where
        self._write(
            lambda connection: connection.execute(
                insert(membership).values(
                    run_id=self._run_id,
                    party=party,
                    event=event,
                    phase=phase,
                    round=number,
                    at=utc_now(),
                )
            )
        )

    def resume_requested(self) -> bool:
        """True once for an operator's wish to go on now; the wish is taken back."""
        query = select(runs.c.resume_requested).where(runs.c.run_id == self._run_id)
        with store_errors(), reading(self._engine) as connection:
            if not connection.execute(query).scalar_one():
                return False
        taken_back = update(runs).where(runs.c.run_id == self._run_id)
        self._write(lambda one: one.execute(taken_back.values(resume_requested=False)))
        return True

    def stop_requested(self) -> bool:
        """True once an operator asked this run to stop; looks at most 5 times a second."""
        if not self._stop and time.monotonic() - self._asked_at >= STOP_POLL_SECONDS:
            query = select(runs.c.stop_requested).where(runs.c.run_id == self._run_id)
            with store_errors(), reading(self._engine) as connection:
                self._stop = connection.execute(query).scalar_one()
            self._asked_at = time.monotonic()
        return self._stop

    def _write(self, change: Callable[[Connection], T]) -> T:
        with store_errors(), self._engine.begin() as connection:
            return change(connection)
