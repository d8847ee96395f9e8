"""A real control plane on a free loopback port, over real TLS, with its database in a folder.

Only what executes runs is replaced: Flower's SuperLink by a list in memory (`coordinator.control`
names the Protocol). The deployed tests run against the SuperLink itself.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.client import CoordinatorClient
from coordinator.control import ControlPlane
from coordinator.server import Service, open_control_plane, open_service, tls_server
from coordinator.settings import CoordinatorSettings, load_settings
from coordinator.setup import initialise
from coordinator.superlink import Node
from party_client.settings import PartySettings
from party_client.setup import initialise as initialise_party
from privacy.errors import NotRunningError

PLAN = b"""
format = 1
name = "churn"
purpose = "retention"
[task]
kind = "churn"
cutoff = 2024-06-01
[privacy]
epsilon = 1.0
"""


@dataclass
class MemoryExecutor:
    """Remembers what it was asked; a run ends when a test says so."""

    registered: dict[str, str] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)
    broken: bool = False
    online: set[str] = field(default_factory=set)

    def register_node(self, public_key: str, name: str) -> None:
        self._check()
        self.registered[name] = public_key

    def unregister_node(self, public_key: str) -> None:
        self._check()
        self.registered = {n: key for n, key in self.registered.items() if key != public_key}

    def nodes(self) -> list[Node]:
        self._check()
        return [
            Node(number, name, key, name in self.online)
            for number, (name, key) in enumerate(self.registered.items())
        ]

    def start_run(self, run_id: str) -> str:
        self._check()
        self.started.append(run_id)
        times = self.started.count(run_id)
        return f"flower-{run_id}" + (f"-{times}" if times > 1 else "")

    def stop_run(self, flower_run_id: str) -> None:
        self._check()
        self.stopped.append(flower_run_id)

    def has_ended(self, flower_run_id: str) -> bool:
        return flower_run_id in self.ended

    def _check(self) -> None:
        if self.broken:
            raise NotRunningError("the SuperLink does not answer")


@dataclass
class Coordinator:
    """A coordinator's home and its control plane, served or not."""

    settings: CoordinatorSettings
    executor: MemoryExecutor
    service: Service

    @property
    def control(self) -> ControlPlane:
        return self.service.control

    def client(self) -> CoordinatorClient:
        return CoordinatorClient.of_home(self.settings)

    @property
    def token(self) -> str:
        return self.settings.api_token.read_text().strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_coordinator(home: Path, federation: str = "demo") -> Coordinator:
    initialise(
        home, federation, "data-science", control_port=free_port(), superlink_port=free_port()
    )
    return open_coordinator(home)


def open_coordinator(home: Path) -> Coordinator:
    settings = load_settings(home)
    executor = MemoryExecutor()
    return Coordinator(
        settings, executor, open_service(settings, open_control_plane(settings, executor))
    )


@contextmanager
def served(coordinator: Coordinator) -> Iterator[Coordinator]:
    server = tls_server(coordinator.service, coordinator.settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the control plane ended at start"
        assert time.monotonic() < deadline, "the control plane did not start"
        time.sleep(0.02)
    try:
        yield coordinator
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def make_party(home: Path, name: str) -> PartySettings:
    return initialise_party(home, name, 6000)
