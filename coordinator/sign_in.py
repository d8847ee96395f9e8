"""How people get in: a password, or an OpenID Connect provider; and who somebody is signed in as.

The browser comes back from the provider by a request that another site caused, so it brings no
strict cookie: what belongs to the attempt is in a cookie of its own, and the answer is a page that
leads on from here, for a request that carries the new session.
"""

from __future__ import annotations

import html
import logging
import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import Field

from coordinator.people import admit
from coordinator.roles import party_of
from coordinator.settings import CoordinatorSettings
from privacy.errors import AccessDenied, FedtagsError, NotRunningError, NotSignedIn
from privacy.hosting.access import Access, Principal
from privacy.hosting.access_log import AccessLog
from privacy.hosting.enrolment import WireModel
from privacy.hosting.gate import CSRF_HEADER, Gate, address_of, cookie_name
from privacy.hosting.problems import problem_of
from privacy.hosting.sessions import Session, Sessions

if TYPE_CHECKING:
    from coordinator.oidc import OidcClient

ATTEMPT_SECONDS = 600
SIGN_IN_ELSEWHERE = "sign in at the provider"
# A path of this site and nothing that a browser could take for another site's address.
_PATH = re.compile(r"/(?![/\\])[A-Za-z0-9/_.~%?=&+-]{0,500}")

logger = logging.getLogger(__name__)


class SignIn(WireModel):
    """A name and its password."""

    name: Annotated[str, Field(max_length=255)]
    password: Annotated[str, Field(max_length=1024)]


class NewPassword(WireModel):
    """The password of now, and the one from now on."""

    current: Annotated[str, Field(max_length=1024)]
    new: Annotated[str, Field(max_length=1024)]


class SignedIn(WireModel):
    """Who asks. `party`: of a party operator, the one party. `csrf` must come back in the header
    X-CSRF-Token with what changes something; it and `expires_at` are a session's only."""

    name: str
    role: str
    kind: Literal["person", "token", "command"]
    party: str | None
    csrf: str | None
    expires_at: datetime | None


def open_gate(settings: CoordinatorSettings, access: Access, log: AccessLog) -> Gate:
    """The way in. The control plane speaks TLS only, so the cookie travels over nothing else."""

    def audit(who: Principal, what: str, allowed: bool) -> None:
        log.record(who, what, allowed=allowed)

    return Gate(
        access=access,
        sessions=Sessions(access),
        audit=audit,
        cookie=cookie_name("coordinator", settings.control.port, secure=True),
        secure=True,
    )


def router(settings: CoordinatorSettings, gate: Gate) -> APIRouter:
    """The routes under /v1/session. Those of the provider are there if [oidc] is. Raises
    ConfigError for an [oidc] that cannot be used."""
    routes = APIRouter(prefix="/v1/session", tags=["session"])

    @routes.post("")
    def sign_in(body: SignIn, request: Request, response: Response) -> SignedIn:
        """Sign in with a password: the session is in the cookie that comes with the answer."""
        gate.check_origin(request)
        opened = gate.sign_in(body.name, body.password, address_of(request))
        gate.set_cookie(response, opened)
        return _signed_in(opened.session.principal, opened.session)

    @routes.get("")
    def who_am_i(request: Request) -> SignedIn:
        """Who the session or the API token of this request is."""
        return _signed_in(gate.principal(request), gate.session(request))

    @routes.delete("", status_code=204)
    def sign_out(request: Request, response: Response) -> None:
        """End the session. One that has ended already is no error."""
        session = gate.session(request)
        if session is not None:
            gate.check_form(request, session, request.headers.get(CSRF_HEADER, ""))
        gate.sign_out(request)
        gate.clear_cookie(response)

    @routes.post("/password", status_code=204)
    def change_password(body: NewPassword, request: Request, response: Response) -> None:
        """Give the signed-in person a new password; it ends all sessions of that person."""
        session = gate.session(request)
        if session is None:
            raise NotSignedIn("sign in first; a token has no password")
        gate.check_form(request, session, request.headers.get(CSRF_HEADER, ""))
        gate.change_password(session, body.current, body.new)
        gate.clear_cookie(response)

    if settings.oidc is not None:
        from coordinator.oidc import open_oidc

        client = open_oidc(settings, gate.access)
        assert client is not None
        _add_provider(routes, settings, gate, client)
    return routes


def _add_provider(
    routes: APIRouter, settings: CoordinatorSettings, gate: Gate, client: OidcClient
) -> None:
    cookie = cookie_name("coordinator-oidc", settings.control.port, secure=True)

    @routes.get("/oidc", status_code=303, response_class=RedirectResponse)
    def to_provider(back: Annotated[str, Query(max_length=501)] = "/") -> Response:
        """To the provider, to sign in there; then to the page `back` of this site."""
        try:
            attempt = client.begin()
        except FedtagsError as error:
            logger.warning("signing in at the provider: %s", error)
            return _page("You are not signed in", str(error), "/", problem_of(error)[0])
        answer = RedirectResponse(attempt.url, status_code=303)
        answer.set_cookie(
            cookie,
            f"{attempt.cookie}!{back if _PATH.fullmatch(back) else '/'}",
            max_age=ATTEMPT_SECONDS,
            path="/",
            secure=True,
            httponly=True,
            samesite="lax",
        )
        return answer

    @routes.get("/oidc/callback", response_class=HTMLResponse)
    def from_provider(request: Request) -> HTMLResponse:
        """Where the provider sends the browser back to: a page that leads on, signed in or not."""
        given, _, back = request.cookies.get(cookie, "").partition("!")
        answer = _admitted(gate, client, request, given, back if _PATH.fullmatch(back) else "/")
        answer.delete_cookie(cookie, path="/", secure=True, httponly=True, samesite="lax")
        return answer


def _admitted(
    gate: Gate, client: OidcClient, request: Request, cookie: str, back: str
) -> HTMLResponse:
    address = address_of(request)
    who = Principal("unknown", "", address=address)
    try:
        found = client.finish(cookie, dict(request.query_params))
        who = Principal(found.name, found.role, address=address)
        name = admit(gate.access, found)
        opened = gate.sessions.open(name, found.role, address)
    except FedtagsError as error:
        if isinstance(error, NotRunningError):
            logger.warning("signing in at the provider: %s", error)
        elif isinstance(error, AccessDenied) or gate.refused.first(address):
            gate.audit(who, SIGN_IN_ELSEWHERE, False)
        return _page("You are not signed in", str(error), back, problem_of(error)[0])
    gate.audit(opened.session.principal, SIGN_IN_ELSEWHERE, True)
    answer = _page("You are signed in", "", back, 200)
    gate.set_cookie(answer, opened)
    return answer


def _page(title: str, text: str, back: str, status: int) -> HTMLResponse:
    onward = f'<meta http-equiv="refresh" content="0;url={html.escape(back)}">' if not text else ""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{onward}<title>{title}</title>'
        f"</head><body><h1>{title}</h1><p>{html.escape(text)}</p>"
        f'<p><a href="{html.escape(back)}">Continue</a></p></body></html>',
        status_code=status,
    )


def _signed_in(who: Principal, session: Session | None) -> SignedIn:
    of_session = who.kind == "person" and session is not None
    return SignedIn(
        name=who.name,
        role=who.role,
        kind=who.kind,
        party=party_of(who.role),
        csrf=session.csrf if of_session and session else None,
        expires_at=session.expires_at if of_session and session else None,
    )
