"""The coordinator's processes: SuperLink, SuperExec and control plane under one supervisor."""

from __future__ import annotations

import sys

from coordinator.settings import HOME_VARIABLE, CoordinatorSettings
from coordinator.superlink import SuperLinkFiles, superexec_child, superlink_child
from privacy.hosting.certificates import check_certificate
from privacy.hosting.processes import accepts_connections, check_port_free
from privacy.hosting.supervision import (
    Child,
    Supervisor,
    start_detached,
    stop_service,
)

SERVICE_NAME = "coordinator"


def run_foreground(settings: CoordinatorSettings) -> None:
    """Run the coordinator's processes until SIGTERM or Ctrl-C; one that ends is started again,
    unless it keeps ending.

    Raises PortInUseError, CertificateError or NotRunningError.
    """
    check_certificate(settings.server_certificate, settings.host, settings.ca_certificate)
    files = SuperLinkFiles(
        home=settings.home,
        host=settings.host,
        port=settings.superlink.port,
        ca_certificate=settings.ca_certificate,
        server_certificate=settings.server_certificate,
        server_key=settings.server_key,
        superexec_secret=settings.superexec_secret,
    )
    with Supervisor(settings.home, SERVICE_NAME) as supervisor:
        check_port_free(settings.host, settings.control.port, "control.port")
        control = Child(
            "control-plane",
            [sys.executable, "-m", "coordinator.control_plane", "--home", str(settings.home)],
            ready=lambda: accepts_connections(settings.host, settings.control.port),
            restart=True,
        )
        supervisor.start(superlink_child(files))
        environment = {HOME_VARIABLE: str(settings.home)}
        supervisor.start(superexec_child(files, environment), control)
        supervisor.ready()
        supervisor.watch()


def run_detached(settings: CoordinatorSettings) -> int:
    """Run them in the background; returns the supervisor's pid once all are ready."""
    argv = [sys.executable, "-m", "coordinator.cli", "--home", str(settings.home), "start"]
    return start_detached(settings.home, SERVICE_NAME, argv)


def stop(settings: CoordinatorSettings) -> None:
    """Stop them. Raises NotRunningError if none was running."""
    stop_service(settings.home, SERVICE_NAME)
