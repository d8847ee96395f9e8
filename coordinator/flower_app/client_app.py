"""The shim that Flower runs at a party, in a fresh process for every message.

It holds no data, key or model and imports Flower and the standard library only: it hands the
frame to the party's own service over the Unix socket named in the node's configuration and returns
what that service answers. Both are opaque, signed bytes. On the socket a frame is its length (four
bytes, big endian) and its bytes; one request and one reply per connection.
"""

from __future__ import annotations

import socket
import struct

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

MAX_FRAME_BYTES = 1 << 30
# A ConfigRecord takes fewer requests than an array, but only arrays are cut into chunks.
SMALL_FRAME_BYTES = 1 << 20
SERVICE_UNREACHABLE = 100


def carry(message: Message, context: Context) -> Message:
    """One frame to the party service and its reply back; an error reply if the socket fails."""
    record = message.content["frame"]["bytes"]
    frame = record.data if isinstance(record, Array) else record
    try:
        reply = ask(str(context.node_config["socket"]), frame, message.metadata.ttl)
    except (OSError, KeyError) as error:
        # The kind of failure only: neither a path nor a byte of the frame goes back.
        reason = f"the party service did not answer ({type(error).__name__})"
        return Message(Error(SERVICE_UNREACHABLE, reason), reply_to=message)
    content = RecordDict()
    if len(reply) <= SMALL_FRAME_BYTES:
        content["frame"] = ConfigRecord({"bytes": reply})
    else:
        array = Array("uint8", (len(reply),), "bytes", reply)
        content["frame"] = ArrayRecord({"bytes": array})
    return Message(content, reply_to=message)


def wake(message: Message, context: Context) -> Message:
    """Nothing: it keeps the SuperNode's loop from falling asleep between two frames."""
    return Message(RecordDict(), reply_to=message)


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
app.query("wake")(wake)
