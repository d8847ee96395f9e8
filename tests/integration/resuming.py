"""A run over real party services whose coordinator dies at chosen moments, and its next process.

A process is an attempt: a recorder of its own, and the run's own program from its start. It
dies (`Killed`, which nothing of it catches) before or after any message or write, as by SIGKILL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import func, select

from coordinator.channel import Channel
from coordinator.checkpoint_tables import checkpoint_attachments, checkpoints
from coordinator.checkpoints import Answered, Kept, Measured
from coordinator.evidence_tables import evidence_statements
from coordinator.rounds import RunOutcome, run
from coordinator.run_recorder import RunRecorder
from coordinator.run_store import RunStore
from coordinator.tables import exchanges, membership, metrics, phases
from coordinator.tables import parties as party_rows
from privacy.errors import FedtagsError, RunInterrupted
from privacy.evidence_statements import Heard
from privacy.hosting.database import reading, utc_now
from privacy.identity import sign_plan
from simulations.local_federation import MemoryChannel, announced
from tests.integration.conftest import LocalRun

RUN = "run-1"
# Of a ledger's entries what an undisturbed run with the same randomness has, too.
LEDGER_FIELDS = ("run", "round", "attempt", "mechanism", "recipients")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the process catches it."""


@dataclass
class Life:
    """How many steps, messages and writes by their beginnings and ends, a process still has."""

    left: int
    steps: int = 0

    def step(self) -> None:
        if self.steps >= self.left:
            raise Killed
        self.steps += 1


@dataclass(frozen=True)
class MortalChannel:
    """Dies before anybody is asked, or when all have answered."""

    channel: Channel
    life: Life

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        self.life.step()
        replies = self.channel.exchange(frames, timeout_s)
        self.life.step()
        return replies


@dataclass(frozen=True)
class MortalRecorder:
    """Dies before or after any write. Its operator resumes every pause at once."""

    recorder: RunRecorder
    life: Life

    def _write(self, change: Callable[[], None]) -> None:
        self.life.step()
        change()
        self.life.step()

    def phase(self, name: str, round_number: int | None, total_rounds: int) -> None:
        self._write(lambda: self.recorder.phase(name, round_number, total_rounds))

    def exchange(
        self,
        phase: str,
        round_number: int | None,
        seconds: float,
        bytes_up: Mapping[str, int],
        bytes_down: Mapping[str, int],
    ) -> None:
        raise AssertionError("an exchange of a run in the store is recorded with its answers")

    def answered(self, entry: Answered, attachment: bytes, measured: Measured) -> None:
        self._write(lambda: self.recorder.answered(entry, attachment, measured))

    def statements(self, heard: Sequence[Heard]) -> None:
        self._write(lambda: self.recorder.statements(heard))

    def metric(self, name: str, value: float) -> None:
        self._write(lambda: self.recorder.metric(name, value))

    def membership(self, party: str, event: str) -> None:
        self._write(lambda: self.recorder.membership(party, event))

    def pause(self, absent: Sequence[str], until: datetime) -> None:
        self._write(lambda: self.recorder.pause(absent, until))

    def moment(self, at: datetime) -> None:
        self._write(lambda: self.recorder.moment(at))

    def caught_up(self) -> None:
        self._write(self.recorder.caught_up)

    def load(self) -> Kept:
        return self.recorder.load()

    def resume_requested(self) -> bool:
        return True

    def stop_requested(self) -> bool:
        return self.recorder.stop_requested()


@dataclass(frozen=True)
class LossyChannel:
    """`loses(party, kind, number, attempt)`: of a message its request, its reply or nothing."""

    channel: Channel
    loses: Callable[[str, str, int, int], str]
    sent: list[tuple[str, str, int, bytes]]

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        fates = {}
        for party, frame in frames.items():
            kind, number, attempt = announced(frame)
            self.sent.append((party, kind, number, frame))
            fates[party] = self.loses(party, kind, number, attempt)
        through = {one: frame for one, frame in frames.items() if fates[one] != "request"}
        replies = self.channel.exchange(through, timeout_s)
        return {one: reply for one, reply in replies.items() if fates[one] != "reply"}


