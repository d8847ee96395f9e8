"""The console of one party: what its pages are made with."""

from __future__ import annotations

from typing import TypeAlias

from party_client.console.codes import ROLES
from party_client.console.menu import MENU
from party_client.console.notices import NOTICES
from party_client.console.words import FOLDER, Words, speak
from party_client.desk import Desk
from party_client.roles import Permission, may
from privacy.hosting.gate import Gate
from privacy.hosting.pages import site
from privacy.hosting.pages.languages import N_

Site: TypeAlias = site.Site[Desk, Words]
Visit: TypeAlias = site.Visit[Desk, Words]


def console_site(party: str, desk: Desk, gate: Gate) -> Site:
    """The console of `party` over its desk."""
    return site.Site(
        identity=site.Identity(
            name=party,
            kind=N_("fedtags party node"),
            footer=N_(
                "All times are in UTC. Every ε is for one customer at this party, added or removed."
            ),
            before_signing_in=N_(
                "Everything that you open or do here is written into this party's access log."
            ),
        ),
        desk=desk,
        gate=gate,
        folder=FOLDER,
        speak=speak,
        menu=MENU,
        notices=NOTICES,
        permissions=Permission,
        may=may,
        roles=lambda _desk: tuple(ROLES)[::-1],
    )
