"""An HTTPS client that trusts one certificate authority and raises fedtags errors."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from privacy.errors import CertificateError, NotRunningError
from privacy.hosting.problems import error_of, parse_body

TIMEOUT_SECONDS = 30.0
Query = Mapping[str, str | int | Sequence[str]]


class BearerAuth(httpx.Auth):
    """Sends an API token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Any:
        """Add the Authorization header."""
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request


class ApiClient:
    """Calls one service at `url`, whose certificate must come from `ca_pem` and nobody else.

    `transport` replaces the network, for tests.
    """

    def __init__(
        self,
        url: str,
        ca_pem: str,
        auth: httpx.Auth | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url
        self._http = httpx.Client(
            base_url=url,
            verify=_trust_only(ca_pem),
            auth=auth,
            timeout=TIMEOUT_SECONDS,
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = TIMEOUT_SECONDS,
    ) -> object:
        """The answer's JSON; None if it has none. Raises the error that the service names.

        CertificateError: the service is not the one that the certificate authority vouches for.
        NotRunningError: nobody answers there within `seconds`. ProtocolError: it is no fedtags
        service.
        """
        content = self.fetch(method, path, body, query=query, headers=headers, seconds=seconds)
        return parse_body(content) if content else None

    def fetch(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = TIMEOUT_SECONDS,
    ) -> bytes:
        """The answer's bytes. Raises as `call` does."""
        with self._network_errors():
            response = self._http.request(
                method, path, json=body, params=query, headers=headers, timeout=seconds
            )
        if response.is_success:
            return response.content
        raise error_of(parse_body(response.content))

    @contextmanager
    def lines(
        self, path: str, *, headers: Mapping[str, str] | None = None, seconds: float
    ) -> Iterator[tuple[int, Iterator[str]]]:
        """The status of an answer that goes on, and its lines as they come. NotRunningError if
        none comes for `seconds`, or if the answer breaks off. Raises as `call` does."""
        with (
            self._network_errors(),
            self._http.stream("GET", path, headers=headers, timeout=seconds) as response,
        ):
            if not response.is_success:
                raise error_of(parse_body(response.read()))
            yield response.status_code, response.iter_lines()

    @contextmanager
    def _network_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            if _is_certificate_failure(error):
                raise CertificateError(
                    f"the service at {self._url} does not show a certificate of the pinned "
                    "authority; check the address, or get a new invite if the certificates "
                    "were renewed"
                ) from error
            raise NotRunningError(
                f"no service answers at {self._url} ({type(error).__name__}); start it with "
                "`fedtags-coordinator start`, or check the address and the network"
            ) from error


def _trust_only(ca_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Python 3.13 and later do this by default; a certificate must not pass on 3.11 alone.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(
            "the pinned certificate authority is not a certificate; get a new invite file"
        ) from error
    return context


def _is_certificate_failure(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
