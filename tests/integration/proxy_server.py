"""The real nginx on free loopback ports, as an ordinary process with a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.proxy import write_proxy_config
from coordinator.settings import CONFIG_NAME, CoordinatorSettings, load_settings
from party_client.supernode import free_port
from privacy.hosting.processes import accepts_connections
from tests.servers import require_or_skip

NAME = "localhost"


def behind_a_proxy(home: Path, **more: str) -> CoordinatorSettings:
    """Switch [proxy] on in a coordinator's home, on free ports; `more` are further keys of it."""
    config = home / CONFIG_NAME
    before, found, rest = config.read_text().partition("[proxy]\n")
    assert found
    after = "".join(f"\n[{one}" for one in rest.split("\n[")[1:])
    keys = {"name": NAME, "people_name": NAME, "listen": "127.0.0.1", **more}
    ports = {"partners_port": free_port(), "people_port": free_port()}
    lines = [f'{key} = "{value}"' for key, value in keys.items()]
    lines += [f"{key} = {value}" for key, value in ports.items()]
    config.write_text(f"{before}[proxy]\nenabled = true\n" + "\n".join(lines) + f"\n{after}")
    return load_settings(home)


@contextmanager
def nginx(folder: Path, *ports: int, main: str = "nginx.conf") -> Iterator[None]:
    """Run nginx on a written folder until the block ends."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    require_or_skip("nginx", program is not None)
    assert program is not None
    # As root, nginx would give its work to a user that may not enter the folder.
    own = "user root; " if os.getuid() == 0 else ""
    argv = [program, "-p", str(folder), "-c", main, "-g", f"daemon off; {own}"]
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(argv, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 20
        while not all(accepts_connections("127.0.0.1", port) for port in ports):
            assert process.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < deadline, (folder / "said").read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def proxied(settings: CoordinatorSettings) -> Iterator[None]:
    """Write the configuration as the command does, and run nginx with it."""
    files = write_proxy_config(settings)
    with nginx(files.folder, settings.proxy.partners_port, settings.proxy.people_port):
        yield


@dataclass(frozen=True)
class Answer:
    """One HTTP answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(
    port: int, authority: Path, sent: bytes, name: str = NAME, timeout_s: float = 5.0
) -> list[Answer]:
    """Send exactly these bytes over TLS and read every answer until the server closes or is silent.

    No HTTP library between: most of them would correct what an attacker sends.
    """
    context = ssl.create_default_context(cafile=str(authority))
    received = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        connection.sendall(sent)
        try:
            while chunk := connection.recv(65536):
                received += chunk
                if _complete(received) and b"connection: close" not in sent.lower():
                    connection.settimeout(0.7)
        except (TimeoutError, ConnectionResetError):
            pass
    return list(_answers(received))


def _complete(received: bytes) -> bool:
    return bool(list(_answers(received)))


def _answers(received: bytes) -> Iterator[Answer]:
    while received.startswith(b"HTTP/"):
        head, separator, rest = received.partition(b"\r\n\r\n")
        if not separator:
            return
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
        }
        if headers.get("transfer-encoding") == "chunked":
            body = rest
            received = b""
        else:
            length = int(headers.get("content-length", len(rest)))
            body, received = rest[:length], rest[length:]
        yield Answer(int(status.split()[1]), headers, body)
