"""Every page of the console at its address, as one application below the node's own."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from party_client.console import customers, people, plans, records, signing, tags
from party_client.console.problems import problem_page
from party_client.console.routing import change, read
from party_client.console.site import Site, Visit
from party_client.desk import Desk
from party_client.settings import PartySettings
from privacy.errors import FedtagsError, NotFound
from privacy.hosting.gate import Gate
from privacy.hosting.web import problem_response

STATIC = Path(__file__).parent / "static"
API = "/v1/"


def mount(app: FastAPI, desk: Desk, gate: Gate, settings: PartySettings) -> None:
    """Put the console under "/" of `app`. Called last: what is routed before it stays as it is."""
    site = Site(settings.party, desk, gate)

    async def failed(request: Request, error: Exception) -> Response:
        if request.url.path.startswith(API):
            return problem_response(NotFound("the API has no such path; see /openapi.json"), 404)
        return await run_in_threadpool(_problem, site, request, error)

    console = Starlette(
        routes=[Mount("/static", StaticFiles(directory=STATIC)), *_routes(site)],
        exception_handlers={HTTPException: failed, FedtagsError: failed, Exception: failed},
    )
    app.mount("/", console)


def _problem(site: Site, request: Request, error: Exception) -> Response:
    try:
        session = site.gate.session(request)
    except FedtagsError:  # the access database is what failed; the page is still readable
        session = None
    return problem_page(Visit(site, request, session), error)


def _routes(site: Site) -> list[Route]:
    return [
        read(site, "/sign-in", signing.sign_in_page, open_to_all=True),
        change(site, "/sign-in", signing.sign_in, open_to_all=True),
        change(site, "/sign-out", signing.sign_out, open_to_all=True),
        change(site, "/language", signing.language, open_to_all=True),
        read(site, "/password", signing.password_page),
        change(site, "/password", signing.change_password),
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
        read(site, "/people", people.people_page),
        change(site, "/people/add", people.add_person),
        change(site, "/people/tokens/add", people.add_token),
        read(site, "/people/tokens/made/{handle}", people.token_made),
        read(site, "/people/tokens/{name}", people.token_page),
        change(site, "/people/tokens/{name}/revoke", people.revoke_token),
        read(site, "/people/removed/{handle}", people.person_removed),
        read(site, "/people/{name}", people.person_page),
        change(site, "/people/{name}/role", people.set_role),
        change(site, "/people/{name}/password", people.set_password),
        change(site, "/people/{name}/remove", people.remove_person),
    ]
