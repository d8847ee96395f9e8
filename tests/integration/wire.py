"""A recording proxy between a SuperNode and a SuperLink, and what its record says.

The test owns the certificate authority, so the proxy can end TLS with a certificate that the
SuperNode accepts. Every byte that the SuperNode sends goes through it, or nowhere.
"""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from flwr.app import ConfigRecord, Message
from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from coordinator.flower_app.client_app import pack, unpack

# All that Flower's SuperNode says by itself: the request, and the fields that it may fill.
FLOWER_REQUESTS: Mapping[str, frozenset[str]] = {
    "activate-node": frozenset({"public_key", "heartbeat_interval"}),
    "deactivate-node": frozenset({"node_id"}),
    "send-node-heartbeat": frozenset({"node", "heartbeat_interval"}),
    "pull-messages": frozenset({"node"}),
    "get-run": frozenset({"node", "run_id"}),
    "get-fab": frozenset({"node", "hash_str", "run_id"}),
    "pull-object": frozenset({"node", "run_id", "object_id"}),
    "confirm-message-received": frozenset({"node", "run_id", "message_object_id"}),
    # A reply: its ids and how long it took; its content follows as objects.
    "push-messages": frozenset(
        {"node", "messages_list", "message_object_trees", "clientapp_runtime_list"}
    ),
    "push-object": frozenset({"node", "run_id", "session_id", "object_id", "object_content"}),
}
# Of an HTTP request: about the connection, the node's own authentication, and versions.
HEADERS = frozenset(
    {
        *("host", "accept", "accept-encoding", "connection", "user-agent"),
        *("content-type", "content-length"),
        *("flwr-public-key", "flwr-signature", "flwr-timestamp"),
        *("flwr-package-name", "flwr-package-version", "flwr-component-name"),
    }
)


@dataclass(frozen=True)
class Request:
    """One HTTP request as it was sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class RecordingProxy:
    """Listens on 127.0.0.1:`port`, keeps every request, and hands it on to `upstream`.

    `altered(path, body)` may make something else of an answer's body.
    """

    def __init__(self, upstream: str, ca: Path, certificate: Path, key: Path) -> None:
        self.requests: list[Request] = []
        self.altered: Callable[[str, bytes], bytes] = lambda path, body: body
        proxy = self
        client = httpx.Client(verify=ssl.create_default_context(cafile=str(ca)), timeout=60)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", "0")))
                proxy.requests.append(Request(self.command, self.path, headers, body))
                passed = {k: v for k, v in headers.items() if k not in ("host", "connection")}
                answer = client.request(
                    self.command, f"https://{upstream}{self.path}", headers=passed, content=body
                )
                self.send_response(answer.status_code)
                for name, value in answer.headers.items():
                    if name not in ("content-length", "content-encoding", "transfer-encoding"):
                        self.send_header(name, value)
                content = proxy.altered(self.path, answer.content)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815

            def log_message(self, format: str, *values: object) -> None:
                """Nothing on the test's output."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@dataclass
class Wire:
    """What a record of requests holds. Building it fails for anything that it cannot explain.

    `frames`: the replies of the party's service, in order; `errors`: codes of Flower's own error
    replies; `calls`: how often each request was made.
    """

    frames: list[bytes] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)


def explained(requests: list[Request]) -> Wire:
    """Account for every byte of `requests`."""
    wire = Wire()
    objects: dict[str, bytes] = {}
    pushed: list[Any] = []
    for request in requests:
        name = request.path.removeprefix("/v1/fleet/")
        assert request.method == "POST"
        assert set(request.headers) <= HEADERS, set(request.headers) - HEADERS
        assert name in FLOWER_REQUESTS, request.path
        wire.calls[name] = wire.calls.get(name, 0) + 1
        message: Any = PROTOBUF_REQUEST_TYPES[("POST", request.path)]()
        message.ParseFromString(request.body)
        _check_fields(message, FLOWER_REQUESTS[name])
        if name == "push-messages":
            (reply,), (tree,) = message.messages_list, message.message_object_trees
            assert reply.content.SerializeToString() == b""
            pushed.append((reply, tree))
        elif name == "push-object":
            assert get_object_id(message.object_content) == message.object_id
            objects[message.object_id] = message.object_content
    used: set[str] = set()
    for reply, tree in pushed:
        _check_metadata(reply.metadata)
        used |= {one.object_id for one in iterate_object_tree(tree)}
        if reply.HasField("error"):
            wire.errors.append(reply.error.code)
        else:
            wire.frames.append(_frame(tree, objects))
    assert set(objects) <= used, "an object that no reply names"
    return wire


def _check_fields(message: Any, allowed: frozenset[str]) -> None:
    """Nothing but these fields, known and unknown ones."""
    assert {one.name for one, _ in message.ListFields()} <= allowed, message
    again = type(message)()
    again.CopyFrom(message)
    again.DiscardUnknownFields()
    assert again.SerializeToString() == message.SerializeToString()


def _check_metadata(metadata: Any) -> None:
    """Ids, times and Flower's name of the message; no free text of a party."""
    texts = {
        one.name: value
        for one, value in metadata.ListFields()
        if one.type == one.TYPE_STRING and one.name not in ("message_id", "reply_to_message_id")
    }
    assert texts.pop("message_type") in ("query.frame", "query.empty")
    assert texts == {}
    for name in ("message_id", "reply_to_message_id"):
        bytes.fromhex(getattr(metadata, name))


def _frame(tree: Any, objects: Mapping[str, bytes]) -> bytes:
    """The one frame that a reply carries. Its objects hold nothing else: made again from the frame
    alone, the content has the very same hash."""
    contents = {one.object_id: objects[one.object_id] for one in iterate_object_tree(tree)}
    message = inflate_object_from_contents(tree.object_id, contents)
    assert isinstance(message, Message)
    assert list(message.content) == ["frame"]
    assert list(message.content["frame"]) == ["bytes"]
    frame = unpack(message)
    if isinstance(message.content["frame"], ConfigRecord):
        again = pack(message, frame)
        assert again.content.object_id == message.content.object_id
    return frame
