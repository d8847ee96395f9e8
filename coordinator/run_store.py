"""The run store: what the control plane and the ServerApp both know of a run.

Both processes open it, each with its own connections; every change is one transaction. A run is
created, running, perhaps paused or recovering and running again, and then finished, failed or
stopped; nothing leaves those last three.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from coordinator.checkpoint_tables import checkpoint_attachments, checkpoints
from coordinator.checkpoints import Answered, entry_from_bytes
from coordinator.run_recorder import RunRecorder
from coordinator.run_records import (
    ACTIVE,
    RECOVERING,
    Exchange,
    Membership,
    RunRecord,
    plain,
    record_of,
)
from coordinator.tables import (
    exchange_bytes,
    exchanges,
    membership,
    metrics,
    parties,
    run_members,
    runs,
)
from models.plan import parse_plan, plan_digest
from privacy.errors import (
    FedtagsError,
    RunActiveError,
    RunError,
    RunInterrupted,
    RunStopped,
    StoreError,
)
from privacy.hosting.database import open_engine, reading, store_errors, utc_now
from privacy.hosting.migrations import upgrade_engine

if TYPE_CHECKING:
    from coordinator.rounds import RunRequest

__all__ = ["ACTIVE", "RECOVERING", "Exchange", "Membership", "RunRecord", "RunStore"]

MIGRATIONS = Path(__file__).parent / "migrations"


class RunStore:
    """Opens the database at `url`, bringing it to the newest schema first.

    Raises StoreError when the database cannot be read or written.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        upgrade_engine(self._engine, MIGRATIONS)

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def create_run(
        self,
        run_id: str,
        plan_source: bytes,
        requester_public: bytes,
        requester_signature: bytes,
    ) -> RunRecord:
        """Store a run in state 'created', with the parties enrolled now as its members.

        Raises RunActiveError when another run is active, StoreError when the id was used before
        with anything else; the very same submission again returns the stored run.
        """
        plan = parse_plan(plan_source)
        digest = plan_digest(plan_source)
        values = {
            "run_id": run_id,
            "plan_name": plan.name,
            "plan_source": plan_source,
            "plan_digest": digest,
            "requester_public": requester_public,
            "requester_signature": requester_signature,
            "state": "created",
            "active_slot": 1,
            "stop_requested": False,
            "created_at": utc_now(),
            "attempt": 1,
            "attempt_at": utc_now(),
        }
        with store_errors(), self._engine.begin() as connection:
            earlier = self._row(connection, run_id)
            if earlier is not None:
                if earlier["requester_signature"] == requester_signature:
                    return record_of(earlier)
                raise StoreError(f"run id {run_id} was used before; submit under a new run id")
            active = connection.execute(
                select(runs.c.run_id).where(runs.c.active_slot.is_not(None))
            ).scalar_one_or_none()
            if active is not None:
                raise RunActiveError(_active_message(active))
            try:
                connection.execute(insert(runs).values(values))
            except IntegrityError as error:
                # Elsewhere than on SQLite two submissions may both have seen no active run.
                raise RunActiveError(_active_message("started a moment ago")) from error
            enrolled = select(parties.c.name, parties.c.public_key)
            members = connection.execute(enrolled.where(parties.c.removed_at.is_(None))).all()
            if members:
                connection.execute(
                    insert(run_members),
                    [
                        {"run_id": run_id, "party": name, "public_key": public_key}
                        for name, public_key in members
                    ],
                )
            created = self._row(connection, run_id)
            assert created is not None
            return record_of(created)

    def load_request(self, run_id: str) -> RunRequest:
        """What a run was asked to do, as the requester signed it. Raises StoreError if unknown."""
        # Imported here so that the control plane, which runs no round, stays small.
        from coordinator.rounds import RunRequest

        with store_errors(), reading(self._engine) as connection:
            row = self._row(connection, run_id)
        if row is None:
            raise StoreError(_unknown(run_id))
        return RunRequest(
            run_id=run_id,
            plan_source=row["plan_source"],
            requester_public=row["requester_public"],
            requester_signature=row["requester_signature"],
            members=self.members_of(run_id),
        )

    def members_of(self, run_id: str) -> Mapping[str, bytes]:
        """The parties enrolled when the run was created, by name, with their public keys."""
        query = select(run_members).where(run_members.c.run_id == run_id)
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(query.order_by(run_members.c.party)).all()
        return {row.party: row.public_key for row in rows}

    def get(self, run_id: str) -> RunRecord:
        """The run as it stands. Raises StoreError if there is none with this id."""
        with store_errors(), reading(self._engine) as connection:
            row = self._row(connection, run_id)
        if row is None:
            raise StoreError(_unknown(run_id))
        return record_of(row)

    def list_runs(self, limit: int = 50) -> Sequence[RunRecord]:
        """The newest runs, newest first."""
        query = select(runs).order_by(runs.c.created_at.desc(), runs.c.run_id.desc()).limit(limit)
        with store_errors(), reading(self._engine) as connection:
            return [record_of(row) for row in connection.execute(query).mappings()]

    def active_run(self) -> RunRecord | None:
        """The active run, if there is one."""
        with store_errors(), reading(self._engine) as connection:
            row = (
                connection.execute(select(runs).where(runs.c.active_slot.is_not(None)))
                .mappings()
                .one_or_none()
            )
        return None if row is None else record_of(row)

    def exchanges_of(self, run_id: str) -> Sequence[Exchange]:
        """Every exchange of a run, oldest first."""
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(
                select(exchanges).where(exchanges.c.run_id == run_id).order_by(exchanges.c.id)
            ).all()
            sizes = connection.execute(
                select(exchange_bytes)
                .join(exchanges, exchanges.c.id == exchange_bytes.c.exchange_id)
                .where(exchanges.c.run_id == run_id)
            ).all()
        up: dict[int, dict[str, int]] = {}
        down: dict[int, dict[str, int]] = {}
        for size in sizes:
            up.setdefault(size.exchange_id, {})[size.party] = size.bytes_up
            down.setdefault(size.exchange_id, {})[size.party] = size.bytes_down
        return [
            Exchange(row.phase, row.round, row.seconds, up.get(row.id, {}), down.get(row.id, {}))
            for row in rows
        ]

    def membership_of(self, run_id: str) -> Sequence[Membership]:
        """Who left a run and who came back, oldest first."""
        query = select(membership).where(membership.c.run_id == run_id).order_by(membership.c.id)
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [Membership(row.party, row.event, row.phase, row.round, row.at) for row in rows]

    def metrics_of(self, run_id: str) -> Mapping[str, float]:
        """The newest value of every released figure of a run."""
        query = select(metrics.c.name, metrics.c.value).where(metrics.c.run_id == run_id)
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(query.order_by(metrics.c.id)).all()
        return {row.name: row.value for row in rows}

    def recorder(self, run_id: str, attempt: int | None = None) -> RunRecorder:
        """Recorder and journal of this run for this attempt, by default for the newest one. Raises
        StoreError if there is no such run."""
        record = self.get(run_id)
        return RunRecorder(self._engine, run_id, record.attempt if attempt is None else attempt)

    def attach_flower_run(self, run_id: str, flower_run_id: str) -> None:
        """Remember which Flower run executes this run."""
        with store_errors(), self._engine.begin() as connection:
            connection.execute(
                update(runs).where(runs.c.run_id == run_id).values(flower_run_id=flower_run_id)
            )

    # Attempts ----------------------------------------------------------------------------------

    def claim(self, run_id: str, flower_run_id: str, process: str) -> int | None:
        """The attempt that the process of this Flower run makes; None until the control plane has
        said so. Raises RunInterrupted if the run is over or another Flower run executes it."""
        mine = runs.c.run_id == run_id, runs.c.flower_run_id == flower_run_id
        with store_errors(), self._engine.begin() as connection:
            row = self._row(connection, run_id)
            if row is None or row["active_slot"] is None:
                raise RunInterrupted(f"run {run_id} is over")
            if row["flower_run_id"] != flower_run_id:
                return None
            connection.execute(update(runs).where(*mine).values(process=process))
            return int(row["attempt"])

    def begin_attempt(self, run_id: str, earlier: int, flower_run_id: str | None) -> bool:
        """From now on this Flower run executes the run (None: none could be started), and whatever
        made attempt `earlier` can write no more. False, and nothing changed, if the run has ended
        or another attempt has begun."""
        with store_errors(), self._engine.begin() as connection:
            changed = connection.execute(
                self._change_of(run_id, earlier).values(
                    attempt=earlier + 1,
                    attempt_at=utc_now(),
                    stalled=runs.c.stalled + 1,
                    state=RECOVERING,
                    process=None,
                    flower_run_id=func.coalesce(flower_run_id, runs.c.flower_run_id),
                )
            ).rowcount
        return bool(changed)

    def interrupted(self, run_id: str, attempt: int, reason: str | None) -> bool:
        """What made this attempt has ended, for this reason (None: unknown), and not the run. False
        if the run has ended or another attempt has begun."""
        values: dict[str, Any] = {"state": RECOVERING, "waiting_for": None, "pause_until": None}
        if reason is not None:
            values["interruption"] = reason
        with store_errors(), self._engine.begin() as connection:
            change = self._change_of(run_id, attempt).values(values)
            return bool(connection.execute(change).rowcount)

    def heard_last(self, run_id: str) -> frozenset[str]:
        """The parties that answered the newest exchange of an active run that anybody answered;
        none before the first one."""
        query = select(checkpoints.c.content).where(checkpoints.c.run_id == run_id)
        with store_errors(), reading(self._engine) as connection:
            for content in connection.execute(
                query.order_by(checkpoints.c.number.desc())
            ).scalars():
                entry = entry_from_bytes(content)
                if isinstance(entry, Answered) and entry.statements:
                    return frozenset(entry.statements)
        return frozenset()

    def _change_of(self, run_id: str, attempt: int) -> Any:
        return update(runs).where(
            runs.c.run_id == run_id, runs.c.attempt == attempt, runs.c.active_slot.is_not(None)
        )

    # Ends --------------------------------------------------------------------------------------

    def finish(self, run_id: str, outcome: object, attempt: int | None = None) -> None:
        """End a run well. `outcome` is a dataclass or mapping of public values (bytes as hex);
        `attempt`: who says so, if not just anybody.

        Raises StoreError if the run had already ended, or another attempt conducts it.
        """
        values = {"state": "finished", "outcome": json.dumps(plain(outcome))}
        if not self._end(run_id, attempt, **values):
            raise StoreError(f"run {run_id} has already ended; its result was not stored")

    def fail(self, run_id: str, error: FedtagsError, attempt: int | None = None) -> bool:
        """End a run with `error` (RunStopped: state 'stopped'). False if it had already ended, or
        another attempt than this one conducts it."""
        return self._end(
            run_id,
            attempt,
            state="stopped" if isinstance(error, RunStopped) else "failed",
            error=type(error).__name__,
            exit_code=error.exit_code,
            message=str(error),
        )

    def request_stop(self, run_id: str) -> RunRecord:
        """Ask a run to stop before its next exchange. Raises RunError if it has ended."""
        with store_errors(), self._engine.begin() as connection:
            changed = connection.execute(
                update(runs)
                .where(runs.c.run_id == run_id, runs.c.state.in_(ACTIVE))
                .values(stop_requested=True)
            ).rowcount
        record = self.get(run_id)
        if not changed:
            raise RunError(f"run {run_id} has already ended ({record.state}); nothing to stop")
        return record

    def request_resume(self, run_id: str) -> RunRecord:
        """Ask a paused run to try its absent parties now. Raises RunError if it is not paused."""
        with store_errors(), self._engine.begin() as connection:
            changed = connection.execute(
                update(runs)
                .where(runs.c.run_id == run_id, runs.c.state == "paused")
                .values(resume_requested=True)
            ).rowcount
        record = self.get(run_id)
        if not changed:
            raise RunError(f"run {run_id} is not paused ({record.state}); nothing to resume")
        return record

    def _end(self, run_id: str, attempt: int | None, **values: object) -> bool:
        """Every way out: what the run had heard is erased with it."""
        this = [runs.c.run_id == run_id, runs.c.state.in_(ACTIVE)]
        if attempt is not None:
            this.append(runs.c.attempt == attempt)
        with store_errors(), self._engine.begin() as connection:
            if self._row(connection, run_id) is None:
                raise StoreError(_unknown(run_id))
            ended = connection.execute(
                update(runs)
                .where(*this)
                .values(
                    active_slot=None,
                    ended_at=utc_now(),
                    waiting_for=None,
                    pause_until=None,
                    process=None,
                    **values,
                )
            ).rowcount
            if ended:
                for table in (checkpoints, checkpoint_attachments):
                    connection.execute(delete(table).where(table.c.run_id == run_id))
            return bool(ended)

    def _row(self, connection: Connection, run_id: str) -> RowMapping | None:
        query = select(runs).where(runs.c.run_id == run_id)
        return connection.execute(query).mappings().one_or_none()


def _unknown(run_id: str) -> str:
    return f"there is no run {run_id}; `fedtags-coordinator run list` shows the runs"


def _active_message(which: str) -> str:
    return (
        f"another run is active ({which}); wait for its end, or stop it with "
        "`fedtags-coordinator run stop RUN`"
    )
