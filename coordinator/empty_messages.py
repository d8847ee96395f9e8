"""Diagnostics: how long an empty message takes, to the same nodes, beside every real exchange."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from coordinator.checkpoints import Answered, Kept, Measured
from coordinator.flower_channel import FlowerChannel
from coordinator.run_recorder import RunRecorder
from privacy.evidence_statements import Heard

PHASE = "empty message"
TIMEOUT_S = 60.0


class EmptyMessageTimer:
    """A `Recorder` and `Journal` that, after each recorded exchange, times an empty one and records
    that, too.

    The empty one runs between two exchanges, so it is in nobody else's time.
    """

    def __init__(self, recorder: RunRecorder | EmptyMessageTimer, channel: FlowerChannel) -> None:
        self._recorder, self._channel = recorder, channel

    def phase(self, name: str, round_number: int | None, total_rounds: int) -> None:
        """As the recorder's own."""
        self._recorder.phase(name, round_number, total_rounds)

    def exchange(
        self,
        phase: str,
        round_number: int | None,
        seconds: float,
        bytes_up: Mapping[str, int],
        bytes_down: Mapping[str, int],
    ) -> None:
        """As the recorder's own, then the empty one; one that failed is not recorded, and after an
        exchange that not all answered there is none: it would wait for the same parties again."""
        self._recorder.exchange(phase, round_number, seconds, bytes_up, bytes_down)
        self._time(round_number, bytes_up, bytes_down)

    def answered(self, entry: Answered, attachment: bytes, measured: Measured) -> None:
        """As the recorder's own, then the empty one, as after `exchange`."""
        self._recorder.answered(entry, attachment, measured)
        self._time(measured.round, measured.bytes_up, measured.bytes_down)

    def _time(
        self, round_number: int | None, bytes_up: Mapping[str, int], bytes_down: Mapping[str, int]
    ) -> None:
        if set(bytes_up) != set(bytes_down):
            return
        started = time.monotonic()
        if len(self._channel.exchange_empty(bytes_down, TIMEOUT_S)) == len(bytes_down):
            took = time.monotonic() - started
            self._recorder.exchange(PHASE, round_number, took, {}, {})

    def metric(self, name: str, value: float) -> None:
        """As the recorder's own."""
        self._recorder.metric(name, value)

    def membership(self, party: str, event: str) -> None:
        """As the recorder's own."""
        self._recorder.membership(party, event)

    def statements(self, heard: Sequence[Heard]) -> None:
        """As the recorder's own."""
        self._recorder.statements(heard)

    def load(self) -> Kept:
        """As the recorder's own."""
        return self._recorder.load()

    def moment(self, at: datetime) -> None:
        """As the recorder's own."""
        self._recorder.moment(at)

    def caught_up(self) -> None:
        """As the recorder's own."""
        self._recorder.caught_up()

    def pause(self, absent: Sequence[str], until: datetime) -> None:
        """As the recorder's own."""
        self._recorder.pause(absent, until)

    def resume_requested(self) -> bool:
        """As the recorder's own."""
        return self._recorder.resume_requested()

    def stop_requested(self) -> bool:
        """As the recorder's own."""
        return self._recorder.stop_requested()
