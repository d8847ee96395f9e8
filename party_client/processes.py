"""A party's processes: the resident service, the SuperNode and its relay, under one supervisor."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from party_client.federation import load_federation
from party_client.settings import PartySettings
from party_client.supernode import SuperNodeFiles, supernode_children
from privacy.hosting.certificates import load_certificate
from privacy.hosting.supervision import (
    Child,
    Supervisor,
    running_pid,
    start_detached,
    stop_service,
)

SERVICE_NAME = "party"
START_TIMEOUT_S = 120.0


def run_foreground(settings: PartySettings) -> None:
    """Run the party's processes until SIGTERM or Ctrl-C, or until one ends (NotRunningError)."""
    federation = load_federation(settings.home)
    load_certificate(settings.ca_certificate)
    with Supervisor(settings.home, SERVICE_NAME) as supervisor:
        service = Child(
            "service",
            [sys.executable, "-m", "party_client.service", "--home", str(settings.home)],
            ready=lambda: service_answers(settings.socket),
            ready_timeout_s=START_TIMEOUT_S,
            restart=True,  # a run asks a party back that has lost its service
        )
        files = SuperNodeFiles(
            home=settings.home,
            party=settings.party,
            superlink=federation.coordinator.superlink,
            ca_certificate=settings.ca_certificate,
            node_key=settings.node_key,
            socket=settings.socket,
        )
        supervisor.start(service, *supernode_children(files))
        supervisor.ready()
        supervisor.watch()


def run_detached(settings: PartySettings) -> int:
    """Run them in the background; returns the supervisor's pid once all are ready."""
    load_federation(settings.home)
    argv = [sys.executable, "-m", "party_client.cli", "--home", str(settings.home), "start"]
    return start_detached(settings.home, SERVICE_NAME, argv, START_TIMEOUT_S + 30)


def stop(home: Path) -> None:
    """Stop them. Raises NotRunningError if none was running."""
    stop_service(home, SERVICE_NAME)


def supervisor_pid(home: Path) -> int | None:
    """The supervisor's pid, None if the party is not running."""
    return running_pid(home, SERVICE_NAME)


def child_pid(home: Path, child: str) -> int | None:
    """The pid of one child, None if it is not running."""
    return running_pid(home, f"{SERVICE_NAME}.{child}")


def service_answers(path: Path) -> bool:
    """True if something listens on the service's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