@dataclass
class Coordinator:
    """One federation's coordinator in this process: its database, and its attempts at RUN."""

    local: LocalRun
    url: str
    plan: bytes
    loses: Callable[[str, str, int, int], str] = lambda party, kind, number, attempt: "nothing"
    sent: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    attempts: int = 0

    def __post_init__(self) -> None:
        self.store = RunStore(self.url)

    def close(self) -> None:
        self.store.close()
        self.local.close()

    def create(self) -> None:
        """Store the run, as the control plane does at submission."""
        requester, members = self.local.federation.requester, self.local.federation.members
        with self.store._engine.begin() as connection:
            for name, key in members.items():
                connection.execute(
                    party_rows.insert().values(
                        name=name, public_key=key, supernode_public_key=name, enrolled_at=utc_now()
                    )
                )
        signature = sign_plan(requester, RUN, self.plan)
        self.store.create_run(RUN, self.plan, requester.public, signature)

    def attempt(self, life: Life) -> RunOutcome:
        """One process, from its start; ends the run as the ServerApp does."""
        self.attempts += 1
        store, attempt = self.store, self.attempts
        if attempt > 1:
            assert store.begin_attempt(RUN, attempt - 1, f"flower-{attempt}")
        recorder = MortalRecorder(store.recorder(RUN, attempt), life)
        homes = self.local.federation.homes
        services = MemoryChannel({party: partial(self._answer, party) for party in homes})
        lossy = LossyChannel(services, self.loses, self.sent)
        channel = MortalChannel(lossy, life)
        request, signer = store.load_request(RUN), self.local.federation.coordinator
        try:
            outcome = run(request, channel, signer, recorder, recorder)
        except RunInterrupted:
            raise
        except FedtagsError as error:
            store.fail(RUN, error, attempt)
            raise
        life.step()
        store.finish(RUN, outcome, attempt)
        return outcome

    def _answer(self, party: str, frame: bytes) -> bytes:
        return self.local.service(party).answer(frame)  # found anew: it may have been restarted

    def conduct(self, between: Callable[[], None] = lambda: None) -> RunOutcome:
        """Kill the coordinator at every step that it makes after each answered exchange: the first
        process ends at its first step, the next one at its second; once the run has got further,
        the next one at its first again. `between` is called between two processes."""
        steps, heard = 0, self.heard()
        while True:
            life = Life(steps)
            try:
                return self.attempt(life)
            except Killed:
                steps = 0 if self.heard() > heard else steps + 1
                heard = self.heard()
                between()

    def heard(self) -> int:
        return self.count(checkpoints)

    def count(self, table: Any) -> int:
        with reading(self.store._engine) as connection:
            found: int = connection.execute(select(func.count()).select_from(table)).scalar_one()
        return found

    def rows(self, *columns: Any) -> list[tuple[Any, ...]]:
        query = select(*columns).order_by(columns[0].table.c.id)
        with reading(self.store._engine) as connection:
            return [tuple(row) for row in connection.execute(query)]

    def record(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that is stored of the run but times and what differs by ciphertexts."""
        c = evidence_statements.c
        return {
            "phases": self.rows(phases.c.phase, phases.c.round),
            "exchanges": self.rows(exchanges.c.phase, exchanges.c.round),
            "metrics": self.rows(metrics.c.name, metrics.c.value),
            "membership": self.rows(
                membership.c.party, membership.c.event, membership.c.phase, membership.c.round
            ),
            "statements": self.rows(c.party, c.epoch, c.sequence),
        }

    def left_over(self) -> int:
        """Rows of what the run has heard."""
        return self.count(checkpoints) + self.count(checkpoint_attachments)

    def state(self) -> str:
        return self.store.get(RUN).state


def ledger_of(local: LocalRun, party: str) -> list[tuple[Any, ...]]:
    """The entries of a party's ledger: kind, and what does not change by the hour."""
    entries = local.service(party).node.ledger.entries()
    return [(one.kind, *(str(one.body.get(name)) for name in LEDGER_FIELDS)) for one in entries]
