"""`fedtags-party tags catalogue` and `tags refresh`: the tag catalogue, and computing its tags."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from party_client.settings import load_settings
from privacy.hosting.commands import Format, say, write_json

if TYPE_CHECKING:
    from models.tag_catalogue import Catalogue


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("catalogue")(catalogue)
    app.command("refresh")(refresh)


def catalogue(
    context: typer.Context,
    format_: Annotated[
        Format, typer.Option("--format", help="text, or json for scripts.")
    ] = Format.TEXT,
) -> None:
    """List every tag of this party's catalogue: what is shipped, with the party's changes.

    catalogue.toml in the home changes it; a mistake there is named with its tag and key.
    """
    from models.tag_catalogue import load_catalogue

    found = load_catalogue(load_settings(_home(context)).catalogue)
    if format_ is Format.JSON:
        entries = [entry.model_dump(mode="json") for entry in found.values()]
        write_json({"digest": found.digest, "entries": entries})
        return
    Console().print(_table(found))
    say(f"{len(found.tags)} tags; catalogue {found.digest}")


def refresh(
    context: typer.Context,
    due: Annotated[
        bool,
        typer.Option("--due", help="Only what is due by its validity, or by a changed source."),
    ] = False,
    format_: Annotated[
        Format, typer.Option("--format", help="text, or json for scripts.")
    ] = Format.TEXT,
) -> None:
    """Compute the listed local tags from the event log now, and write them to the profile store.

    Only for customers who consent to one of a tag's purposes and have not opted out. It costs no
    budget: nothing leaves. A timer may run it with --due as often as you like.
    """
    from party_client.local_tags import refresh_local_tags
    from party_client.profile_store import open_profile_store
    from party_client.sources import open_source
    from party_client.tag_schedule import due_tags, events_digest, read_last, write_last

    settings = load_settings(_home(context))
    now = datetime.now(UTC)
    last = read_last(settings.home)
    store = open_profile_store(settings)
    try:
        with open_source(settings.source, settings.home, opted_out=store.opted_out) as source:
            events = events_digest(source, store.catalogue)
            only = due_tags(store.catalogue, last, events, now.date()) if due else None
            done = refresh_local_tags(
                source, store, store.catalogue, party=settings.party, now=now, only=only
            )
            write_last(settings.home, store.catalogue, events, done.tags, now.date())
    finally:
        store.close()
    if format_ is Format.JSON:
        write_json(
            {
                "run_id": done.run_id,
                "as_of": done.as_of.isoformat(),
                "tags": list(done.tags),
                "written": done.written,
            }
        )
    elif not done.tags:
        say("no tag is due" if due else "no local tag is listed in the catalogue")
    else:
        say(f"{len(done.tags)} tags computed as of {done.as_of}: {done.written} values changed")
        say(f"  publication {done.run_id}")


def _home(context: typer.Context) -> Path:
    home = context.obj
    assert isinstance(home, Path)
    return home


def _table(catalogue: Catalogue) -> Table:
    from models.tag_catalogue import DIMENSIONS

    table = Table("tag", "name", "名称", "update", "state")
    table.columns[0].no_wrap = True
    for dimension, (english, chinese) in DIMENSIONS.items():
        table.add_section()
        table.add_row("", f"[bold]{english}", f"[bold]{chinese}")
        for tag in catalogue.tags:
            if tag.dimension == dimension:
                update = tag.update if tag.task is None else "by a run"
                table.add_row(tag.name, tag.display_name, tag.display_name_zh, update, tag.state)
    return table
