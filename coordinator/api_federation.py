"""The routes about the federation: parties, invitations, what parties tell, alerts."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from coordinator.api_access import REPEATABLE, TheDesk, Who, guarded
from coordinator.api_models import Cursor, InvitationRequest, Limit
from coordinator.desk_views import (
    PAGE_SIZE,
    AlertPage,
    BudgetView,
    FederationView,
    InvitationView,
    Overview,
    PartyDetail,
    PartyPage,
    TagView,
)
from privacy.hosting.enrolment import Invite, PartyName

router = guarded("federation")
Party = Annotated[PartyName, Path()]


@router.get("/federation")
def federation(who: Who, desk: TheDesk) -> FederationView:
    """What this coordinator is."""
    return desk.federation(who)


@router.get("/overview")
def overview(who: Who, desk: TheDesk) -> Overview:
    """How the federation stands."""
    return desk.overview(who)


@router.get("/parties")
def parties(
    who: Who,
    desk: TheDesk,
    removed: bool = False,
    cursor: Cursor | None = None,
    limit: Limit = PAGE_SIZE,
) -> PartyPage:
    """Parties by name; with `removed`, those that were removed too."""
    return desk.parties(who, removed=removed, cursor=cursor, limit=limit)


@router.get("/parties/{name}")
def party(name: Party, who: Who, desk: TheDesk) -> PartyDetail:
    """One party with all that it tells."""
    return desk.party(who, name)


@router.delete("/parties/{name}")
def remove_party(name: Party, who: Who, desk: TheDesk) -> PartyDetail:
    """No new run with it, and its node connects no more; its history stays."""
    return desk.remove_party(who, name)


@router.get("/invitations")
def invitations(who: Who, desk: TheDesk) -> list[InvitationView]:
    """Invitations that can still be used."""
    return desk.invitations(who)


@router.post("/invitations", dependencies=REPEATABLE)
def invite(body: InvitationRequest, who: Who, desk: TheDesk) -> Invite:
    """A new one-time invite; its token is in this answer alone."""
    return desk.invite(who, body.party)


@router.get("/budgets", tags=["disclosures"])
def budgets(who: Who, desk: TheDesk) -> list[BudgetView]:
    """Budgets as parties tell them."""
    return desk.budgets(who)


@router.get("/tags", tags=["disclosures"])
def tags(who: Who, desk: TheDesk) -> list[TagView]:
    """Joint tags, with their state at each party that tells it."""
    return desk.tags(who)


@router.get("/alerts", tags=["alerts"])
def alerts(
    who: Who, desk: TheDesk, cursor: Cursor | None = None, limit: Limit = PAGE_SIZE
) -> AlertPage:
    """Alerts, newest first."""
    return desk.alerts(who, cursor=cursor, limit=limit)
