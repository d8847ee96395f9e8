"""Following a run until it ends, for people (a progress bar) or scripts (JSON lines)."""

from __future__ import annotations

import json
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from coordinator.api_models import RunDetail
from coordinator.client import CoordinatorClient
from coordinator.views import progress_fraction, progress_text, state_text
from privacy.errors import NotRunningError
from privacy.hosting.commands import say

POLL_SECONDS = 0.5
# A control plane that restarts is away for a few seconds; the run goes on meanwhile.
AWAY_SECONDS = 30.0


def watch(client: CoordinatorClient, run_id: str, as_json: bool) -> RunDetail:
    """Return the run once it has ended. With `as_json`, one line of JSON at every change."""
    if as_json:
        return _watch_json(client, run_id)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[where]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(run_id, total=1.0, where="")
        while True:
            run = _ask(client, run_id)
            where = state_text(run) if run.state == "paused" else progress_text(run) or run.state
            progress.update(task, completed=progress_fraction(run), where=where)
            if not run.active:
                return run
            time.sleep(POLL_SECONDS)


def _watch_json(client: CoordinatorClient, run_id: str) -> RunDetail:
    last = ""
    while True:
        run = _ask(client, run_id)
        line = json.dumps(run.model_dump(mode="json"), sort_keys=True)
        if line != last:
            say(line)
            last = line
        if not run.active:
            return run
        time.sleep(POLL_SECONDS)


def _ask(client: CoordinatorClient, run_id: str) -> RunDetail:
    deadline = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return client.run(run_id)
        except NotRunningError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
