"""The service's Unix socket: one length-prefixed frame in, one out, per connection.

Mode 0660, and only one OS user (SO_PEERCRED) is heard: the service's own or, where the SuperNode
runs under a user of its own, that one alone.
"""

from __future__ import annotations

import logging
import os
import pwd
import signal
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Peer:
    """The one OS user that is heard, and the group that may connect at all; None: the service's."""

    uid: int
    gid: int | None


def peer_of(user: str | None) -> Peer:
    """The OS user of this name; None is this process's own. Raises ConfigError for an unknown one,
    and for root, whom nothing could be kept from."""
    if user is None:
        return Peer(os.getuid(), None)
    try:
        found = pwd.getpwnam(user)
    except KeyError as error:
        raise ConfigError(
            f"party.toml: isolation.node_user: this machine has no user {user}; make it, or "
            "correct the name"
        ) from error
    if found.pw_uid in (0, os.getuid()):
        raise ConfigError(
            "party.toml: isolation.node_user: neither root nor the service's own user isolates "
            "anything; name a user that only the SuperNode runs under"
        )
    return Peer(found.pw_uid, found.pw_gid)


def serve(
    answer: Callable[[bytes], bytes],
    path: Path,
    close: Callable[[], None],
    peer: Peer | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then call `close` and remove the socket.

    An empty answer is none: the connection is closed. `peer`: by default this process's own user.
    """
    heard = peer_of(None) if peer is None else peer
    listener = _listen(path, heard)
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
                _serve_one(connection, answer, heard)
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


def _listen(path: Path, heard: Peer) -> socket.socket:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the socket's path is too long ({MAX_SOCKET_PATH} bytes at most, with "
            "run/service.sock); choose a shorter one with --home, or as isolation.socket"
        )
    if heard.gid is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        _check_folder(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o117)
    try:
        listener.bind(str(path))
        if heard.gid is not None:
            os.chown(path, -1, heard.gid)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"the socket {path} cannot be made ({error.strerror}); the service's user must own its "
            "folder, and be in the group of isolation.node_user"
        ) from error
    finally:
        os.umask(old_mask)
    listener.listen(16)
    return listener


def _check_folder(folder: Path) -> None:
    """Whoever else may write there could put a socket of his own in the service's place."""
    try:
        found = folder.stat()
    except OSError as error:
        raise ConfigError(
            f"the socket's folder {folder} cannot be used ({error.strerror}); make it, owned by "
            "the service's user, with mode 0711"
        ) from error
    if found.st_uid not in (0, os.getuid()) or stat.S_IMODE(found.st_mode) & 0o022:
        raise ConfigError(
            f"the socket's folder {folder} can be changed by other users; let the service's user "
            "own it, with mode 0711"
        )


def _serve_one(connection: socket.socket, answer: Callable[[bytes], bytes], heard: Peer) -> None:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", credentials)
    if uid != heard.uid:
        if uid != os.getuid():  # our own `status` looks whether the service is up
            LOG.warning("refused a connection by another user")
        return
    connection.settimeout(READ_TIMEOUT_S)
    try:
        if not connection.recv(1, socket.MSG_PEEK):
            return  # someone looked whether the service is up
        reply = answer(_receive(connection))
        if reply:
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
