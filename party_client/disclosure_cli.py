"""`fedtags-party disclosure`: what the coordinator is told about this party."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from party_client.settings import load_settings
from privacy.disclosure import SECTIONS
from privacy.hosting.commands import Format, say, write_json

app = typer.Typer(
    help="See and send what the coordinator is told about this party.", no_args_is_help=True
)
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]


@app.command()
def show(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """Print exactly what would be sent now, as policy.toml says; nothing is sent.

    A section that is null is not told.
    """
    from party_client.disclosure import build, sequence_now
    from party_client.policy import load_policy
    from privacy.ledger import Ledger

    settings = load_settings(_home(context))
    policy = load_policy(settings.policy)
    made = build(settings, policy, Ledger(settings.ledger), sequence=sequence_now())
    if output_format is Format.TEXT:
        told = policy.disclosure.told
        silent = [one for one in SECTIONS if one not in told]
        if not told:
            say("policy.toml allows nothing to be told ([disclosure]), so nothing is ever sent.")
            return
        say(f"told: {', '.join(told)}; not told: {', '.join(silent) or 'none'}")
    write_json(made.model_dump(mode="json"))


@app.command()
def send(context: typer.Context) -> None:
    """Send it now, as the running node does by itself; for a service without a network."""
    from party_client.disclosure import build, sequence_now
    from party_client.disclosure import send as deliver
    from party_client.policy import load_policy
    from privacy.ledger import Ledger

    settings = load_settings(_home(context))
    policy = load_policy(settings.policy)
    if not policy.disclosure.told:
        say("policy.toml allows nothing to be told ([disclosure]); nothing was sent")
        return
    made = build(settings, policy, Ledger(settings.ledger), sequence=sequence_now())
    deliver(settings, made)
    say(f"the coordinator was told: {', '.join(made.told)}")


def _home(context: typer.Context) -> Path:
    home = context.obj
    assert isinstance(home, Path)
    return home
