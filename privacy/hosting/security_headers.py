"""What every answer tells a browser: no frames, no outside sources, no caches; scripts only of a
service that has its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from privacy.errors import AccessDenied
from privacy.hosting.web import problem_response

CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
# For a service with scripts of its own: files of this origin, which talk to this origin.
OWN_SCRIPTS = "; script-src 'self'; connect-src 'self'"
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # `no-referrer` would make browsers send `Origin: null` with this service's own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_HSTS = "strict-transport-security"
_ONE_YEAR = "max-age=31536000"


class SecurityHeaders:
    """ASGI middleware: puts the headers on every answer, and `no-store` on all but /static/."""

    def __init__(self, app: ASGIApp, *, tls: bool, scripts: bool = False) -> None:
        self._app = app
        sent = {**SECURITY_HEADERS, **({_HSTS: _ONE_YEAR} if tls else {})}
        if scripts:
            sent["content-security-policy"] += OWN_SCRIPTS
        self._headers = {name.encode(): value.encode() for name, value in sent.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; complete the head of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kept = str(scope["path"]).startswith("/static/")
        ours = self._headers | {b"cache-control": b"no-cache" if kept else b"no-store"}

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                theirs = [one for one in message.get("headers", ()) if one[0] not in ours]
                message = {**message, "headers": [*theirs, *ours.items()]}
            await send(message)

        await self._app(scope, receive, complete)


class KnownHosts:
    """ASGI middleware: answers only requests for the names that this service goes by. A page of
    another site whose name was made to point here (DNS rebinding) sends that site's name."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().strip("[]") for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or refuse an unknown Host."""
        if scope["type"] == "http":
            given = Headers(scope=scope).get("host", "").lower()
            name = given.rpartition(":")[0] if _has_port(given) else given
            if name.strip("[]") not in self._hosts:
                refusal = AccessDenied("the Host header names none of this service's hosts")
                await problem_response(refusal, 421)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _has_port(host: str) -> bool:
    return (
        host.rpartition(":")[2].isdigit()
        and not host.endswith("]")
        and (host.count(":") == 1 or "]:" in host)
    )
