"""The node's web process: `python -m party_client.web --home HOME`. API and console on one port.

It is for people of this party only and speaks neither to Flower nor to the coordinator. In the
background it sends webhooks and, once a day, reads the source's consents anew.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn
from cryptography import x509
from starlette.types import ASGIApp

from party_client import logs
from party_client.api import create_app
from party_client.desk import Desk, open_desk, refresh_consents
from party_client.people import open_access
from party_client.settings import LOOPBACK, PartySettings, load_settings
from privacy.errors import CertificateError, FedtagsError
from privacy.hosting.certificates import load_certificate
from privacy.hosting.gate import Gate, cookie_name
from privacy.hosting.processes import signals_held
from privacy.hosting.request_deadline import DeadlineProtocol
from privacy.hosting.security_headers import KnownHosts, SecurityHeaders
from privacy.hosting.sessions import Sessions

MOST_CONNECTIONS = 512
DELIVER_EVERY_S = 5.0
CONSENTS_EVERY_S = 24 * 3600.0
_LOOK_EVERY_S = 60.0

logger = logging.getLogger(__name__)


def build_app(settings: PartySettings, desk: Desk, gate: Gate) -> ASGIApp:
    """API and console over `desk`, behind the checks that every request passes."""
    from party_client.console import mount

    app = create_app(desk, gate, settings)
    mount(app, desk, gate, settings)
    guarded = KnownHosts(app, hosts=host_names(settings))
    return SecurityHeaders(guarded, tls=settings.web.certificate is not None)


def open_gate(settings: PartySettings, desk: Desk) -> Gate:
    """The way in to `desk`."""
    secure = settings.web.certificate is not None
    return Gate(
        access=desk.access,
        sessions=Sessions(desk.access),
        audit=desk.note_sign_in,
        cookie=cookie_name("party", settings.web.port, secure=secure),
        secure=secure,
    )


def host_names(settings: PartySettings) -> list[str]:
    """The names that requests may ask for: loopback ones, the host of the settings, and those in
    the certificate."""
    names = [*LOOPBACK, settings.web.host]
    if settings.web.certificate is None:
        return names
    path = settings.home / settings.web.certificate
    try:
        certificate = load_certificate(path)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise CertificateError(
            f"{path}: web.certificate in party.toml names no host (subjectAltName)"
        ) from error
    addresses = [str(one) for one in found.get_values_for_type(x509.IPAddress)]
    return [*names, *found.get_values_for_type(x509.DNSName), *addresses]


def make_server(settings: PartySettings, app: ASGIApp) -> uvicorn.Server:
    """A server on the settings' host and port; with a certificate, TLS 1.3 and nothing less."""
    home, web = settings.home, settings.web
    config = uvicorn.Config(
        app,
        host=web.host,
        port=web.port,
        ssl_certfile=None if web.certificate is None else str(home / web.certificate),
        ssl_keyfile=None if web.key is None else str(home / web.key),
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,  # an address that a client can state is no address
        limit_concurrency=MOST_CONNECTIONS,
        http=DeadlineProtocol,
        timeout_graceful_shutdown=5,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            "web.certificate and web.key in party.toml cannot be used together; check both files"
        ) from error
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return uvicorn.Server(config)


@contextmanager
def background(settings: PartySettings, desk: Desk) -> Iterator[None]:
    """Webhooks and daily consents, until the block ends."""
    done = threading.Event()
    tasks = [threading.Thread(target=_daily_consents, args=(settings, desk, done), daemon=True)]
    if settings.webhook is not None:
        from party_client.webhooks import deliver_pending

        send = partial(deliver_pending, desk.store, settings)
        deliver = (done, DELIVER_EVERY_S, "webhooks", send)
        tasks.append(threading.Thread(target=_repeat, args=deliver, daemon=True))
    for task in tasks:
        task.start()
    try:
        yield
    finally:
        done.set()
        for task in tasks:
            task.join(timeout=10)


def _daily_consents(settings: PartySettings, desk: Desk, done: threading.Event) -> None:
    mark = settings.home / "run" / "consents-read"

    def refresh() -> None:
        if mark.exists() and time.time() - mark.stat().st_mtime < CONSENTS_EVERY_S:
            return
        if desk.store.consent_known():
            refresh_consents(settings, desk.store)
        mark.parent.mkdir(mode=0o700, exist_ok=True)
        mark.touch(mode=0o600)

    _repeat(done, _LOOK_EVERY_S, "daily consents", refresh)


def _repeat(done: threading.Event, seconds: float, what: str, task: Callable[[], object]) -> None:
    while not done.wait(seconds):
        try:
            task()
        except FedtagsError as error:
            logger.warning("%s: %s", what, error)
        except Exception:
            logger.exception("%s failed", what)


def serve(settings: PartySettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError, CertificateError, StoreError,
    LedgerError."""
    desk = open_desk(settings, open_access(settings))
    try:
        server = make_server(settings, build_app(settings, desk, open_gate(settings, desk)))
        with background(settings, desk):
            logger.info("listening on %s port %d", settings.web.host, settings.web.port)
            _set_aside_what_stays()
            with signals_held():  # uvicorn raises again what it was stopped by
                server.run()
    finally:
        desk.close()


def _set_aside_what_stays() -> None:
    """Take all that was loaded until now out of garbage collection.

    A full collection walks every object and halts every thread meanwhile: with the imported
    libraries, for a fifth of a second every few seconds under load.
    """
    gc.collect()
    gc.freeze()


def main() -> None:
    """The process's entry point."""
    os.umask(0o077)
    sys.setswitchinterval(0.001)  # a look-up must not wait long for a thread that computes
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    settings = load_settings(parser.parse_args().home)
    logs.set_up(settings.log.format)
    try:
        serve(settings)
    except FedtagsError as error:
        logger.error("%s", error)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
