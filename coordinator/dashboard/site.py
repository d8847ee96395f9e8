"""The coordinator's site: what its pages are made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from coordinator.dashboard.menu import MENU
from coordinator.dashboard.notices import NOTICES
from coordinator.dashboard.words import FOLDER, Words, speak
from coordinator.desk import Desk
from coordinator.roles import Permission, Role, may
from coordinator.settings import CoordinatorSettings
from privacy.hosting.gate import Gate
from privacy.hosting.pages import site
from privacy.hosting.pages.languages import N_

Site: TypeAlias = site.Site[Desk, Words]
Visit: TypeAlias = site.Visit[Desk, Words]
PROVIDER = "/v1/session/oidc"


def dashboard_site(settings: CoordinatorSettings, desk: Desk, gate: Gate) -> Site:
    """The pages of one coordinator over its desk."""
    return site.Site(
        identity=site.Identity(
            name=settings.federation,
            kind=N_("fedtags coordinator"),
            footer=N_(
                "All times are in UTC. Every ε is for one customer at one party, added or removed. "
                "What is said of a party is what it discloses."
            ),
            before_signing_in=N_(
                "Everything that you open or do here is written into this coordinator's audit log."
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
        roles=_roles,
        provider="" if settings.oidc is None else PROVIDER,
    )


def _roles(desk: Desk) -> Sequence[str]:
    parties = sorted(party.name for party in desk.control.members.parties())
    operators = [f"{Role.PARTY_OPERATOR}:{party}" for party in parties]
    return [Role.REVIEWER, *operators, Role.DATA_SCIENTIST, Role.ADMIN]
