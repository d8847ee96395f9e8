"""Somebody who reads a control plane over TLS at a steady rate, by token and by session cookie."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path

import numpy as np

RATE, CONNECTIONS = 100, 16
_HOST = "127.0.0.1"
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Timed:
    """One read: its name, and seconds from when it was due until its answer was there."""

    read: str
    seconds: float


@dataclass
class Visitor:
    """A client of the control plane on a loopback `port`; `authority` signed its certificate."""

    port: int
    authority: Path
    token: str
    _cookie: str = ""
    _idle: list[_Connection] = field(default_factory=list)
    _tls: ssl.SSLContext | None = None

    async def sign_in(self, name: str, password: str) -> None:
        """Open a session, which `get` uses for pages."""
        body = json.dumps({"name": name, "password": password}).encode()
        head, _ = await self._ask("POST", "/v1/session", "Content-Type: application/json", body)
        cookies: SimpleCookie = SimpleCookie()
        for line in head:
            if line.lower().startswith("set-cookie:"):
                cookies.load(line.split(":", 1)[1].strip())
        self._cookie = "; ".join(f"{one.key}={one.value}" for one in cookies.values())

    async def get(self, path: str, *, as_person: bool) -> bytes:
        """The body of an answer 200. Raises RuntimeError for any other."""
        who = f"Cookie: {self._cookie}" if as_person else f"Authorization: Bearer {self.token}"
        return (await self._ask("GET", path, who))[1]

    async def prepare(self, count: int) -> None:
        """Open connections until `count` are there."""
        while len(self._idle) < count:
            self._idle.append(await self._connect())

    async def close(self) -> None:
        """Close every connection."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _connect(self) -> _Connection:
        self._tls = self._tls or ssl.create_default_context(cafile=str(self.authority))
        return await asyncio.open_connection(_HOST, self.port, ssl=self._tls)

    async def _ask(
        self, method: str, path: str, header: str, body: bytes = b""
    ) -> tuple[list[str], bytes]:
        # The one used last: the others may have been closed for idling.
        reader, writer = self._idle.pop() if self._idle else await self._connect()
        if reader.at_eof():
            reader, writer = await self._connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: {_HOST}:{self.port}\r\n{header}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        lengths = [one for one in lines if one.lower().startswith("content-length:")]
        answer = await reader.readexactly(int(lengths[0].split(":")[1]))
        if " 200 " not in lines[0]:
            raise RuntimeError(f"{path}: the control plane answered {lines[0]}")
        self._idle.append((reader, writer))
        return lines, answer


async def ask_steadily(
    visitor: Visitor, reads: Mapping[str, str], runs: Sequence[str], *, seconds: int
) -> list[Timed]:
    """Read one of `reads` (paths by name) every 1/RATE s, whether answers come or not. `{run}` in a
    path is any of `runs`; a path of the API is asked for with the token, a page with the session.
    """
    rng = np.random.default_rng(1)
    names = list(reads)
    # Each read as often as every other, in an order of its own each time.
    rounds = -(-RATE * seconds // len(names))
    order = [names[one] for _ in range(rounds) for one in rng.permutation(len(names))]
    chosen = rng.integers(len(runs), size=RATE * seconds)
    free = asyncio.Semaphore(CONNECTIONS)
    await visitor.prepare(CONNECTIONS)
    started = time.perf_counter() + 0.1

    async def one(place: int) -> Timed:
        due = started + place / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        path = reads[order[place]].format(run=runs[int(chosen[place])])
        async with free:
            await visitor.get(path, as_person=not path.startswith("/v1/"))
        return Timed(order[place], time.perf_counter() - due)

    return list(await asyncio.gather(*(one(place) for place in range(RATE * seconds))))
