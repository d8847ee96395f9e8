"""`fedtags-coordinator party`: invite, list, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coordinator import views
from coordinator.cli_context import FormatOption, client_of, write_view
from privacy.errors import ConfigError
from privacy.hosting.commands import Format, say

app = typer.Typer(help="Partners: invite, list and remove.", no_args_is_help=True)


@app.command("invite")
def invite(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The party's name.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to write the invite (default: NAME.invite.json).")
    ] = None,
) -> None:
    """Write a one-time invite file (mode 0600) for one party. Hand it over safely."""
    path = output or Path(f"{name}.invite.json")
    if path.exists():
        raise ConfigError(f"{path} already exists; choose another --output")
    with client_of(context) as client:
        made = client.invite(name)
    made.write(path)
    say(f"invite for {name} written to {path}; usable once, until {made.expires_at:%F %R} UTC")
    say(f"coordinator fingerprint, to read out to the partner: {made.coordinator_fingerprint}")


@app.command("list")
def list_(
    context: typer.Context,
    removed: Annotated[bool, typer.Option("--removed", help="Removed parties, too.")] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """List parties: whether their nodes are connected, key fingerprints, what they tell."""
    with client_of(context) as client:
        parties = client.parties(removed=removed)
    if format_ is Format.JSON:
        write_view(parties)
        return
    Console().print(views.party_table(parties) if parties else "no party is enrolled yet")


@app.command("remove")
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The party's name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Remove a party: no new run with it, and its node connects no more. Its history stays."""
    if not yes:
        typer.confirm(f"Remove party {name}?", abort=True, err=True)
    with client_of(context) as client:
        removed = client.remove_party(name)
    if format_ is Format.JSON:
        write_view(removed)
        return
    say(f"party {name} removed; invite it again to take it back with the keys that it has")
