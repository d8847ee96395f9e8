"""Federations on this machine without Flower: the real party services, over memory or sockets.

`MemoryChannel` calls each service in this process; `SocketChannel` speaks to each service's own
process over its Unix socket. Both carry the same frames as Flower does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from party_client.socket_server import request
from privacy.errors import NotRunningError

Answer = Callable[[bytes], bytes]


@dataclass(frozen=True)
class MemoryChannel:
    """`answers` maps a party to its service's `answer`; one after the other, each timed alone."""

    answers: Mapping[str, Answer]

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """See `coordinator.channel.Channel`."""
        replies = {}
        for party in (one for one in frames if one in self.answers):
            started = time.monotonic()
            reply = self.answers[party](frames[party])
            if time.monotonic() - started <= timeout_s:
                replies[party] = reply
        return replies


@dataclass(frozen=True)
class SocketChannel:
    """`sockets` maps a party to its service's socket."""

    sockets: Mapping[str, Path]

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """See `coordinator.channel.Channel`."""

        def ask(party: str) -> bytes | None:
            try:
                return request(self.sockets[party], frames[party], timeout_s)
            except NotRunningError:
                return None

        with ThreadPoolExecutor(max_workers=max(1, len(frames))) as pool:
            replies = dict(zip(frames, pool.map(ask, frames), strict=True))
        return {party: reply for party, reply in replies.items() if reply is not None}


@dataclass
class MemoryRecorder:
    """Keeps a run's progress in lists."""

    phases: list[str] = field(default_factory=list)
    exchanges: list[tuple[str, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    stop: bool = False

    def phase(self, name: str, round_number: int | None, total_rounds: int) -> None:
        """See `coordinator.channel.Recorder`."""
        self.phases.append(name if round_number is None else f"{name} {round_number}")

    def exchange(
        self,
        phase: str,
        round_number: int | None,
        seconds: float,
        bytes_up: Mapping[str, int],
        bytes_down: Mapping[str, int],
    ) -> None:
        """See `coordinator.channel.Recorder`."""
        self.exchanges.append((phase, seconds))

    def metric(self, name: str, value: float) -> None:
        """See `coordinator.channel.Recorder`."""
        self.metrics[name] = value

    def stop_requested(self) -> bool:
        """See `coordinator.channel.Recorder`."""
        return self.stop
