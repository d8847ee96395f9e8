"""`fedtags-coordinator run`: list, show, watch, compare, resume, stop."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from coordinator import views
from coordinator.cli_context import FormatOption, client_of, write_view
from coordinator.client import CoordinatorClient
from coordinator.desk_views import MOST_COMPARED
from coordinator.watching import watch
from privacy.hosting.commands import Format, say
from privacy.hosting.problems import error_of

app = typer.Typer(help="Runs: list, show, watch, compare, resume and stop.", no_args_is_help=True)
RunArgument = Annotated[str, typer.Argument(help="The run's id.")]


@app.command("list")
def list_(
    context: typer.Context,
    format_: FormatOption = Format.TEXT,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 20,
    state: Annotated[str | None, typer.Option(help="Only runs in this state.")] = None,
    plan: Annotated[str | None, typer.Option(help="Only runs of this plan name.")] = None,
    party: Annotated[str | None, typer.Option(help="Only runs that this party was in.")] = None,
) -> None:
    """List runs, newest first."""
    with client_of(context) as client:
        runs = client.runs(limit, state=state, plan=plan, party=party).runs
    if format_ is Format.JSON:
        write_view(runs)
        return
    Console().print(views.run_table(runs) if runs else "no run yet; submit a plan")


@app.command("show")
def show(context: typer.Context, run: RunArgument, format_: FormatOption = Format.TEXT) -> None:
    """Show one run as it stands: its state, who left and came back, its figures; of one that
    failed, why, and what to do."""
    with client_of(context) as client:
        found = client.run(run)
    if format_ is Format.JSON:
        write_view(found)
        return
    Console().print(views.run_summary(found))


@app.command("watch")
def watch_(context: typer.Context, run: RunArgument, format_: FormatOption = Format.TEXT) -> None:
    """Follow a run to its end; exits with the run's own exit code."""
    with client_of(context) as client:
        follow_to_end(client, run, format_)


@app.command("compare")
def compare(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(help=f"2 to {MOST_COMPARED} runs' ids.")],
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show runs side by side: figures with their noise, parties, seconds, bytes, plans."""
    with client_of(context) as client:
        found = client.compare(runs)
    if format_ is Format.JSON:
        write_view(found)
        return
    Console().print(views.comparison(found))


@app.command("resume")
def resume(context: typer.Context, run: RunArgument, format_: FormatOption = Format.TEXT) -> None:
    """Let a paused run ask its absent parties now, not only when it next would by itself."""
    with client_of(context) as client:
        paused = client.resume(run)
    if format_ is Format.JSON:
        write_view(paused)
        return
    say(f"run {run}: asks {', '.join(paused.waiting_for)} now; follow it with `run watch`")


@app.command("stop")
def stop(
    context: typer.Context,
    run: RunArgument,
    force: Annotated[
        bool, typer.Option("--force", help="End it at once, not before its next exchange.")
    ] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Stop a run, a paused one as well. At each party the rounds that had begun stay spent; the
    rest is free again."""
    with client_of(context) as client:
        stopped = client.stop(run, force)
    if format_ is Format.JSON:
        write_view(stopped)
        return
    say(f"run {run}: {'stopped' if not stopped.active else 'will stop before its next exchange'}")


def follow_to_end(client: CoordinatorClient, run_id: str, format_: Format) -> None:
    """Follow a run to its end. Raises the run's own error if it did not finish."""
    run = watch(client, run_id, as_json=format_ is Format.JSON)
    if run.state != "finished":
        message = run.message or f"run {run_id} ended: {run.state}"
        raise error_of({"error": run.error, "detail": message})
    if format_ is Format.TEXT:
        Console().print(views.run_summary(run))
