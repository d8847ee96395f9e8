"""`fedtags-party ledger`: read, check and hand out this party's ledger. Nothing here changes it."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from party_client.settings import PartySettings, load_settings
from privacy.errors import ConfigError, LedgerError
from privacy.hosting.commands import Format, say, write_json

app = typer.Typer(help="Read and check this party's ledger.", no_args_is_help=True)

_KNOWN = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")
FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]


class DocumentFormat(StrEnum):
    """How a whole ledger is written."""

    JSON = "json"


@app.command("show")
def show(
    context: typer.Context,
    run: Annotated[str | None, typer.Option(help="One run only, with how it was computed.")] = None,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Say in plain words what was reserved, computed and charged, oldest first.

    Every epsilon is for one customer at this party, added or removed, at the ledger's delta.
    """
    from rich.console import Console

    from party_client import budget_views, ledger_words
    from privacy.ledger import Ledger

    settings = _settings(context)
    entries, state = Ledger(settings.ledger).snapshot()
    shown = ledger_words.lines(entries, state, _public(settings))
    runs = ledger_words.run_lines(state)
    provenance: list[dict[str, Any]] = []
    if run is not None:
        provenance = ledger_words.provenance(ledger_words.one_run(state, run))
        shown = [one for one in shown if one.run == run]
        runs = [one for one in runs if one.run == run]
    if output_format is Format.JSON:
        entries_and_runs = {
            "entries": [ledger_words.plain(one) for one in shown],
            "runs": [ledger_words.plain(one) for one in runs],
            "provenance": provenance,
        }
        write_json(budget_views.lifetime_json(state) | entries_and_runs)
    else:
        Console().print(budget_views.ledger_view(shown, runs, provenance, state))


@app.command("verify")
def verify(
    context: typer.Context,
    known: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION:HASH",
            help="A head that you know from elsewhere: the ledger must hold it.",
        ),
    ] = None,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Check every byte, hash, step and decision's signature of the ledger, and print its head.

    Exit code 21 if it is not what was written, naming the line. Entries cut from the end show only
    against a head that somebody else kept: keep what this prints, or ask another member's operator.
    """
    from privacy.ledger import Ledger

    position = _parse_known(known)
    settings = _settings(context)
    ledger = Ledger(settings.ledger)
    public = _public(settings)
    ledger.verify(public=public)
    if position is not None and not ledger.contains(*position):
        raise LedgerError(
            f"{settings.ledger.name}: the head given by --known is not in it; entries were cut "
            "off, or the file was replaced or restored from an old copy: restore the newest copy, "
            "or else the other members' heads charge what is missing at the next run"
        )
    head = ledger.position()
    if output_format is Format.JSON:
        write_json(
            {
                "party": settings.party,
                "verified": True,
                "position": head.position,
                "hash": head.hash,
                "newest_entry": head.time.isoformat(),
                "known_found": None if position is None else True,
                "decisions_signed": None if public is None else True,
            }
        )
        return
    say(f"ledger of {settings.party}: every byte, hash and step is as it was written")
    if public is None:
        say("signatures of decisions about plans are not checked: keys/identity.pem is not here")
    else:
        say("every decision about a plan is signed by this party")
    if position is not None:
        say("it holds the head given by --known")
    say(f"newest entry {head.time:%F %T} UTC")
    say(f"head {head.position}:{head.hash}")


@app.command("export")
def export(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option(help="A file to write (mode 0600); by default standard output.")
    ] = None,
    output_format: Annotated[
        DocumentFormat, typer.Option("--format", help="json is the only one.")
    ] = DocumentFormat.JSON,
) -> None:
    """Write the whole verified ledger as one document, for a reviewer to recompute.

    It holds every entry with its hash, what each run is charged, and the accountant's name, version
    and settings. No customer's data is in it.
    """
    from party_client.ledger_export import ledger_document
    from party_client.output_file import opened_output
    from privacy.ledger import Ledger

    settings = _settings(context)
    if output is not None and output.resolve() == settings.ledger.resolve():
        raise ConfigError("--output is the ledger itself, which is never overwritten: name another")
    ledger = Ledger(settings.ledger)
    ledger.verify(public=_public(settings))
    entries, state = ledger.snapshot()
    document = ledger_document(entries, state)
    with opened_output(output) as file:
        json.dump(document, file, indent=2)
        file.write("\n")


def _settings(context: typer.Context) -> PartySettings:
    home = context.obj
    assert isinstance(home, Path)
    return load_settings(home)


def _public(settings: PartySettings) -> bytes | None:
    """The party's public key; None where only the ledger is, as at a reviewer's."""
    if not settings.identity_key.exists():
        return None
    from privacy.identity import SigningKey

    return SigningKey.load(settings.identity_key).public


def _parse_known(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    found = _KNOWN.fullmatch(text)
    if found is None:
        raise ConfigError(
            "--known: give POSITION:HASH as `fedtags-party ledger verify` prints it, such as "
            "17: and then 64 hexadecimal digits"
        )
    return int(found[1]), found[2]
