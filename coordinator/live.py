"""What happens in a run, as it happens, for whoever follows it.

A follower's position is a short text: how far the run's rows have been read, and which state of
the run was seen. The database is asked twice a second for each run that somebody follows, however
many do.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pydantic_core import to_json
from sqlalchemy import RowMapping

from coordinator.desk_runs import run_view
from coordinator.desk_store import DeskStore, Marks
from coordinator.desk_views import ExchangeView, FigureView, MembershipView, RunView
from privacy.errors import RateLimited

LOOK_EVERY_S = 0.5
# Followers of one person or token, and of all together, each of whom holds a connection.
MOST_OF_ONE = 16
MOST_FOLLOWERS = 128
_FRESH_S = 0.4
_MOST_KEPT = 64
_POSITION = re.compile(r"(\d{1,18})-(\d{1,18})-(\d{1,18})-([0-9a-f]{12})?")

Seen = RunView | ExchangeView | FigureView | MembershipView


@dataclass(frozen=True)
class Position:
    """Where a follower is. `seen`: a hash of the run's state that it was told last."""

    marks: Marks = field(default_factory=Marks)
    seen: str = ""

    def __str__(self) -> str:
        marks = self.marks
        return f"{marks.exchange}-{marks.metric}-{marks.membership}-{self.seen}"


@dataclass(frozen=True)
class Event:
    """Something that happened. `kind`: 'exchange', 'metric' or 'membership' (it was recorded),
    'run' (the run's state is another), 'end' (the last one). `position`: the follower's after it.
    """

    kind: str
    position: Position
    data: Seen


def parse_position(text: str | None) -> Position:
    """The position that `str` wrote; the beginning for anything else."""
    found = _POSITION.fullmatch(text or "")
    if found is None:
        return Position()
    exchange, metric, membership, seen = found.groups()
    return Position(Marks(int(exchange), int(metric), int(membership)), seen or "")


class Live:
    """The events of runs. `requesters`: names by public key. Safe between threads."""

    def __init__(self, store: DeskStore, requesters: Callable[[], Mapping[bytes, str]]) -> None:
        self._store, self._requesters = store, requesters
        self._lock = threading.Lock()
        self._peeked: dict[str, tuple[float, Marks, RowMapping]] = {}
        self._followers: Counter[str] = Counter()
        self.closing = threading.Event()

    def enter(self, who: str) -> None:
        """Count a follower, who must `leave`. Raises RateLimited if there are too many."""
        with self._lock:
            if self._followers[who] >= MOST_OF_ONE or self._followers.total() >= MOST_FOLLOWERS:
                raise RateLimited("too many follow runs already; end one of them, or try later")
            self._followers[who] += 1

    def leave(self, who: str) -> None:
        """A follower has gone."""
        with self._lock:
            self._followers[who] -= 1
            self._followers += Counter()  # forgets those at none

    def since(self, run_id: str, position: Position, only: str | None = None) -> list[Event]:
        """What happened after `position`, oldest first; the last is 'end' once the run has ended.

        `only`: the party that the follower operates; what is other parties' is left out. Raises
        NotFound for an unknown run.
        """
        marks, head = self._peek(run_id)
        events: list[Event] = []
        if _beyond(marks, position.marks):
            for kind, row, sizes in self._store.between(run_id, position.marks, marks):
                reached = replace(position.marks, **{kind: row["id"]})
                position = Position(reached, position.seen)
                events.append(Event(kind, position, _seen(kind, row, sizes, only)))
        run = self._run(run_id, head, only)
        seen = hashlib.sha256(to_json(run)).hexdigest()[:12]
        if seen != position.seen:
            position = Position(position.marks, seen)
            events.append(Event("run" if run.active else "end", position, run))
        return events

    def has_ended(self, run_id: str) -> bool:
        """Whether the run has ended. Raises NotFound for an unknown one."""
        return not self._run(run_id, self._peek(run_id)[1], None).active

    def _run(self, run_id: str, head: RowMapping, only: str | None) -> RunView:
        figures = self._store.metrics_of([run_id])[run_id]
        return run_view(head, self._requesters(), figures, only)

    def _peek(self, run_id: str) -> tuple[Marks, RowMapping]:
        now = time.monotonic()
        with self._lock:
            known = self._peeked.get(run_id)
        if known is not None and now - known[0] < _FRESH_S:
            return known[1], known[2]
        marks, head = self._store.peek(run_id)
        with self._lock:
            if len(self._peeked) >= _MOST_KEPT:
                self._peeked.clear()
            self._peeked[run_id] = (now, marks, head)
        return marks, head


def _beyond(marks: Marks, before: Marks) -> bool:
    return (
        marks.exchange > before.exchange
        or marks.metric > before.metric
        or marks.membership > before.membership
    )


def _seen(
    kind: str, row: RowMapping, sizes: Mapping[str, tuple[int, int]], only: str | None
) -> Seen:
    if kind == "exchange":
        told = {party: size for party, size in sizes.items() if only in (None, party)}
        return ExchangeView(
            phase=row["phase"],
            round=row["round"],
            seconds=row["seconds"],
            bytes_up={party: up for party, (up, _) in told.items()},
            bytes_down={party: down for party, (_, down) in told.items()},
        )
    if kind == "metric":
        return FigureView(name=row["name"], value=row["value"], standard_error=None)
    return MembershipView(
        party=row["party"],
        event=row["event"],
        phase=row["phase"],
        round=row["round"],
        at=row["at"],
    )
