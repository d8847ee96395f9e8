"""A site's pages as one application below a service's own routes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from privacy.errors import FedtagsError, NotFound
from privacy.hosting.pages import people, signing
from privacy.hosting.pages.problems import problem_page
from privacy.hosting.pages.routing import change, read
from privacy.hosting.pages.site import Site, Visit
from privacy.hosting.web import problem_response

STATIC = Path(__file__).parent / "static"
API = "/v1/"


def mount(
    app: FastAPI, site: Site[Any, Any], routes: Sequence[BaseRoute], static: Path | None = None
) -> None:
    """Put `routes`, and those that every site has, under "/" of `app`. Called last: what is routed
    before it stays as it is. `static`: files of the service besides the shared ones, under /own/.
    """

    async def failed(request: Request, error: Exception) -> Response:
        if request.url.path.startswith(API):
            return problem_response(NotFound("the API has no such path"), 404)
        return await run_in_threadpool(_problem, site, request, error)

    files = [Mount("/static", StaticFiles(directory=STATIC))]
    if static is not None:
        files.insert(0, Mount("/static/own", StaticFiles(directory=static)))
    pages = Starlette(
        routes=[*files, *shared_routes(site), *routes],
        exception_handlers={HTTPException: failed, FedtagsError: failed, Exception: failed},
    )
    app.mount("/", pages)


def shared_routes(site: Site[Any, Any]) -> list[BaseRoute]:
    """Signing in and out, the own password, the language, people and tokens."""
    return [
        read(site, "/sign-in", signing.sign_in_page, open_to_all=True),
        change(site, "/sign-in", signing.sign_in, open_to_all=True),
        change(site, "/sign-out", signing.sign_out, open_to_all=True),
        change(site, "/language", signing.language, open_to_all=True),
        read(site, "/password", signing.password_page),
        change(site, "/password", signing.change_password),
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


def _problem(site: Site[Any, Any], request: Request, error: Exception) -> Response:
    try:
        session = site.gate.session(request)
    except FedtagsError:  # the access database is what failed; the page is still readable
        session = None
    return problem_page(Visit(site, request, session), error)
