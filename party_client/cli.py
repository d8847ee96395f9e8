"""`fedtags-party`: set up one party's node, join a federation, run it, see tags and budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from party_client import catalogue_cli, enrolment, operations_cli, people_cli, views
from party_client.approvals_cli import app as plan_app
from party_client.budget_cli import app as budget_app
from party_client.check_cli import check
from party_client.confirming import parse_confirmations, settle_members
from party_client.consent_cli import app as consent_app
from party_client.customer_cli import app as customer_app
from party_client.disclosure_cli import app as disclosure_app
from party_client.ledger_cli import app as ledger_app
from party_client.model_cli import app as model_app
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
app.add_typer(customer_app, name="customer")
app.add_typer(consent_app, name="consent")
app.add_typer(ledger_app, name="ledger")
app.add_typer(budget_app, name="budget")
app.add_typer(plan_app, name="plan")
app.add_typer(disclosure_app, name="disclosure")
app.add_typer(model_app, name="model")
operations_cli.register(app)
catalogue_cli.register(tags_app)
people_cli.register(app)

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
    from party_client.setup import admit_coordinator, admit_requesters

    settings = _settings(context)
    given = parse_confirmations(confirm or [])
    if invite is None:
        pinned = enrolment.refresh(settings)
        admitted = known = True
    else:
        offer = read_invite(invite)
        pinned = enrolment.join(settings, offer)
        admitted = admit_requesters(settings, offer.requesters)
        known = admit_coordinator(settings, offer.coordinator_fingerprint)
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
    if not known:
        say("policy.toml names other coordinators: add the above to `coordinators` to admit it")
    waiting = [name for name, member in pinned.members.items() if not member.confirmed]
    say(f"{len(pinned.confirmed)} of {len(pinned.members)} members confirmed")
    if waiting:
        say(f"not confirmed, so they do not count: {', '.join(sorted(waiting))}")
    say("Members may join later: run fedtags-party join again, without an invite, to confirm them")


app.command()(check)


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
