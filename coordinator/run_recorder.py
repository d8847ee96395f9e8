"""The recorder that a run writes its progress to, and reads an operator's wish to stop from.

It is the run's journal as well (`coordinator.checkpoints`): an exchange is recorded and kept in one
transaction. Every write names the attempt that makes it, and none succeeds once another one has
taken the run over: so of two processes that think they conduct a run, one does.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from coordinator.checkpoint_tables import checkpoint_attachments, checkpoints
from coordinator.checkpoints import (
    Answered,
    Entry,
    Kept,
    Measured,
    entry_from_bytes,
    entry_to_bytes,
)
from coordinator.evidence_store import keep
from coordinator.tables import exchange_bytes, exchanges, membership, metrics, phases, runs
from privacy.errors import RunError, RunInterrupted, StoreError
from privacy.evidence_statements import Heard
from privacy.hosting.database import reading, store_errors, utc_now

STOP_POLL_SECONDS = 0.2

T = TypeVar("T")


class RunRecorder:
    """Records one attempt at one run. The first phase turns a created run into a running one.

    A method that writes raises RunError if the run was ended from outside, and RunInterrupted if
    another attempt conducts it.
    """

    def __init__(self, engine: Engine, run_id: str, attempt: int) -> None:
        self._engine = engine
        self._run_id = run_id
        self._attempt = attempt
        self._asked_at = 0.0
        self._stop = False
        self._where: tuple[str, int | None] = ("", None)
        # How many of the next events an earlier attempt has recorded, and the state it was left in.
        self._known = 0
        self._state: dict[str, Any] = {}
        self._kept = 0

    # Events, each recorded once ----------------------------------------------------------------

    def phase(self, name: str, round_number: int | None, total_rounds: int) -> None:
        """A phase begins."""
        self._where = (name, round_number)
        self._begin(name, round_number, state="running", total_rounds=total_rounds)

    def pause(self, absent: Sequence[str], until: datetime) -> None:
        """The run waits in the round that was begun last."""
        names = json.dumps(sorted(absent))
        number = self._where[1]
        self._begin("pause", number, state="paused", waiting_for=names, pause_until=until)

    def _begin(self, name: str, round_number: int | None, **values: object) -> None:
        now = utc_now()
        self._state = {
            "waiting_for": None,
            "pause_until": None,
            "phase": name,
            "round": round_number,
            "resume_requested": False,
            **values,
        }

        def change(connection: Connection) -> None:
            started = func.coalesce(runs.c.started_at, now)
            connection.execute(self._own().values(started_at=started, **self._state))
            connection.execute(
                insert(phases).values(
                    run_id=self._run_id, phase=name, round=round_number, started_at=now
                )
            )

        self._event(change)

    def metric(self, name: str, value: float) -> None:
        """A released figure of the run."""
        self._event(
            lambda connection: connection.execute(
                insert(metrics).values(
                    run_id=self._run_id, name=name, value=value, recorded_at=utc_now()
                )
            )
        )

    def membership(self, party: str, event: str) -> None:
        """A party left or came back, in the phase that was begun last."""
        phase, number = self._where
        self._event(
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

    def _event(self, change: Callable[[Connection], object]) -> None:
        """Events come in one order in every attempt: the first ones are there already."""
        if self._known:
            self._known -= 1
            return

        def counted(connection: Connection) -> None:
            connection.execute(self._own().values(recorded=runs.c.recorded + 1))
            change(connection)

        self._write(counted)

    # Exchanges ---------------------------------------------------------------------------------

    def exchange(
        self,
        phase: str,
        round_number: int | None,
        seconds: float,
        bytes_up: Mapping[str, int],
        bytes_down: Mapping[str, int],
    ) -> None:
        """One exchange ended."""
        measured = Measured(phase, round_number, seconds, bytes_up, bytes_down)
        self._write(lambda connection: self._record(connection, measured))

    def answered(self, entry: Answered, attachment: bytes, measured: Measured) -> None:
        """See `coordinator.checkpoints.Journal`. The run got further: what restarts it has had are
        forgotten."""

        def change(connection: Connection) -> None:
            self._add(connection, entry)
            needed = [one.hex() for one in entry.needed]
            held = checkpoint_attachments.c
            connection.execute(
                delete(checkpoint_attachments).where(
                    held.run_id == self._run_id, held.sha256.not_in(needed)
                )
            )
            if entry.kept:
                known = select(held.sha256).where(
                    held.run_id == self._run_id, held.sha256 == entry.kept.hex()
                )
                if connection.execute(known).first() is None:
                    connection.execute(
                        insert(checkpoint_attachments).values(
                            run_id=self._run_id, sha256=entry.kept.hex(), content=attachment
                        )
                    )
            self._record(connection, measured)
            connection.execute(self._own().values(stalled=0))

        self._write(change)

    def statements(self, heard: Sequence[Heard]) -> None:
        """Parties' signed replies of one exchange; the same again is no error."""
        if heard:
            self._write(lambda connection: keep(connection, self._run_id, heard))

    def _record(self, connection: Connection, measured: Measured) -> None:
        key = connection.execute(
            insert(exchanges).values(
                run_id=self._run_id,
                phase=measured.phase,
                round=measured.round,
                seconds=measured.seconds,
                ended_at=utc_now(),
            )
        ).inserted_primary_key
        assert key is not None
        up, down = measured.bytes_up, measured.bytes_down
        rows = [
            {
                "exchange_id": key[0],
                "party": party,
                "bytes_up": up.get(party, 0),
                "bytes_down": down.get(party, 0),
            }
            for party in sorted({*up, *down})
        ]
        if rows:
            connection.execute(insert(exchange_bytes), rows)

    # The journal -------------------------------------------------------------------------------

    def load(self) -> Kept:
        """See `coordinator.checkpoints.Journal`. Raises StoreError for what was altered."""
        held, texts = checkpoint_attachments.c, checkpoints.c
        with store_errors(), reading(self._engine) as connection:
            entries = connection.execute(
                select(texts.content).where(texts.run_id == self._run_id).order_by(texts.number)
            ).scalars()
            kept = [entry_from_bytes(one) for one in entries]
            attachments = connection.execute(
                select(held.sha256, held.content).where(held.run_id == self._run_id)
            ).all()
            query = select(runs.c.recorded).where(runs.c.run_id == self._run_id)
            self._known = connection.execute(query).scalar_one()
        for sha256, content in attachments:
            if hashlib.sha256(content).hexdigest() != sha256:
                raise StoreError("a run's checkpoint was altered; stop the run and submit again")
        self._kept = len(kept)
        return Kept(kept, {bytes.fromhex(one): content for one, content in attachments})

    def moment(self, at: datetime) -> None:
        """See `coordinator.checkpoints.Journal`."""
        self._write(lambda connection: self._add(connection, at))

    def caught_up(self) -> None:
        """See `coordinator.checkpoints.Journal`: the run is in the state again that it was in."""
        if self._known:
            raise RunError(
                "the run cannot be taken up: it went another way before; submit the plan again"
            )
        if self._state:
            state = {one: self._state[one] for one in self._state if one != "resume_requested"}
            self._write(
                lambda connection: connection.execute(
                    self._own().values(interruption=None, **state)
                )
            )

    def _add(self, connection: Connection, entry: Entry) -> None:
        number = self._kept + 1
        connection.execute(
            insert(checkpoints).values(
                run_id=self._run_id, number=number, content=entry_to_bytes(entry)
            )
        )
        self._kept = number

    # Wishes ------------------------------------------------------------------------------------

    def resume_requested(self) -> bool:
        """True once for an operator's wish to go on now; the wish is taken back."""
        query = select(runs.c.resume_requested).where(runs.c.run_id == self._run_id)
        with store_errors(), reading(self._engine) as connection:
            if not connection.execute(query).scalar_one():
                return False
        self._write(
            lambda connection: connection.execute(self._own().values(resume_requested=False))
        )
        return True

    def stop_requested(self) -> bool:
        """True once an operator asked this run to stop; looks at most 5 times a second."""
        if not self._stop and time.monotonic() - self._asked_at >= STOP_POLL_SECONDS:
            query = select(runs.c.stop_requested).where(runs.c.run_id == self._run_id)
            with store_errors(), reading(self._engine) as connection:
                self._stop = connection.execute(query).scalar_one()
            self._asked_at = time.monotonic()
        return self._stop

    def _own(self) -> Any:
        """A change of this run's row."""
        return update(runs).where(runs.c.run_id == self._run_id)

    def _write(self, change: Callable[[Connection], T]) -> T:
        """Make a change if this attempt conducts the run. Its row is locked until then."""
        with store_errors(), self._engine.begin() as connection:
            mine = connection.execute(
                self._own()
                .where(runs.c.attempt == self._attempt, runs.c.active_slot.is_not(None))
                .values(attempt=self._attempt)
            ).rowcount
            if not mine:
                self._refuse(connection)
            return change(connection)

    def _refuse(self, connection: Connection) -> None:
        query = select(runs.c.active_slot).where(runs.c.run_id == self._run_id)
        if connection.execute(query).scalar_one_or_none() is None:
            raise RunError(f"run {self._run_id} was ended from outside; submit it again")
        raise RunInterrupted(f"run {self._run_id} is conducted by another process by now")
