"""The control plane of a home folder, opened and served over TLS: API and pages on one port."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import uvicorn
from cryptography import x509
from starlette.types import ASGIApp

from coordinator.api import create_app
from coordinator.control import ControlPlane, Executor, Identity
from coordinator.dashboard import mount
from coordinator.desk import Desk, open_desk
from coordinator.member_store import MemberStore
from coordinator.operations import Operations
from coordinator.people import open_access
from coordinator.proxied import FromProxy
from coordinator.proxy import read_proxy_secret
from coordinator.run_store import RunStore
from coordinator.settings import LOOPBACK, CoordinatorSettings
from coordinator.sign_in import open_gate
from privacy.errors import CertificateError
from privacy.hosting.access_log import AccessLog
from privacy.hosting.certificates import load_certificate
from privacy.hosting.gate import Gate
from privacy.hosting.request_deadline import DeadlineProtocol
from privacy.hosting.security_headers import KnownHosts, SecurityHeaders
from privacy.identity import SigningKey, read_secret

MOST_CONNECTIONS = 512


@dataclass(frozen=True)
class Service:
    """An opened control plane: what decides, who is let in, and the application."""

    settings: CoordinatorSettings
    control: ControlPlane
    desk: Desk
    gate: Gate
    app: ASGIApp
    operations: Operations

    def close(self) -> None:
        """Write what the audit log holds and give up connections."""
        self.desk.close()
        self.operations.close()
        self.control.members.close()
        self.control.runs.close()


def open_control_plane(settings: CoordinatorSettings, executor: Executor) -> ControlPlane:
    """The control plane of a home folder. Raises ConfigError, CertificateError or StoreError."""
    try:
        ca_certificate = settings.ca_certificate.read_text(encoding="utf-8")
    except OSError as error:
        raise CertificateError(
            f"{settings.ca_certificate} cannot be read ({error.strerror}); restore it from backup"
        ) from error
    identity = Identity(
        federation=settings.federation,
        control_url=settings.invited_control_url,
        superlink=settings.invited_superlink,
        ca_certificate=ca_certificate,
        public_key=SigningKey.load(settings.coordinator_key).public,
    )
    return ControlPlane(
        identity,
        MemberStore(settings.database_url, read_secret(settings.token_key)),
        RunStore(settings.database_url),
        executor,
        timedelta(hours=settings.invitations.valid_hours),
        settings.recovery.most_restarts,
    )


def open_service(settings: CoordinatorSettings, control: ControlPlane) -> Service:
    """API and pages over `control`, behind the checks that every request passes."""
    access = open_access(settings)
    log = AccessLog(settings.audit_log)
    desk = open_desk(settings, control, access, log)
    gate = open_gate(settings, access, log)
    operations = Operations(
        settings, control, missing=desk.missing, evidence_faults=desk.evidence_faults
    )
    app = create_app(desk, gate, settings, operations)
    mount(app, desk, gate, settings)
    guarded = SecurityHeaders(KnownHosts(app, hosts=host_names(settings)), tls=True, scripts=True)
    outermost = FromProxy(guarded, secret=read_proxy_secret(settings))
    return Service(settings, control, desk, gate, outermost, operations)


def host_names(settings: CoordinatorSettings) -> list[str]:
    """The names that requests may ask for: loopback ones, those of the settings and the proxy, and
    those in the certificate."""
    proxy = settings.proxy
    names = [*LOOPBACK, settings.host, proxy.name, proxy.people_name]
    try:
        found = (
            load_certificate(settings.server_certificate)
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
    except x509.ExtensionNotFound:
        return [name for name in names if name]
    addresses = [str(one) for one in found.get_values_for_type(x509.IPAddress)]
    return [name for name in (*names, *found.get_values_for_type(x509.DNSName), *addresses) if name]


class Server(uvicorn.Server):
    """Ends the streams of followers first, so that stopping does not wait for them."""

    def __init__(self, config: uvicorn.Config, closing: threading.Event) -> None:
        super().__init__(config)
        self._closing = closing

    async def shutdown(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        """Stop answering."""
        self._closing.set()
        await super().shutdown(sockets)


def tls_server(service: Service, settings: CoordinatorSettings) -> Server:
    """An HTTPS server (TLS 1.3) for `service` on the settings' host and port."""
    config = uvicorn.Config(
        service.app,
        host=settings.host,
        port=settings.control.port,
        ssl_certfile=settings.server_certificate,
        ssl_keyfile=settings.server_key,
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
            f"{settings.server_certificate} and {settings.server_key} cannot be used; restore "
            "them from backup"
        ) from error
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return Server(config, service.desk.live.closing)


@contextmanager
def opened_service(settings: CoordinatorSettings, executor: Executor) -> Iterator[Service]:
    """The service of a home folder, closed when the block ends."""
    service = open_service(settings, open_control_plane(settings, executor))
    try:
        yield service
    finally:
        service.close()
