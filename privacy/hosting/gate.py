"""Who a request comes from: an API token, or a signed-in person's session cookie.

A cookie travels with requests that another site caused, so whatever changes something under a
cookie must also bring the session's CSRF token, and must not come from another origin. A token is
put into a header on purpose, so it needs neither.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from privacy.errors import AccessDenied, NotSignedIn
from privacy.hosting.access import Access, Principal
from privacy.hosting.sessions import ABSOLUTE, NewSession, Session, Sessions, same_secret

CSRF_HEADER = "x-csrf-token"
SIGN_IN = "sign in"
CHANGE_PASSWORD = "change the own password"  # noqa: S105
USE_TOKEN = "use a token that is not valid"  # noqa: S105
_MINUTE = 60.0
_MOST_KEYS = 10_000
_SAFE = ("GET", "HEAD", "OPTIONS")
# (principal, what, allowed): writes the access log.
Audit = Callable[[Principal, str, bool], None]


class Sparingly:
    """Says which events are the first of their minute by key, so that those who repeat what is
    refused cannot fill a log. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}

    def first(self, key: str) -> bool:
        """Whether nothing of this key was seen for a minute. With very many keys: for longer."""
        now = time.monotonic()
        with self._lock:
            if len(self._seen) >= _MOST_KEYS:
                self._seen = {one: at for one, at in self._seen.items() if now - at < _MINUTE}
            if now - self._seen.get(key, -_MINUTE) < _MINUTE or len(self._seen) >= _MOST_KEYS:
                return False
            self._seen[key] = now
            return True


@dataclass(frozen=True)
class Gate:
    """The way in. `cookie`: the session cookie's name, of this service alone, because browsers
    share cookies between the ports of one host. `secure`: it travels over TLS only."""

    access: Access
    sessions: Sessions
    audit: Audit
    cookie: str
    secure: bool
    refused: Sparingly = field(default_factory=Sparingly)

    def principal(self, request: Request) -> Principal:
        """Who asks. Raises NotSignedIn for a missing or invalid token or session, AccessDenied for
        a change under a cookie without its CSRF token."""
        address = address_of(request)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme:
            token = given.strip() if scheme.lower() == "bearer" else ""
            found = self.access.principal_of_token(token, address)
            if found is None:
                if self.refused.first(address):
                    self.audit(Principal("unknown", "", "token", address), USE_TOKEN, False)
                raise NotSignedIn(
                    "the API token is not valid: it is unknown, revoked or has expired; an admin "
                    "makes one with `token create`"
                )
            return found
        session = self.session(request)
        if session is None:
            raise NotSignedIn("send an API token (Authorization: Bearer), or sign in")
        if request.method not in _SAFE:
            self.check_form(request, session, request.headers.get(CSRF_HEADER, ""))
        return session.principal

    def known_token(self, request: Request) -> Principal | None:
        """Who asks, if that takes no more than a read: a token that was used today before. Fast
        enough for an event loop; where it is None, `principal` answers, in a thread."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        return self.access.principal_of_token_in_use(given.strip(), address_of(request))

    def session(self, request: Request) -> Session | None:
        """The session that the request's cookie opens; None if there is none, or it has ended."""
        return self.sessions.find(request.cookies.get(self.cookie, ""), address_of(request))

    def sign_in(self, name: str, password: str, address: str) -> NewSession:
        """Open a session. Raises NotSignedIn, which is in the access log, or RateLimited."""
        try:
            opened = self.sessions.sign_in(name, password, address)
        except NotSignedIn:  # each took a password check, so they cannot flood the log
            # A password typed into the name's field must not be in a log.
            known = any(person.name == name for person in self.access.people())
            self.audit(Principal(name if known else "unknown", "", address=address), SIGN_IN, False)
            raise
        self.audit(opened.session.principal, SIGN_IN, True)
        return opened

    def change_password(self, session: Session, current: str, new: str) -> None:
        """Give the signed-in person a new password, which ends all sessions of that person.
        Raises NotSignedIn if `current` is wrong, and ConfigError for a new one out of bounds."""
        who = session.principal
        try:
            self.sessions.check_password(who.name, current, who.address)
        except NotSignedIn:
            self.audit(who, CHANGE_PASSWORD, False)
            raise
        self.audit(who, CHANGE_PASSWORD, True)
        self.access.set_password(who.name, new)

    def sign_out(self, request: Request) -> None:
        """End the request's session."""
        session = self.session(request)
        self.sessions.sign_out(request.cookies.get(self.cookie, ""))
        if session is not None:
            self.audit(session.principal, "sign out", True)

    def set_cookie(self, response: Response, opened: NewSession) -> None:
        """Hand the session to the browser; it is not readable by scripts, and no other site's
        request carries it."""
        response.set_cookie(
            self.cookie,
            opened.secret,
            max_age=int(ABSOLUTE.total_seconds()),
            path="/",
            secure=self.secure,
            httponly=True,
            samesite="strict",
        )

    def clear_cookie(self, response: Response) -> None:
        """Make the browser forget the session."""
        response.delete_cookie(
            self.cookie, path="/", secure=self.secure, httponly=True, samesite="strict"
        )

    def check_form(self, request: Request, session: Session, csrf: str) -> None:
        """Raise AccessDenied unless `csrf` is the session's and the request is of this origin."""
        self.check_origin(request)
        if not same_secret(csrf, session.csrf):
            raise AccessDenied("the form has expired or is not of this session; load it again")

    def check_origin(self, request: Request) -> None:
        """Raise AccessDenied for a request that another site's page caused."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        host = request.headers.get("host", "")
        if site not in ("same-origin", "none") or (
            origin is not None and urlsplit(origin).netloc != host
        ):
            raise AccessDenied("the request comes from another site's page and is not answered")


def address_of(request: Request) -> str:
    """The address of whoever opened the connection: a proxy's, where there is one."""
    return "unknown" if request.client is None else request.client.host


def cookie_name(service: str, port: int, *, secure: bool) -> str:
    """A cookie name that no other service of this host uses; browsers hold `__Host-` ones to TLS,
    this very host and every path."""
    return f"{'__Host-' if secure else ''}fedtags-{service}-{port}"
