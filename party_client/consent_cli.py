"""`fedtags-party consent`: take the source's state of consent over into the profile store."""

from __future__ import annotations

import typer

from party_client.command_access import note_access
from party_client.profile_store import open_profile_store
from party_client.roles import Permission
from party_client.settings import load_settings
from privacy.hosting.commands import say

app = typer.Typer(help="Consent, as the profile store knows it.", no_args_is_help=True)


@app.command("refresh")
def refresh(context: typer.Context) -> None:
    """Read the source's consents anew. Customers without any lose their tags and their history.

    The node does it before each publication, and its web process once a day.
    """
    from party_client.sources import open_source

    settings = load_settings(context.obj)
    store = open_profile_store(settings)
    try:
        note_access(settings, Permission.REFRESH_CONSENT)
        with open_source(settings.source, settings.home, opted_out=store.opted_out) as source:
            rows = source.consent_rows()
            store.set_consents(rows)
    finally:
        store.close()
    if rows is None:
        say("taken over: source.consent is not set, so you state that every customer has consented")
    else:
        say("taken over: tags are now read by the source's consents as they are")
