"""From a request to a page: who asks, is the form this session's own, every failure in words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from privacy.errors import AccessDenied, FedtagsError, NotSignedIn
from privacy.hosting.pages.forms import MAX_FIELDS
from privacy.hosting.pages.problems import problem_page, stale_form
from privacy.hosting.pages.site import Site, Visit, go

Page = Callable[[Any], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


def read(site: Site[Any, Any], path: str, page: Page, *, open_to_all: bool = False) -> Route:
    """A page that is read by GET."""
    return Route(path, _endpoint(site, page, open_to_all), methods=["GET"])


def change(site: Site[Any, Any], path: str, page: Page, *, open_to_all: bool = False) -> Route:
    """A form's POST."""
    return Route(path, _endpoint(site, page, open_to_all), methods=["POST"])


def _endpoint(site: Site[Any, Any], page: Page, open_to_all: bool) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        form = await _form(request)
        return await run_in_threadpool(_answer, site, request, form, page, open_to_all)

    return endpoint


async def _form(request: Request) -> Mapping[str, str]:
    """A POST's text fields; a file is no text, and refused."""
    if request.method != "POST":
        return {}
    async with request.form(max_files=0, max_fields=MAX_FIELDS) as form:
        return {name: value for name, value in form.items() if isinstance(value, str)}


def _answer(
    site: Site[Any, Any], request: Request, form: Mapping[str, str], page: Page, open_to_all: bool
) -> Response:
    visit = Visit(site, request, None, form)
    try:
        session = site.gate.session(request)
        visit = Visit(site, request, session, form)
        if session is None and not open_to_all:
            return _to_sign_in(request)
        if request.method == "POST":
            try:
                if session is None:
                    site.gate.check_origin(request)
                else:
                    site.gate.check_form(request, session, form.get("csrf", ""))
            except AccessDenied:
                return stale_form(visit)
        return page(visit)
    except NotSignedIn:
        return _to_sign_in(request)
    except (FedtagsError, HTTPException) as error:
        return problem_page(visit, error)


def _to_sign_in(request: Request) -> Response:
    """A reader comes back to the page; a form is lost, and the sign-in page says so."""
    if request.method == "POST":
        return go("/sign-in?ended=form")
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    ended = "" if path == "/" and not request.cookies else "&ended=page"
    return go(f"/sign-in?back={quote(path, safe='')}{ended}")
