"""The two Flower-facing processes of a party: the SuperNode and its relay.

The SuperNode connects outward only. Its own Runtime API listens on loopback, behind a secret, for
the relay alone. Process isolation was measured against Flower's subprocess mode: the same number
of processes at rest, and none started per message.
"""

from __future__ import annotations

import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from party_client.logs import LogFormat
from privacy.errors import ConfigError
from privacy.hosting.processes import accepts_connections
from privacy.hosting.supervision import Child, program
from privacy.identity import write_secret


@dataclass(frozen=True)
class SuperNodeFiles:
    """What a party's SuperNode is started with. `home` gets its logs and pids; `superlink` is
    host:port."""

    home: Path
    party: str
    superlink: str
    ca_certificate: Path
    node_key: Path
    socket: Path


def supernode_children(
    files: SuperNodeFiles, log_format: LogFormat = "text"
) -> tuple[Child, Child]:
    """The SuperNode and the relay, sharing a fresh secret and a free loopback port.

    They are ready when the relay can reach the SuperNode; the SuperNode goes on trying to reach
    the SuperLink by itself. `log_format` is the relay's; the SuperNode's lines are Flower's own.
    Raises ConfigError if the home's path cannot be handed to Flower.
    """
    if '"' in str(files.socket) or "'" in str(files.socket) or "\\" in str(files.socket):
        raise ConfigError(
            f"move the home folder: its path holds a quote or backslash ({files.home})"
        )
    port = free_port()
    secret = files.home / "run" / "relay.secret"
    secret.unlink(missing_ok=True)
    write_secret(secret, secrets.token_hex(32).encode("ascii"))
    argv = [program("flower-supernode"), "--superlink", files.superlink]
    argv += ["--root-certificates", str(files.ca_certificate)]
    argv += ["--auth-supernode-private-key", str(files.node_key)]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--isolation", "process"]
    argv += ["--superexec-auth-secret-file", str(secret)]
    argv += ["--node-config", f'party="{files.party}" socket="{files.socket}"']
    environment = {"FLWR_HOME": str(files.home / "flower")}
    address = f"127.0.0.1:{port}"
    relay = [sys.executable, "-m", "party_client.relay", "--runtime-api-address", address]
    relay += ["--secret-file", str(secret), "--log-format", log_format]
    return (
        Child(
            "supernode",
            argv,
            environment,
            ready=lambda: accepts_connections("127.0.0.1", port),
            restart=True,
        ),
        Child("relay", relay, environment, restart=True),
    )


def free_port() -> int:
    """A loopback port that nothing uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
