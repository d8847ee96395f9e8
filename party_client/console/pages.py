"""Every page of the console at its address, as one application below the node's own."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import BaseRoute

from party_client.console import customers, plans, records, tags
from party_client.console.site import Site, console_site
from party_client.desk import Desk
from party_client.settings import PartySettings
from privacy.hosting.gate import Gate
from privacy.hosting.pages import mounting
from privacy.hosting.pages.routing import change, read


def mount(app: FastAPI, desk: Desk, gate: Gate, settings: PartySettings) -> None:
    """Put the console under "/" of `app`. Called last: what is routed before it stays as it is."""
    site = console_site(settings.party, desk, gate)
    mounting.mount(app, site, _routes(site))


def _routes(site: Site) -> list[BaseRoute]:
    return [
        read(site, "/", records.home),
        read(site, "/approvals", plans.approvals),
        read(site, "/approvals/{digest}", plans.plan),
        change(site, "/approvals/{digest}", plans.decide),
        read(site, "/customer", customers.search_page),
        change(site, "/customer", customers.search),
        read(site, "/customer/found/{handle}", customers.found),
        read(site, "/customer/found/{handle}/opt-out", customers.opt_out_page),
        change(site, "/customer/found/{handle}/opt-out", customers.opt_out),
        read(site, "/customer/opted-out/{handle}", customers.opted_out),
        read(site, "/segments", tags.segments),
        read(site, "/segments/export", tags.export),
        read(site, "/catalogue", tags.catalogue),
        read(site, "/budget", records.budget),
        read(site, "/ledger", records.ledger),
        read(site, "/egress", records.egress),
        read(site, "/quality", records.quality),
        read(site, "/access-log", records.access_log),
    ]
