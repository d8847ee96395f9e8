"""What the control plane takes from the proxy in front of it, and what it lets partners reach.

The proxy shows a secret that only it and the control plane have; without it, headers that speak for
somebody else's address are not believed, whichever process of this machine sent them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from enum import StrEnum
from hmac import compare_digest
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from privacy.errors import NotFound
from privacy.hosting.web import problem_response

SECRET_HEADER: Final = "fedtags-proxy"  # noqa: S105  its name
SIDE_HEADER: Final = "fedtags-side"
ADDRESS_HEADER: Final = "x-forwarded-for"

# All that a party's node asks of the control plane (method, path). Nothing else is a partner's.
PARTY_ROUTES: Final = (
    ("POST", "/v1/enrolments"),
    ("GET", "/v1/members"),
    ("POST", "/v1/disclosures"),
)


class Side(StrEnum):
    """Whom a server of the proxy is for."""

    PARTNERS = "partners"
    PEOPLE = "people"


class FromProxy:
    """ASGI middleware: takes the client's address from the proxy's requests, from no other's, and
    answers 404 to what came in on the partners' side and is none of PARTY_ROUTES.

    The proxy does that as well. A mistake in one of the two places opens nothing.
    """

    def __init__(self, app: ASGIApp, *, secret: bytes) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, as the client whom the proxy names."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._is_proxy(scope):
            side = next(_values(scope, SIDE_HEADER), "")
            address = _address(next(_values(scope, ADDRESS_HEADER), ""))
            scope = {**scope, "client": (address, 0)}
            if side != Side.PEOPLE and (scope["method"], scope["path"]) not in PARTY_ROUTES:
                refusal = NotFound("there is nothing here")
                await problem_response(refusal)(scope, receive, send)
                return
        await self._app(_without_ours(scope), receive, send)

    def _is_proxy(self, scope: Scope) -> bool:
        return any(
            compare_digest(value.encode("latin-1"), self._secret)
            for value in _values(scope, SECRET_HEADER)
        )


def _values(scope: Scope, name: str) -> Iterator[str]:
    wanted = name.encode("ascii")
    for key, value in scope["headers"]:
        if key == wanted:
            yield value.decode("latin-1")


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return "unknown"


def _without_ours(scope: Scope) -> Scope:
    """No later layer sees the secret or a claim about an address, whoever sent it."""
    ours = {name.encode("ascii") for name in (SECRET_HEADER, SIDE_HEADER, ADDRESS_HEADER)}
    return {**scope, "headers": [one for one in scope["headers"] if one[0] not in ours]}
