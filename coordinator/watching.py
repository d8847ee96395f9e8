"""Following a run until it ends, for people (a progress bar) or scripts (JSON lines)."""

from __future__ import annotations

import json
from dataclasses import asdict

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from coordinator.client import CoordinatorClient
from coordinator.desk_views import RunDetail, RunView
from coordinator.views import progress_fraction, progress_text, state_text
from privacy.hosting.commands import say


def watch(client: CoordinatorClient, run_id: str, as_json: bool) -> RunDetail:
    """Return the run once it has ended. With `as_json`, one line of JSON at every change: the run
    as it stands then."""
    last = ""
    if as_json:
        for _ in client.follow(run_id):
            last = _say_changed(client.run(run_id), last)
    else:
        _show(client, run_id)
    run = client.run(run_id)
    if as_json:
        _say_changed(run, last)
    return run


def _say_changed(run: RunDetail, last: str) -> str:
    line = json.dumps(to_jsonable_python(asdict(run)), sort_keys=True)
    if line != last:
        say(line)
    return line


def _show(client: CoordinatorClient, run_id: str) -> None:
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[where]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(run_id, total=1.0, where="")
        for one in client.follow(run_id):
            if isinstance(one.data, RunView):
                run = one.data
                named = run.state in ("paused", "recovering")
                where = state_text(run) if named else progress_text(run) or run.state
                progress.update(task, completed=progress_fraction(run), where=where)
