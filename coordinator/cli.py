"""`fedtags-coordinator`: set up and run a coordinator, invite parties, submit and watch runs."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from coordinator import views
from coordinator.client import CoordinatorClient
from coordinator.settings import (
    DEFAULT_HOME,
    HOME_VARIABLE,
    CoordinatorSettings,
    load_settings,
)
from coordinator.watching import watch
from models.plan import plan_digest, read_plan
from privacy.hosting.commands import Format, run_app, say, write_json
from privacy.hosting.supervision import error_of
from privacy.identity import SigningKey, fingerprint

# What brings in Flower or the database is imported by the one command that needs it, so that the
# others answer at once.
app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
party_app = typer.Typer(help="Partners: invite and list.", no_args_is_help=True)
plan_app = typer.Typer(help="Plans: validate and submit.", no_args_is_help=True)
run_commands = typer.Typer(help="Runs: list, show, watch, resume and stop.", no_args_is_help=True)
app.add_typer(party_app, name="party")
app.add_typer(plan_app, name="plan")
app.add_typer(run_commands, name="run")

FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]


@app.callback()
def _home(
    context: typer.Context,
    home: Annotated[
        Path, typer.Option(envvar=HOME_VARIABLE, help="The coordinator's folder.")
    ] = DEFAULT_HOME,
) -> None:
    context.obj = home.expanduser().resolve()


def _settings(context: typer.Context) -> CoordinatorSettings:
    home = context.obj
    assert isinstance(home, Path)
    return load_settings(home)


@app.command()
def init(
    context: typer.Context,
    federation: Annotated[str, typer.Option(help="The federation's name.")] = "fedtags",
    requester: Annotated[
        str, typer.Option(help="Name of the requester whose key signs plans.")
    ] = "data-science",
    host: Annotated[str, typer.Option(help="Address to bind and to put into invites.")] = (
        "127.0.0.1"
    ),
    control_port: Annotated[int, typer.Option(help="Port of the control plane.")] = 8470,
    superlink_port: Annotated[int, typer.Option(help="Port of the SuperLink.")] = 8471,
) -> None:
    """Write a commented config, make keys and certificates. Nothing is overwritten."""
    from coordinator.setup import initialise

    home = context.obj
    made = initialise(home, federation, requester, host, control_port, superlink_port)
    say(f"Coordinator of federation {federation} set up in {home}")
    say(f"  settings                {home / 'coordinator.toml'}")
    say(f"  coordinator fingerprint {made.coordinator_fingerprint}")
    say(f"  requester fingerprint   {made.requester_fingerprint} ({requester})")
    say("Next: fedtags-coordinator start, then party invite NAME")


@app.command()
def start(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
) -> None:
    """Run the SuperLink and the control plane; in the foreground unless --detach."""
    from coordinator import processes
    from privacy.hosting.bundle import bundle_hash

    settings = _settings(context)
    if detach:
        pid = processes.run_detached(settings)
        say(f"coordinator running (pid {pid}): {settings.control_url}; stop it with `stop`")
        say(f"Flower bundle {bundle_hash()}; every party's `status` must show the same")
        return
    say(f"starting {settings.control_url}; logs in {settings.home / 'logs'}; Ctrl-C stops it")
    processes.run_foreground(settings)


@app.command()
def stop(context: typer.Context) -> None:
    """Stop what `start` started."""
    from coordinator import processes

    processes.stop(_settings(context))
    say("coordinator stopped")


@party_app.command("invite")
def party_invite(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The party's name.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write the invite (default: NAME.invite.json).")
    ] = None,
) -> None:
    """Write a one-time invite file (mode 0600) for one party. Hand it over safely."""
    path = output or Path(f"{name}.invite.json")
    with CoordinatorClient.of_home(_settings(context)) as client:
        invite = client.invite(name)
    invite.write(path)
    say(f"invite for {name} written to {path}; usable once, until {invite.expires_at:%F %R} UTC")
    say(f"coordinator fingerprint, to read out to the partner: {invite.coordinator_fingerprint}")


@party_app.command("list")
def party_list(context: typer.Context, format_: FormatOption = Format.TEXT) -> None:
    """List enrolled parties with their key fingerprints."""
    with CoordinatorClient.of_home(_settings(context)) as client:
        parties = client.parties()
    if format_ is Format.JSON:
        write_json([party.model_dump(mode="json") for party in parties])
        return
    table = Table("party", "fingerprint", "enrolled (UTC)", box=None)
    for party in parties:
        table.add_row(party.name, party.fingerprint, f"{party.enrolled_at:%F %R}")
    Console().print(table if parties else "no party is enrolled yet")


@plan_app.command("validate")
def plan_validate(
    file: Annotated[Path, typer.Argument(help="A plan (TOML).")],
    format_: FormatOption = Format.TEXT,
) -> None:
    """Check a plan file. Needs no running coordinator."""
    plan, source = read_plan(file)
    digest = plan_digest(source)
    if format_ is Format.JSON:
        write_json({"name": plan.name, "digest": digest, "valid": True})
        return
    say(f"{file}: valid plan {plan.name}, digest {digest}")


@plan_app.command("submit")
def plan_submit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A plan (TOML).")],
    watch_: Annotated[bool, typer.Option("--watch", help="Stay until the run ends.")] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Sign a plan with keys/requester.pem and start a run of it."""
    settings = _settings(context)
    plan, source = read_plan(file)
    key = SigningKey.load(settings.requester_key)
    run_id = f"{plan.name[:32]}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    with CoordinatorClient.of_home(settings) as client:
        run = client.submit(run_id, source, key)
        if format_ is Format.TEXT:
            say(f"run {run.run_id} started; signed by {run.requester} ({fingerprint(key.public)})")
        elif not watch_:
            write_json(run.model_dump(mode="json"))
        if watch_:
            _watch(client, run_id, format_)


