"""The control plane of a home folder, opened and served over TLS."""

from __future__ import annotations

import ssl
from datetime import timedelta

import uvicorn

from coordinator.api import create_app
from coordinator.control import ControlPlane, Executor, Identity
from coordinator.member_store import MemberStore
from coordinator.run_store import RunStore
from coordinator.settings import CoordinatorSettings
from privacy.errors import CertificateError
from privacy.identity import SigningKey, read_secret


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
        control_url=settings.control_url,
        superlink=settings.superlink_address,
        ca_certificate=ca_certificate,
        public_key=SigningKey.load(settings.coordinator_key).public,
    )
    return ControlPlane(
        identity,
        MemberStore(settings.database_url, read_secret(settings.token_key)),
        RunStore(settings.database_url),
        executor,
        timedelta(hours=settings.invitations.valid_hours),
    )


def tls_server(control: ControlPlane, settings: CoordinatorSettings) -> uvicorn.Server:
    """An HTTPS server (TLS 1.3) for `control` on the settings' host and port."""
    config = uvicorn.Config(
        create_app(control),
        host=settings.host,
        port=settings.control.port,
        ssl_certfile=settings.server_certificate,
        ssl_keyfile=settings.server_key,
        log_level="info",
        ws="none",
        server_header=False,
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
    return uvicorn.Server(config)
