"""`fedtags-coordinator`: set up and run a coordinator, invite parties, submit and watch runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator import (
    audit_cli,
    cli_parties,
    cli_plans,
    cli_runs,
    evidence_cli,
    operations_cli,
    people_cli,
)
from coordinator.cli_context import settings_of
from coordinator.settings import DEFAULT_HOME, HOME_VARIABLE
from privacy.hosting.commands import run_app, say

# What brings in Flower or the web service is imported by the one command that needs it, so that
# the others answer at once.
app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.add_typer(cli_parties.app, name="party")
app.add_typer(cli_plans.app, name="plan")
app.add_typer(cli_runs.app, name="run")
app.add_typer(people_cli.people_app, name="people")
app.add_typer(people_cli.token_app, name="token")
app.add_typer(audit_cli.app, name="audit")
app.add_typer(evidence_cli.evidence_app, name="evidence")
operations_cli.register(app)


@app.callback()
def _home(
    context: typer.Context,
    home: Annotated[
        Path, typer.Option(envvar=HOME_VARIABLE, help="The coordinator's folder.")
    ] = DEFAULT_HOME,
) -> None:
    context.obj = home.expanduser().resolve()


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

    settings = settings_of(context)
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

    processes.stop(settings_of(context))
    say("coordinator stopped")


def main() -> None:
    """The program's entry point."""
    run_app(app, "fedtags-coordinator")


if __name__ == "__main__":
    main()
