"""`fedtags-party`: set up one party's node, join a federation, run it, see tags and budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from party_client import enrolment, views
from party_client.budget_cli import app as budget_app
from party_client.confirming import parse_confirmations, settle_members
from party_client.ledger_cli import app as ledger_app
from party_client.settings import DEFAULT_HOME, HOME_VARIABLE, PartySettings, load_settings
from party_client.tags_cli import app as tags_app
from privacy.hosting.commands import Format, run_app, say, write_json
from privacy.hosting.enrolment import read_invite
from privacy.identity import SigningKey, fingerprint

# What brings in scientific or web libraries is imported by the one command that needs it, so that
# the others answer at once.
app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.add_typer(tags_app, name="tags")
app.add_typer(ledger_app, name="ledger")
app.add_typer(budget_app, name="budget")

FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]


@app.callback()
def _home(
    context: typer.Context,
    home: Annotated[
        Path, typer.Option(envvar=HOME_VARIABLE, help="The party's folder.")
    ] = DEFAULT_HOME,
) -> None:
    context.obj = home.expanduser().resolve()


def _settings(context: typer.Context) -> PartySettings:
    home = context.obj
    assert isinstance(home, Path)
    return load_settings(home)


@app.command()
def init(
    context: typer.Context,
    party: Annotated[str, typer.Option(help="This party's name, as it will be invited.")],
    public_size: Annotated[
        int, typer.Option(min=20, help="Public upper bound on its customers, rounded up.")
    ],
) -> None:
    """Write a commented config and policy, make keys and a ledger. Nothing is overwritten."""
    from party_client.setup import initialise

    home = context.obj
    settings = initialise(home, party, public_size)
    own = fingerprint(SigningKey.load(settings.identity_key).public)
    say(f"Party {party} set up in {home}")
    say(f"  settings    {home / 'party.toml'} (describe your source there)")
    say(f"  policy      {settings.policy} (read it: it decides what may be computed)")
    say(f"  fingerprint {own} (read it out to the other members)")
    say("Next: edit party.toml, fedtags-party check, fedtags-party join INVITE")


@app.command()
def join(
    context: typer.Context,
    invite: Annotated[
        Path | None, typer.Argument(help="The invite file; without it, look for new members.")
    ] = None,
    confirm: Annotated[
        list[str] | None,
        typer.Option(
            "--confirm",
            metavar="NAME=FINGERPRINT",
            help="Confirm a member by the fingerprint that it read out; repeatable, no questions.",
        ),
    ] = None,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Enrol with an invite, then confirm every member's key fingerprint.

    A member counts once you have compared its fingerprint with what it read out to you itself,
    over a channel that the coordinator does not control.
    """
    from party_client.setup import admit_requesters

    settings = _settings(context)
    given = parse_confirmations(confirm or [])
    if invite is None:
        pinned = enrolment.refresh(settings)
        admitted = True
    else:
        offer = read_invite(invite)
        pinned = enrolment.join(settings, offer)
        admitted = admit_requesters(settings, offer.requesters)
    ask = format_ is Format.TEXT and not given
    if ask:  # the operator compares before confirming
        Console().print(views.federation_table(pinned))
    pinned = settle_members(settings, pinned, given, ask)
    if format_ is Format.JSON:
        write_json(pinned.model_dump(mode="json"))
        return
    if not ask:
        Console().print(views.federation_table(pinned))
    if not admitted:
        say("policy.toml names other requesters: add the above to `requesters` to admit them")
    waiting = [name for name, member in pinned.members.items() if not member.confirmed]
    say(f"{len(pinned.confirmed)} of {len(pinned.members)} members confirmed")
    if waiting:
        say(f"not confirmed, so they do not count: {', '.join(sorted(waiting))}")
    say("Members may join later: run fedtags-party join again, without an invite, to confirm them")


@app.command()
def check(
    context: typer.Context,
    plan: Annotated[
        Path | None, typer.Option(help="A plan to look at the source for; without it, any.")
    ] = None,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Read the source and say what is usable, what is rejected and what is clamped, and why.

    A value outside its column's public range is set to the nearer bound; the count stays here.
    Rejected rows are kept aside in HOME/rejected with their reason; nothing else is written.
    """
    from models.plan import read_plan
    from party_client.sources import open_source

    settings = _settings(context)
    asked = None if plan is None else read_plan(plan)[0]
    with open_source(settings.source, settings.home) as source:
        report = source.check(asked, settings.party)
    if format_ is Format.JSON:
        write_json(views.source_json(report))
    else:
        Console().print(views.source_table(report))


@app.command()
def start(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
) -> None:
    """Run the party service and the SuperNode; in the foreground unless --detach."""
    from party_client import processes

    settings = _settings(context)
    if detach:
        pid = processes.run_detached(settings)
        say(f"party {settings.party} running (pid {pid}); stop it with `stop`")
        return
    say(f"starting party {settings.party}; logs in {settings.home / 'logs'}; Ctrl-C stops it")
    processes.run_foreground(settings)


@app.command()
def stop(context: typer.Context) -> None:
    """Stop what `start` started."""
    from party_client import processes

    processes.stop(_settings(context).home)
    say("party stopped")


@app.command()
def status(context: typer.Context, format_: FormatOption = Format.TEXT) -> None:
    """Show whether the node is up, who is confirmed, the budget used and the last run."""
    from party_client.status import read_status

    current = read_status(_settings(context))
    if format_ is Format.JSON:
        write_json(current.as_json())
    else:
        Console().print(views.status_table(current))


def main() -> None:
    """The program's entry point."""
    run_app(app, "fedtags-party")


if __name__ == "__main__":
    main()
