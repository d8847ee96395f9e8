"""What a run needs from its surroundings: a way to reach the parties and a place to record.

`Channel` has three implementations: Flower (`coordinator/flower_channel.py`), the parties' own
sockets, and memory (both in `simulations/local_federation.py`). Tests swap the transport, they do
not patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from privacy.evidence_statements import Heard


class Channel(Protocol):
    """Carries signed frames; understands none of them."""

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """Send one frame to each named party and return the replies that came in time.

        A party that did not answer within `timeout_s` seconds, or whose transport reported an
        error, is missing from the result.
        """
        ...


class Recorder(Protocol):
    """Where a run's progress goes.

    Phases: preflight, keys, weights, round, evaluation, publication; pause between two of them.
    """

    def phase(self, name: str, round_number: int | None, total_rounds: int) -> None:
        """A phase (and for 'round' which one, from 1) begins."""
        ...

    def exchange(
        self,
        phase: str,
        round_number: int | None,
        seconds: float,
        bytes_up: Mapping[str, int],
        bytes_down: Mapping[str, int],
    ) -> None:
        """One exchange ended: wall-clock seconds and frame bytes by party (up = from the party)."""
        ...

    def metric(self, name: str, value: float) -> None:
        """A released figure of the run, such as the AUC of the noised evaluation."""
        ...

    def membership(self, party: str, event: str) -> None:
        """A party left in this phase ('left': no answer, 'refused': for good) or 'returned'."""
        ...

    def statements(self, heard: Sequence[Heard]) -> None:
        """Parties' signed replies of one exchange, for the evidence pack; the same again is no
        error."""
        ...

    def pause(self, absent: Sequence[str], until: datetime) -> None:
        """The run waits for these parties, at most until then (UTC); the next phase ends that."""
        ...

    def resume_requested(self) -> bool:
        """True once each time that an operator asked a paused run to ask the absent at once."""
        ...

    def stop_requested(self) -> bool:
        """True once an operator asked this run to stop; asked before every exchange."""
        ...
