"""Requests signed with a party's Ed25519 key, instead of a password or a client certificate.

The signature covers the method, the path with its query, the time and the body. A request is good
for two minutes around its time; within them it can be repeated, so only what may safely be done
twice is offered this way.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from privacy.errors import SignatureError
from privacy.identity import SIGNATURE_BYTES, SigningKey, verify

MAX_AGE_SECONDS: Final = 120
PARTY_HEADER: Final = "fedtags-party"
TIME_HEADER: Final = "fedtags-time"
SIGNATURE_HEADER: Final = "fedtags-signature"


def _statement(method: str, path: str, at: int, party: str, body: bytes) -> bytes:
    fields = (method.upper(), path, str(at), party, hashlib.sha256(body).hexdigest())
    return b"fedtags request 1\0" + "\0".join(fields).encode()


@dataclass(frozen=True)
class SignedRequestAuth(httpx.Auth):
    """Signs every request of an httpx client as `party`."""

    party: str
    key: SigningKey

    requires_request_body = True

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the three headers."""
        at = int(time.time())
        statement = _statement(
            request.method, request.url.raw_path.decode(), at, self.party, request.content
        )
        request.headers[PARTY_HEADER] = self.party
        request.headers[TIME_HEADER] = str(at)
        request.headers[SIGNATURE_HEADER] = self.key.sign(statement).hex()
        yield request


def verify_request(
    public_key: bytes, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> None:
    """Raise SignatureError unless `public_key` signed this request within the last two minutes."""
    try:
        at = int(headers[TIME_HEADER][:20])  # longer is no time, and would not fit a float
        signature = bytes.fromhex(headers[SIGNATURE_HEADER])
        party = headers[PARTY_HEADER]
    except (KeyError, ValueError) as error:
        raise SignatureError("the request is not signed; sign it with the party's key") from error
    if abs(time.time() - at) > MAX_AGE_SECONDS:
        raise SignatureError(
            f"the request's time is more than {MAX_AGE_SECONDS} s away; set this machine's clock"
        )
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError("the request's signature has the wrong length")
    verify(public_key, signature, _statement(method, path, at, party, body))
