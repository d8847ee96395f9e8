"""`fedtags-coordinator plan`: validate, diff, submit."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coordinator import views
from coordinator.cli_context import FormatOption, client_of, settings_of, write_view
from coordinator.cli_runs import follow_to_end
from coordinator.desk_views import PlanDiff
from models.plan import Plan, plan_digest, read_plan
from models.plan_diff import changes, meaning
from privacy.errors import ConfigError
from privacy.hosting.commands import Format, say, write_json
from privacy.identity import SigningKey, fingerprint

app = typer.Typer(help="Plans: validate, compare and submit.", no_args_is_help=True)
PlanFile = Annotated[Path, typer.Argument(help="A plan (TOML).")]


@app.command("validate")
def validate(
    context: typer.Context,
    file: PlanFile,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Also ask the running coordinator which parties could take part now, and what a "
            "run would cost each. Nothing runs.",
        ),
    ] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Check a plan file. Without --dry-run it needs no running coordinator."""
    plan, source = read_plan(file)
    if dry_run:
        with client_of(context) as client:
            found = client.dry_run(source)
        if format_ is Format.JSON:
            write_view(found)
        else:
            Console().print(views.dry_run_table(found))
        return
    digest = plan_digest(source)
    if format_ is Format.JSON:
        write_json({"name": plan.name, "digest": digest, "valid": True})
        return
    say(f"{file}: valid plan {plan.name}, digest {digest}")


@app.command("diff")
def diff(
    context: typer.Context,
    file: PlanFile,
    other: Annotated[
        Path | None, typer.Argument(help="The plan that it is compared with, a file.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="The run whose plan it is compared with, instead of a file.")
    ] = None,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show what differs in meaning between a plan and another one, or the plan of a run.

    Comments, layout and defaults that are written out are no difference.
    """
    if (other is None) == (run is None):
        raise ConfigError("give either a second plan file, or --run RUN")
    plan, source = read_plan(file)
    if run is not None:
        with client_of(context) as client:
            found = client.diff_plan(source, run)
    else:
        assert other is not None
        found = _compared(*read_plan(other), plan, source)
    if format_ is Format.JSON:
        write_view(found)
        return
    Console().print(views.diff_table(found))


@app.command("submit")
def submit(
    context: typer.Context,
    file: PlanFile,
    watch_: Annotated[bool, typer.Option("--watch", help="Stay until the run ends.")] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Sign a plan with keys/requester.pem and start a run of it."""
    settings = settings_of(context)
    plan, source = read_plan(file)
    key = SigningKey.load(settings.requester_key)
    run_id = f"{plan.name[:32]}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    with client_of(context) as client:
        run = client.submit(run_id, source, key)
        if format_ is Format.TEXT:
            say(f"run {run.run_id} started; signed by {run.requester} ({fingerprint(key.public)})")
        elif not watch_:
            write_view(run)
        if watch_:
            follow_to_end(client, run_id, format_)


def _compared(old: Plan, old_source: bytes, new: Plan, new_source: bytes) -> PlanDiff:
    return PlanDiff(
        before=old.name,
        before_digest=plan_digest(old_source),
        after=new.name,
        after_digest=plan_digest(new_source),
        changes=changes(meaning(old), meaning(new)),
    )
