"""Taking a run up again whose process is gone: when, how often, and how that process is known.

Flower notices a dead ServerApp by its missing heartbeats, within a minute. On one machine the
kernel knows at once, so a ServerApp leaves its own identity in the run store.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

from coordinator.run_store import RunRecord
from privacy.errors import FedtagsError, RunError, RunStopped
from privacy.hosting.processes import ProcessIdentity, boot_id

# A run that was taken up in vain waits before the next time: this long, then twice as long, ...
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 300.0


def this_process() -> str:
    """What tells this process from all others, for `is_gone`."""
    own = ProcessIdentity.of(os.getpid())
    if own is None:
        return ""
    facts = {"pid": own.pid, "started": own.started, "boot": own.boot, "space": _pid_space()}
    return json.dumps(facts)


def is_gone(process: str | None) -> bool:
    """True if this process certainly runs no more. False also if it is not for us to know: it was
    of another machine, container or boot."""
    try:
        facts = json.loads(process or "{}")
        known = ProcessIdentity(int(facts["pid"]), int(facts["started"]), str(facts["boot"]))
        space = str(facts["space"])
    except (ValueError, KeyError, TypeError):
        return False
    return (known.boot, space) == (boot_id(), _pid_space()) and not known.alive()


def due(record: RunRecord, now: datetime) -> bool:
    """Whether it is time to take a run up again; at once for the first time in a row."""
    if not record.stalled or record.attempt_at is None:
        return True
    seconds = min(FIRST_WAIT_S * 2 ** (record.stalled - 1), LONGEST_WAIT_S)
    return now >= record.attempt_at + timedelta(seconds=seconds)


def final_error(record: RunRecord) -> FedtagsError:
    """How a run ends that is not taken up (again)."""
    if record.stop_requested:
        return RunStopped(f"run {record.run_id} was stopped by an operator")
    often = ""
    if record.stalled:
        often = f", and was taken up {record.stalled} times without getting any further"
    said = f" The last time: {record.interruption}." if record.interruption else ""
    return RunError(
        f"run {record.run_id} was cut short: its ServerApp ended without a result{often}.{said} "
        "Rounds that had begun stay spent at the parties; see logs/serverapp.log, then submit the "
        "plan again"
    )


def _pid_space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
