"""What the run store tells of a run, and how an outcome becomes plain values."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping

RECOVERING = "recovering"
ACTIVE = ("created", "running", "paused", RECOVERING)


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One exchange as recorded: wall-clock seconds, frame bytes by party (up = from the party)."""

    phase: str
    round: int | None
    seconds: float
    bytes_up: Mapping[str, int]
    bytes_down: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Membership:
    """A party left ('left' without an answer, 'refused') or came back ('returned') in a run."""

    party: str
    event: str
    phase: str
    round: int | None
    at: datetime


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run as stored. `error`, `exit_code` and `message` are set once it failed or was stopped;
    `waiting_for` and `pause_until` while it is paused. `attempt`: the how-manieth process conducts
    it, since `attempt_at` (0: begun by a version that kept no checkpoints); `stalled`: how often in
    a row it was taken up without getting further; `interruption`: why the attempt before ended, or
    this one has; `process`: what conducts it, as `coordinator.recovery` reads it."""

    run_id: str
    plan_name: str
    plan_digest: str
    requester_public: bytes
    state: str
    stop_requested: bool
    resume_requested: bool
    phase: str | None
    round: int | None
    total_rounds: int | None
    flower_run_id: str | None
    error: str | None
    exit_code: int | None
    message: str | None
    outcome: Mapping[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    waiting_for: tuple[str, ...]
    pause_until: datetime | None
    attempt: int
    attempt_at: datetime | None
    stalled: int
    interruption: str | None
    process: str | None

    @property
    def active(self) -> bool:
        """True until the run has ended."""
        return self.state in ACTIVE


def record_of(row: RowMapping) -> RunRecord:
    """A row of `runs`."""
    values: dict[str, Any] = {
        field.name: row[field.name] for field in dataclasses.fields(RunRecord)
    }
    if values["outcome"] is not None:
        values["outcome"] = json.loads(values["outcome"])
    values["waiting_for"] = tuple(json.loads(values["waiting_for"] or "[]"))
    return RunRecord(**values)


def plain(value: object) -> Any:
    """`value` in JSON's types; raises TypeError for anything that is not a public value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise TypeError(f"a run outcome cannot hold a {type(value).__name__}")
