"""Signing in at an OpenID Connect provider: authorization code with PKCE, state and nonce.

One attempt is one random value in a cookie of the browser that began it, sealed under the
coordinator's key with the time it began at. State, nonce and the PKCE verifier are keyed hashes of
that value, so nothing is stored here, a code can only be used by the browser that asked for it,
and an attempt ends after ten minutes. The one doorway to authlib, joserfc and requests.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from requests.exceptions import RequestException

from coordinator.people import Elsewhere
from coordinator.settings import LOOPBACK, CoordinatorSettings, OidcSettings
from privacy.errors import AccessDenied, ConfigError, NotRunningError, NotSignedIn, RateLimited
from privacy.hosting.access import Access
from privacy.hosting.credentials import resolve_secret

CALLBACK = "/v1/session/oidc/callback"
ATTEMPT_SECONDS = 600
# Only signatures by a key that the provider alone holds: no HMAC under the client's secret.
ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
LEEWAY_SECONDS = 60
METADATA_SECONDS = 3600.0
_TIMEOUT = (5.0, 10.0)
_MOST_BYTES = 1024 * 1024
_AT_ONCE = 4
_WAIT_SECONDS = 3.0
_LONGEST_WORD = 255


@dataclass(frozen=True)
class Attempt:
    """One attempt to sign in. `url`: where the browser goes; `cookie`: what it must bring back."""

    url: str
    cookie: str


class OidcClient:
    """This coordinator as a client of one provider. Safe between threads.

    `keyed_hash(what, value)`: an HMAC in hex under the coordinator's key.
    """

    def __init__(
        self,
        settings: OidcSettings,
        secret: str | None,
        redirect_uri: str,
        keyed_hash: Callable[[str, str], str],
        ca_certificate: Path | None = None,
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._redirect_uri = redirect_uri
        self._keyed_hash = keyed_hash
        self._verify: str | bool = True if ca_certificate is None else str(ca_certificate)
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._known: tuple[float, Mapping[str, Any]] | None = None
        self._keys: KeySet | None = None

    def begin(self) -> Attempt:
        """Begin to sign in. Raises NotRunningError if the provider does not answer, and
        RateLimited if too many people wait for it."""
        with self._place():
            endpoint = self._endpoint("authorization_endpoint")
        value = secrets.token_urlsafe(32)
        cookie = f"{value}.{int(time.time())}"
        with self._session() as session:
            url, _ = session.create_authorization_url(
                endpoint,
                state=self._derived("state", cookie),
                nonce=self._derived("nonce", cookie),
                code_verifier=self._derived("verifier", cookie),
            )
        return Attempt(str(url), f"{cookie}.{self._derived('cookie', cookie)}")

    def finish(self, cookie: str, query: Mapping[str, str]) -> Elsewhere:
        """Whom the provider says the browser's person is, by what the browser came back with.

        Raises NotSignedIn for anything that is not an answer to this browser's attempt,
        AccessDenied for a person without a role here, RateLimited if too many come at once,
        NotRunningError if the provider does not answer.
        """
        opened = self._opened(cookie)
        state = query.get("state", "")
        if opened is None or not hmac.compare_digest(
            state.encode("utf-8", "replace"), self._derived("state", opened).encode()
        ):
            raise NotSignedIn(
                "this attempt to sign in has ended or is not of this browser; begin anew"
            )
        with self._place():
            self._check_issuer(query)
        if "error" in query or not query.get("code"):
            raise NotSignedIn(
                f"the provider refused to sign you in ({_word(query.get('error', ''))})"
            )
        with self._place():
            claims = self._claims(query["code"], opened)
        return self._person(claims)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of few: a provider that does not answer must not hold every thread up."""
        if not self._places.acquire(timeout=_WAIT_SECONDS):
            raise RateLimited("too many people are signing in; try again in a few seconds")
        try:
            yield
        finally:
            self._places.release()

    # What the provider says ----------------------------------------------------------------------

    def _claims(self, code: str, opened: str) -> Mapping[str, Any]:
        with self._session() as session:
            try:
                token = session.fetch_token(
                    self._endpoint("token_endpoint"),
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=self._derived("verifier", opened),
                    redirect_uri=self._redirect_uri,
                    verify=self._verify,
                    allow_redirects=False,
                )
            except RequestException as error:
                raise _away(error) from error
            except (AuthlibBaseError, ValueError) as error:
                raise NotSignedIn(
                    "the provider gave no token for this attempt "
                    f"({_word(str(getattr(error, 'error', type(error).__name__)))}); begin anew"
                ) from error
            claims = self._id_token(token, self._derived("nonce", opened))
            wanted = (self._settings.name_claim, self._settings.role_claim)
            if all(one in claims for one in wanted) or not self._metadata().get(
                "userinfo_endpoint"
            ):
                return claims
            told = self._get(session, self._endpoint("userinfo_endpoint"), token=True)
            if told.get("sub") != claims["sub"]:
                raise NotSignedIn("the provider spoke of two people; begin anew")
            return {**told, **claims}

    def _id_token(self, token: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        """The claims of a token answer's ID token, all of them checked."""
        encoded = token.get("id_token")
        if not isinstance(encoded, str):
            raise NotSignedIn("the provider gave no ID token: is openid among the client's scopes?")
        registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        try:
            try:
                decoded = jwt.decode(encoded, self._key_set(), registry=registry)
            except InvalidKeyIdError:  # the provider may have changed its keys
                decoded = jwt.decode(encoded, self._key_set(anew=True), registry=registry)
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                {
                    "iss": {"essential": True, "value": self._settings.issuer},
                    "aud": {"essential": True, "value": self._settings.client_id},
                    "sub": {"essential": True},
                },
                {
                    "nonce": nonce,
                    "client_id": self._settings.client_id,
                    "access_token": token.get("access_token"),
                },
            )
            claims.validate(leeway=LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError) as error:
            raise NotSignedIn(
                f"the provider's ID token is not valid ({_word(str(error))}); if this stays so, "
                "compare clocks and the client's registration"
            ) from error
        if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= _LONGEST_WORD:
            raise NotSignedIn("the provider's ID token names nobody (sub)")
        return dict(claims)

    def _person(self, claims: Mapping[str, Any]) -> Elsewhere:
        settings = self._settings
        name = claims.get(settings.name_claim)
        if not isinstance(name, str):
            raise AccessDenied(
                f"the provider does not say what you are called: no claim {settings.name_claim}"
            )
        if settings.name_claim == "email" and claims.get("email_verified") is False:
            raise AccessDenied("the provider has not verified your e-mail address")
        given = claims.get(settings.role_claim)
        words = {given} if isinstance(given, str) else set()
        if isinstance(given, list):
            words = {one for one in given if isinstance(one, str)}
        role = next((role for word, role in settings.roles.items() if word in words), None)
        if role is None:
            raise AccessDenied(
                f"nothing in your claim {settings.role_claim} gives a role here; ask whoever keeps "
                "the groups of your organisation"
            )
        return Elsewhere(settings.issuer, claims["sub"], name.lower(), role)

    def _check_issuer(self, query: Mapping[str, str]) -> None:
        """RFC 9207: an answer that says whose it is must say the right one."""
        told = query.get("iss")
        wanted = self._metadata().get("authorization_response_iss_parameter_supported") is True
        if (told is None and wanted) or (told is not None and told != self._settings.issuer):
            raise NotSignedIn("the answer is not from this coordinator's provider; begin anew")

    # The provider --------------------------------------------------------------------------------

    def _metadata(self) -> Mapping[str, Any]:
        with self._lock:
            known = self._known
        if known is not None and time.monotonic() - known[0] < METADATA_SECONDS:
            return known[1]
        issuer = self._settings.issuer
        with self._session() as session:
            url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
            metadata = self._get(session, url)
        if metadata.get("issuer") != issuer:
            raise ConfigError(
                f"oidc.issuer: the provider there calls itself {_word(str(metadata.get('issuer')))}"
            )
        with self._lock:
            self._known = (time.monotonic(), metadata)
        return metadata

    def _endpoint(self, name: str) -> str:
        url = self._metadata().get(name)
        if not isinstance(url, str):
            raise ConfigError(f"oidc.issuer: the provider names no {name}")
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise ConfigError(f"oidc.issuer: the provider's {name} is not https")
        return url

    def _key_set(self, *, anew: bool = False) -> KeySet:
        with self._lock:
            if self._keys is not None and not anew:
                return self._keys
        with self._session() as session:
            keys = KeySet.import_key_set(self._get(session, self._endpoint("jwks_uri")))  # type: ignore[arg-type]
        with self._lock:
            self._keys = keys
        return keys

    def _get(self, session: OAuth2Session, url: str, *, token: bool = False) -> dict[str, Any]:
        try:
            with session.get(
                url,
                withhold_token=not token,
                verify=self._verify,
                allow_redirects=False,
                stream=True,
            ) as answer:
                if answer.status_code != 200:
                    raise NotRunningError(
                        f"the sign-in provider answered with {answer.status_code}; try again later"
                    )
                raw = b""
                for chunk in answer.iter_content(65536):
                    raw += chunk
                    if len(raw) > _MOST_BYTES:
                        raise NotRunningError("the sign-in provider's answer is too long")
            told = json.loads(raw)
        except RequestException as error:
            raise _away(error) from error
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise NotRunningError("the sign-in provider's answer is not what OpenID Connect says")
        return told

    def _session(self) -> OAuth2Session:
        methods = (
            ()
            if self._known is None
            else self._known[1].get("token_endpoint_auth_methods_supported", ())
        )
        method = "none" if self._secret is None else "client_secret_basic"
        if self._secret is not None and methods and method not in methods:
            method = "client_secret_post"
        return OAuth2Session(
            client_id=self._settings.client_id,
            client_secret=self._secret,
            token_endpoint_auth_method=method,
            scope=" ".join(self._settings.scopes),
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            default_timeout=_TIMEOUT,
        )

    # The browser's cookie ------------------------------------------------------------------------

    def _opened(self, cookie: str) -> str | None:
        """What of `cookie` the other values are derived from; None if it is not of our making."""
        opened, _, seal = cookie.rpartition(".")
        if not hmac.compare_digest(
            seal.encode("utf-8", "replace"), self._derived("cookie", opened).encode()
        ):
            return None
        began = int(opened.rpartition(".")[2])
        return opened if 0 <= time.time() - began <= ATTEMPT_SECONDS else None

    def _derived(self, what: str, opened: str) -> str:
        return self._keyed_hash(f"oidc {what}", opened)


def open_oidc(settings: CoordinatorSettings, access: Access) -> OidcClient | None:
    """The client that [oidc] describes; None without one. Raises ConfigError for a secret that
    cannot be read. The provider is not asked for anything before somebody signs in."""
    oidc = settings.oidc
    if oidc is None:
        return None
    ca = None if oidc.ca_certificate is None else settings.home / oidc.ca_certificate
    if ca is not None and not ca.is_file():
        raise ConfigError("oidc.ca_certificate: there is no such file")
    reference = oidc.client_secret
    return OidcClient(
        settings=oidc,
        secret=None if reference is None else resolve_secret(reference, settings.home),
        redirect_uri=settings.people_url + CALLBACK,
        keyed_hash=access.keyed_hash,
        ca_certificate=ca,
    )


def _away(error: Exception) -> NotRunningError:
    return NotRunningError(
        f"the sign-in provider does not answer ({type(error).__name__}); try again later, or sign "
        "in with a password"
    )


def _word(text: str) -> str:
    """Text from outside, short and without characters that a page or terminal would obey."""
    return (
        "".join(one if one.isalnum() or one in " _-.:/" else "?" for one in text[:100]) or "nothing"
    )
