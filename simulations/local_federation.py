"""Federations on this machine without Flower: the real party services, over memory or sockets.

`MemoryChannel` calls each service in this process; `SocketChannel` speaks to each service's own
process over its Unix socket. Both carry the same frames as Flower does. `FaultyChannel` is any of
them with chosen faults.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import cbor2

from coordinator.channel import Channel
from party_client.socket_server import request
from privacy.errors import NotRunningError, ProtocolError
from privacy.evidence_statements import Heard
from privacy.framing import statement_of
from privacy.identity import SIGNATURE_BYTES

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
            # A service that may not let anything out answers nothing at all.
            if reply and time.monotonic() - started <= timeout_s:
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


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the messages of one kind to one party.

    `kind` as in a body; `number` and `attempt` as in the header (None: any). `loses`: 'request'
    (it never comes), 'reply' (the party has done its work, and nobody hears of it) or nothing. The
    party stays away for the `away` messages after it, too. `then` is called when the exchange is
    over: a restart, for example.
    """

    party: str
    kind: str
    number: int | None = None
    attempt: int | None = None
    loses: Literal["request", "reply", "nothing"] = "request"
    away: int = 0
    then: Callable[[], None] = lambda: None


@dataclass
class FaultyChannel:
    """Another channel with faults; each fault strikes once. `log`: what was asked of whom."""

    channel: Channel
    faults: list[Fault]
    log: list[tuple[str, int, int, frozenset[str]]] = field(default_factory=list)
    _away: dict[str, int] = field(default_factory=dict)
    _struck: list[Fault] = field(default_factory=list)

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """See `coordinator.channel.Channel`."""
        asked = {party: announced(frame) for party, frame in frames.items()}
        for what in dict.fromkeys(asked.values()):
            told = frozenset(party for party, one in asked.items() if one == what)
            self.log.append((*what, told))
        lost = {party: self._fate(party, what) for party, what in asked.items()}
        through = {party: frame for party, frame in frames.items() if lost[party] != "request"}
        replies = self.channel.exchange(through, timeout_s)
        struck, self._struck = self._struck, []
        for fault in struck:
            fault.then()
        return {party: reply for party, reply in replies.items() if lost[party] != "reply"}

    def _fate(self, party: str, what: tuple[str, int, int]) -> str:
        if self._away.get(party, 0) > 0:
            self._away[party] -= 1
            return "request"
        for fault in self.faults:
            kind, number, attempt = what
            strikes = (fault.party, fault.kind) == (party, kind)
            strikes = strikes and fault.number in (None, number)
            if strikes and fault.attempt in (None, attempt):
                self.faults.remove(fault)
                self._struck.append(fault)
                self._away[party] = fault.away
                return fault.loses
        return "nothing"


def announced(frame: bytes) -> tuple[str, int, int]:
    """What a frame says it is: type, round and attempt of its head. Verifies nothing; of what is
    no frame it makes ('', 0, 0)."""
    try:
        head = cbor2.loads(statement_of(frame)[SIGNATURE_BYTES + 4 :])
        return head["type"], head["round"], head["attempt"]
    except (ProtocolError, cbor2.CBORDecodeError, TypeError, KeyError):
        return "", 0, 0


@dataclass
class MemoryRecorder:
    """Keeps a run's progress in lists."""

    phases: list[str] = field(default_factory=list)
    exchanges: list[tuple[str, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    members: list[tuple[str, str, str]] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    stop: bool = False
    resume: bool = False

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

    def membership(self, party: str, event: str) -> None:
        """See `coordinator.channel.Recorder`."""
        self.members.append((party, event, self.phases[-1]))

    def statements(self, heard: Sequence[Heard]) -> None:
        """See `coordinator.channel.Recorder`."""
        self.heard.extend(heard)

    def pause(self, absent: Sequence[str], until: datetime) -> None:
        """See `coordinator.channel.Recorder`."""
        self.phases.append(f"pause for {', '.join(sorted(absent))}")

    def resume_requested(self) -> bool:
        """See `coordinator.channel.Recorder`."""
        wish, self.resume = self.resume, False
        return wish

    def stop_requested(self) -> bool:
        """See `coordinator.channel.Recorder`."""
        return self.stop
