"""The service's Unix socket: one length-prefixed frame in, one out, per connection.

Mode 0660, and only the service's own user (SO_PEERCRED) may connect.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from privacy.errors import ConfigError, NotRunningError
from privacy.framing import MAX_FRAME_BYTES

LOG = logging.getLogger(__name__)
LENGTH = struct.Struct(">I")
# A peer on this machine sends at once; one that does not must not keep the service waiting.
READ_TIMEOUT_S = 10.0
# A path longer than this does not fit the operating system's socket address.
MAX_SOCKET_PATH = 107


def serve(answer: Callable[[bytes], bytes], path: Path, close: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT, then call `close` and remove the socket."""
    listener = _listen(path)
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        listener.close()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    LOG.info("serving")
    try:
        while not stopping:
            try:
                connection, _ = listener.accept()
            except OSError:
                if stopping:
                    break
                raise
            with connection:
                _serve_one(connection, answer)
    finally:
        close()
        path.unlink(missing_ok=True)


def request(path: Path, frame: bytes, timeout_s: float) -> bytes:
    """Send one frame to a service and return its reply. Raises NotRunningError if none answers."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(LENGTH.pack(len(frame)) + frame)
            return _receive(connection)
    except OSError as error:
        raise NotRunningError(
            "the party service does not answer; start it with: fedtags-party start"
        ) from error


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the home folder's path is too long for a socket ({MAX_SOCKET_PATH} bytes with "
            "run/service.sock); choose a shorter one with --home"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old_mask)
    listener.listen(16)
    return listener


def _serve_one(connection: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != os.getuid():
        LOG.warning("refused a connection by another user")
        return
    connection.settimeout(READ_TIMEOUT_S)
    try:
        if not connection.recv(1, socket.MSG_PEEK):
            return  # someone looked whether the service is up
        reply = answer(_receive(connection))
        connection.sendall(LENGTH.pack(len(reply)) + reply)
    except OSError as error:
        LOG.warning("a connection broke off: %s", error.strerror or type(error).__name__)


def _receive(connection: socket.socket) -> bytes:
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    if length > MAX_FRAME_BYTES:
        raise OSError("a frame is longer than the protocol allows")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(length - len(parts), 1 << 20))
        if not part:
            raise OSError("the connection ended in the middle of a frame")
        parts += part
    return bytes(parts)