@run_commands.command("list")
def run_list(
    context: typer.Context,
    format_: FormatOption = Format.TEXT,
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 20,
) -> None:
    """List runs, newest first."""
    with CoordinatorClient.of_home(_settings(context)) as client:
        runs = client.runs(limit)
    if format_ is Format.JSON:
        write_json([run.model_dump(mode="json") for run in runs])
        return
    Console().print(views.run_table(runs) if runs else "no run yet; submit a plan")


@run_commands.command("show")
def run_show(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id.")],
    format_: FormatOption = Format.TEXT,
) -> None:
    """Show one run as it stands: its state, who left and came back, its figures."""
    with CoordinatorClient.of_home(_settings(context)) as client:
        found = client.run(run)
    if format_ is Format.JSON:
        write_json(found.model_dump(mode="json"))
        return
    Console().print(views.run_summary(found))


@run_commands.command("watch")
def run_watch(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id.")],
    format_: FormatOption = Format.TEXT,
) -> None:
    """Follow a run to its end; exits with the run's own exit code."""
    with CoordinatorClient.of_home(_settings(context)) as client:
        _watch(client, run, format_)


@run_commands.command("resume")
def run_resume(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id.")],
) -> None:
    """Let a paused run ask its absent parties now, not only when it next would by itself."""
    with CoordinatorClient.of_home(_settings(context)) as client:
        paused = client.resume(run)
    say(f"run {run}: asks {', '.join(paused.waiting_for)} now; follow it with `run watch`")


@run_commands.command("stop")
def run_stop(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id.")],
    force: Annotated[
        bool, typer.Option("--force", help="End it at once, not before its next exchange.")
    ] = False,
) -> None:
    """Stop a run, a paused one as well. At each party the rounds that had begun stay spent; the
    rest is free again."""
    with CoordinatorClient.of_home(_settings(context)) as client:
        stopped = client.stop(run, force)
    say(f"run {run}: {'stopped' if not stopped.active else 'will stop before its next exchange'}")


def _watch(client: CoordinatorClient, run_id: str, format_: Format) -> None:
    run = watch(client, run_id, as_json=format_ is Format.JSON)
    if run.state != "finished":
        raise error_of(run.exit_code or 1)(run.message or f"run {run_id} ended: {run.state}")
    if format_ is Format.TEXT:
        Console().print(views.run_summary(run))


def main() -> None:
    """The program's entry point."""
    run_app(app, "fedtags-coordinator")


if __name__ == "__main__":
    main()
