"""A connection on which no request arrives in time is closed; one that is at work is not."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from privacy.hosting.request_deadline import DeadlineProtocol

MOST = 4
SECONDS = 0.5
BODY = b'{"customer": "C1"}'


class _Soon(DeadlineProtocol):
    request_seconds = SECONDS


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body; what asks for /slow takes longer than a request may."""
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(3 * SECONDS)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def port() -> Iterator[int]:
    """A server that takes fewer than MOST connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    config = uvicorn.Config(
        _echo,
        port=number,
        http=_Soon,
        limit_concurrency=MOST,
        lifespan="off",
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield number
    server.should_exit = True
    thread.join(10)


def _ask(port: int, path: str = "/") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, BODY)
        return connection.getresponse().status
    finally:
        connection.close()


def _trickle(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\nX: ")
    for _ in range(1000):
        connection.sendall(b"a")
        time.sleep(SECONDS / 20)


def _read_until_closed(connection: socket.socket) -> None:
    """Fails by the connection's own time limit if the server leaves it open."""
    with suppress(ConnectionError):
        while connection.recv(1000):
            pass


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
    ],
)
def test_connections_whose_request_does_not_come_keep_others_out_for_a_while_only(
    port: int, begun: bytes
) -> None:
    held = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(MOST)]
    try:
        for one in held:
            one.sendall(begun)
        assert _ask(port) == 503
        for one in held:
            _read_until_closed(one)
        assert _ask(port) == 200
    finally:
        for one in held:
            one.close()


def test_a_request_sent_byte_by_byte_does_not_get_more_time(port: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as slow,
        pytest.raises(ConnectionError),
    ):
        _trickle(slow)


def test_an_answer_may_take_longer_than_a_request(port: int) -> None:
    assert _ask(port, "/slow") == 200


def test_later_requests_of_a_connection_are_answered_and_each_has_its_own_time(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(4):
        connection.request("POST", "/", BODY)
        assert connection.getresponse().read() == BODY
        time.sleep(SECONDS / 2)
    connection.close()
