"""The shim between Flower and a party: the ClientApp.

It holds no data, key or model and imports Flower and the standard library only: it hands the
frame to the party's own service over the Unix socket named in the node's configuration and returns
what that service answers. Both are opaque, signed bytes. On the socket a frame is its length (four
bytes, big endian) and its bytes; one request and one reply per connection.

A party's relay runs its own installed copy of this file, and only for runs whose bundle is the very
same; Flower's own SuperExec would unpack and run what the coordinator delivered.
"""

from __future__ import annotations

import socket
import struct

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

MAX_FRAME_BYTES = 1 << 26
# A ConfigRecord takes fewer requests than an array, but only arrays are cut into chunks.
SMALL_FRAME_BYTES = 1 << 20
SERVICE_UNREACHABLE = 100


def carry(message: Message, context: Context) -> Message:
    """One frame to the party service and its reply back; an error reply if the socket fails."""
    try:
        reply = ask(str(context.node_config["socket"]), unpack(message), message.metadata.ttl)
    except (OSError, KeyError) as error:
        # The kind of failure only: neither a path nor a byte of the frame goes back.
        reason = f"the party service did not answer ({type(error).__name__})"
        return Message(Error(SERVICE_UNREACHABLE, reason), reply_to=message)
    return pack(message, reply)


def empty(message: Message, context: Context) -> Message:
    """The bytes that came, reversed, from here: what Flower alone takes, for benchmarks."""
    return pack(message, unpack(message)[::-1])


def unpack(message: Message) -> bytes:
    """The frame that a message carries. Raises KeyError if it carries none."""
    value = message.content["frame"]["bytes"]
    return bytes(value.data if isinstance(value, Array) else value)


def pack(message: Message, frame: bytes) -> Message:
    """The reply to `message` that carries `frame`."""
    content = RecordDict()
    if len(frame) <= SMALL_FRAME_BYTES:
        content["frame"] = ConfigRecord({"bytes": frame})
    else:
        array = Array("uint8", (len(frame),), "bytes", frame)
        content["frame"] = ArrayRecord({"bytes": array})
    return Message(content, reply_to=message)


def ask(path: str, frame: bytes, timeout_s: float) -> bytes:
    """Send one frame to the socket at `path` and return the reply. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(path)
        connection.sendall(struct.pack(">I", len(frame)) + frame)
        (length,) = struct.unpack(">I", receive(connection, 4))
        if length > MAX_FRAME_BYTES:
            raise OSError("reply too long")
        return receive(connection, length)


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes. Raises OSError if the peer closes before."""
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(min(count - len(data), 1 << 20))
        if not piece:
            raise ConnectionResetError("closed early")
        data += piece
    return bytes(data)


app = ClientApp()
app.query("frame")(carry)
app.query("empty")(empty)
