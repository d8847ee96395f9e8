"""A party's processes under a supervisor: the resident service, the SuperNode with its relay, and
the console.

They run together, or in parts (`Part`), so that an operating system can give each part a user, and
limits, of its own.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from party_client.federation import load_federation
from party_client.node_home import NodeHome
from party_client.settings import PartySettings
from party_client.supernode import SuperNodeFiles, supernode_children
from privacy.errors import ConfigError, NotRunningError
from privacy.hosting.certificates import load_certificate
from privacy.hosting.processes import accepts_connections, check_port_free
from privacy.hosting.supervision import (
    Child,
    Supervisor,
    running_pid,
    start_detached,
    stop_service,
)

SERVICE_NAME = "party"
START_TIMEOUT_S = 120.0


class Part(StrEnum):
    """What one supervisor runs."""

    ALL = "all"  # of this user's: without the SuperNode where that has a user of its own
    SERVICE = "service"
    NODE = "node"
    WEB = "web"


def run_foreground(settings: PartySettings, part: Part = Part.ALL) -> None:
    """Run a part's processes until SIGTERM or Ctrl-C, or until one ends (NotRunningError).

    Raises ConfigError if the part may not run here as things are set, PortInUseError if the
    console's port is taken.
    """
    for other in Part:
        twice = part is Part.ALL or other in (Part.ALL, part)
        if twice and running_pid(settings.home, _name(other)) is not None:
            raise ConfigError(
                f"{_name(other)} is already running for {settings.home}; stop it first"
            )
    starting = _children(settings, part)
    with Supervisor(settings.home, _name(part)) as supervisor:
        supervisor.start(*starting)
        supervisor.ready()
        supervisor.watch()


def run_node(home: NodeHome) -> None:
    """Run the SuperNode and its relay from a folder of their own; as `run_foreground`."""
    load_certificate(home.files.ca_certificate)
    with Supervisor(home.folder, _name(Part.NODE)) as supervisor:
        supervisor.start(*supernode_children(home.files, home.log_format))
        supervisor.ready()
        supervisor.watch()


def run_detached(home: Path, part: Part = Part.ALL) -> int:
    """Run a part in the background; returns its supervisor's pid once all of it is ready."""
    argv = [sys.executable, "-m", "party_client.cli", "--home", str(home), "start"]
    argv += ["--part", part.value]
    return start_detached(home, _name(part), argv, START_TIMEOUT_S + 30)


def stop(home: Path) -> None:
    """Stop every part that runs. Raises NotRunningError if none was running."""
    stopped = 0
    for part in Part:
        try:
            stop_service(home, _name(part))
        except NotRunningError:
            continue
        stopped += 1
    if not stopped:
        raise NotRunningError(f"{SERVICE_NAME} is not running for {home}")


def supervisor_pid(home: Path) -> int | None:
    """The pid of a part's supervisor, None if none is running."""
    return _first(running_pid(home, _name(part)) for part in Part)


def child_pid(home: Path, child: str) -> int | None:
    """The pid of one child, None if it is not running."""
    return _first(running_pid(home, f"{_name(part)}.{child}") for part in Part)


def service_answers(path: Path) -> bool:
    """True if something listens on the service's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _children(settings: PartySettings, part: Part) -> list[Child]:
    isolated = settings.isolation.node_user is not None
    children: list[Child] = []
    if part in (Part.ALL, Part.SERVICE):
        load_federation(settings.home)
        children.append(_service(settings))
    if part is Part.NODE or (part is Part.ALL and not isolated):
        if isolated:
            raise ConfigError(
                "party.toml: isolation.node_user: the SuperNode runs from a folder of that user's: "
                "`fedtags-party node-home FOLDER` makes it, then start --part node with that --home"
            )
        load_certificate(settings.ca_certificate)
        children += supernode_children(_node_files(settings), settings.log.format)
    if part is Part.WEB and not settings.web.enabled:
        raise ConfigError("party.toml: web.enabled is false, so there is no web part to start")
    if part is Part.WEB or (part is Part.ALL and settings.web.enabled):
        children.append(_web(settings))
    return children


def _service(settings: PartySettings) -> Child:
    return Child(
        "service",
        [sys.executable, "-m", "party_client.service", "--home", str(settings.home)],
        ready=lambda: service_answers(settings.socket),
        ready_timeout_s=START_TIMEOUT_S,
        restart=True,  # a run asks a party back that has lost its service
    )


def _web(settings: PartySettings) -> Child:
    host, port = settings.web.host, settings.web.port
    check_port_free(host, port, "[web] port in party.toml, or set enabled = false there")
    return Child(
        "web",
        [sys.executable, "-m", "party_client.web", "--home", str(settings.home)],
        ready=lambda: accepts_connections(host, port),
        ready_timeout_s=START_TIMEOUT_S,
        restart=True,
    )


def _node_files(settings: PartySettings) -> SuperNodeFiles:
    return SuperNodeFiles(
        home=settings.home,
        party=settings.party,
        superlink=load_federation(settings.home).coordinator.superlink,
        ca_certificate=settings.ca_certificate,
        node_key=settings.node_key,
        socket=settings.socket,
    )


def _name(part: Part) -> str:
    return SERVICE_NAME if part is Part.ALL else f"{SERVICE_NAME}-{part.value}"


def _first(pids: Iterable[int | None]) -> int | None:
    return next((pid for pid in pids if pid is not None), None)
