"""`fedtags-party people`, `token` and `access`: who may use this node, and who did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from party_client.roles import Permission, Role, parse_role
from party_client.settings import load_settings
from privacy.hosting.commands import Format, say, write_json
from privacy.hosting.people_commands import (
    AccessCommands,
    FormatOption,
    home_of,
    people_app,
    print_records,
    token_app,
)

if TYPE_CHECKING:
    from privacy.hosting.access import Access
    from privacy.hosting.access_log import AccessRecord

access_app = typer.Typer(help="Read and check the access log.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `fedtags-party`."""
    commands = AccessCommands(
        access=_access,
        log=_access_log,
        manage=Permission.MANAGE_PEOPLE.value,
        check_role=parse_role,
        roles=f"{', '.join(Role)}.",
    )
    who = "People who may use this node's API and console."
    app.add_typer(people_app(commands, who), name="people")
    app.add_typer(token_app(commands), name="token")
    app.add_typer(access_app, name="access")


@access_app.command("verify")
def verify(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """Check every byte and hash of the access log's files, and print the newest head.

    Exit code 21 if they are not what was written. Lines cut from the end show only against a head
    that was kept elsewhere.
    """
    from privacy.hosting.access_log import verify_log

    entries, head = verify_log(_access_log(home_of(context)))
    if output_format is Format.JSON:
        write_json({"verified": True, "entries": entries, "head": f"{head.sequence}:{head.hash}"})
        return
    say(f"access log: {entries} entries, every byte and hash as it was written")
    say(f"head {head.sequence}:{head.hash}")


@access_app.command("show")
def show(
    context: typer.Context,
    customer: Annotated[
        str | None, typer.Option(help="Only lines about this customer, of every file.")
    ] = None,
    page: Annotated[int, typer.Option(min=1, help="Pages of 50 lines, newest first.")] = 1,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Who asked for what. The log holds no customer's id; --customer computes its keyed hash."""
    from party_client.customer_ids import normalise
    from party_client.people import customer_hash
    from privacy.hosting.access_log import find_customer, read_page

    settings = load_settings(home_of(context))
    found: list[AccessRecord]
    if customer is None:
        found, _ = read_page(settings.access_log, page, 50)
    else:
        known = normalise(customer, settings.source)
        with _access(settings.home) as access:
            hashed = customer_hash(access, known)
        found = list(find_customer(settings.access_log, hashed))
    print_records(found, output_format)


def _access_log(home: Path) -> Path:
    return load_settings(home).access_log


@contextmanager
def _access(home: Path) -> Iterator[Access]:
    from party_client.people import open_access

    access = open_access(load_settings(home))
    try:
        yield access
    finally:
        access.close()
