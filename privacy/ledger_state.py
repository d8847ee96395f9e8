"""What a ledger's entries add up to: its runs, what each is charged, and what still fits.

A run is charged

    all that it reserved    while it is open
    what its intents name   once it is closed, or once its reservation has expired: `valid_for`
                            after its newest entry, by the entries' own times, so that a replay
                            decides the same
    nothing                 if it was given back untouched
    all that it reserved    for good, if a torn line may have been one of its intents

and besides the runs every gap: what a lost part of the ledger had charged. `privacy.ledger_replay`
makes these values from entries; nothing here knows a file, a lock or a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from privacy import accounting
from privacy.budget import Cap, Limit
from privacy.ledger_decisions import PlanDecision
from privacy.mechanism import Mechanism, Unrecorded

# Round numbers of what a run releases besides its training rounds, which count from 1.
EVALUATION_ROUND = 0
WEIGHTS_ROUND = -1


@dataclass(frozen=True)
class Provenance:
    """What an intent says of how its mechanism runs. No field holds a customer's data.

    `dataset`: hex HMAC of the training rows under the party's local key, so that only the party
    can tell two data sets apart. `recipients`: who will be able to open what is released.
    """

    family: str
    engine: str
    dataset: str
    sampler: str
    rng: str
    code_version: str
    recipients: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        """Plain data for an entry."""
        return {**asdict(self), "recipients": list(self.recipients)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Provenance:
        """Read back `as_data`. KeyError or TypeError if a field is missing, unknown or no text."""
        found = cls(**{**data, "recipients": tuple(data["recipients"])})
        texts = [value for name, value in data.items() if name != "recipients"]
        if not all(isinstance(one, str) for one in (*texts, *found.recipients)):
            raise TypeError("a provenance holds text")
        return found


@dataclass(frozen=True)
class Intent:
    """One mechanism that was about to run, and from then on counts as spent."""

    round: int
    mechanism: Mechanism
    time: datetime
    provenance: Provenance


@dataclass
class RunState:
    """One run. `newest`: the time of its newest entry. `left`: what no intent has named yet, a
    step of a sampled mechanism as one. `attempts`: by round, the last attempt whose bytes may have
    left. `two_party`: such bytes went into a sum of two parties. `doubtful`: charged wholly,
    because of a torn line. `position`: its reservation's place in the ledger."""

    purpose: str
    plan: str
    plan_digest: str
    mechanisms: tuple[Mechanism, ...]
    valid_for: timedelta
    reserved_at: datetime
    newest: datetime
    left: Counter[Mechanism]
    intents: list[Intent] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)
    two_party: bool = False
    state: Literal["reserved", "refunded", "finished", "failed", "interrupted"] = "reserved"
    doubtful: bool = False
    position: int = 0

    @property
    def touched(self) -> bool:
        """Whether data were, or may have been, touched: such a run is never refunded."""
        return self.doubtful or bool(self.intents)

    def expired(self, now: datetime) -> bool:
        """Whether the reservation has run out: nothing more may be computed for it."""
        return self.state == "reserved" and now > self.newest + self.valid_for

    def open(self, now: datetime) -> bool:
        """Whether the run may still compute."""
        return self.state == "reserved" and not self.expired(now)

    def charged(self, now: datetime) -> tuple[Mechanism, ...]:
        """What counts as spent. Of a refunded run nothing: it has no intents."""
        if self.doubtful or self.open(now):
            return self.mechanisms
        return tuple(one.mechanism for one in self.intents)


@dataclass(frozen=True)
class Gap:
    """A lost part of the ledger: charged, at the position where its newest entry was."""

    position: int
    hash: str
    time: datetime
    spend: Unrecorded


@dataclass(frozen=True)
class LedgerPosition:
    """A place in a ledger and what was charged there: an RDP curve at `accounting.ORDERS`.

    `position` counts entries, and jumps over those of a gap, so it only ever grows.
    """

    position: int
    hash: str
    time: datetime
    rdp: tuple[float, ...]


@dataclass
class LedgerState:
    """All that the entries say, as of `now`: the newest entry's time, or later when read later.

    `newest`: the newest entry's hash. `decisions`: of people about plans, oldest first."""

    party: str
    cap: Cap
    now: datetime
    runs: dict[str, RunState] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    position: int = 0
    positions: set[tuple[int, str]] = field(default_factory=set)
    newest: str = ""
    decisions: list[PlanDecision] = field(default_factory=list)

    @property
    def cap_epsilon(self) -> float:
        """The lifetime budget's epsilon."""
        return self.cap.epsilon

    @property
    def cap_delta(self) -> float:
        """The lifetime budget's delta, at which every epsilon of this ledger is told."""
        return self.cap.delta

    def charged(self) -> list[Mechanism]:
        """Every mechanism that counts as spent."""
        runs = [one for run in self.runs.values() for one in run.charged(self.now)]
        return [*runs, *(gap.spend for gap in self.gaps)]

    def charged_under(self, limit: Limit, at: datetime | None = None) -> list[Mechanism]:
        """The part of `charged` that counts towards `limit` for a run that was reserved `at`, or
        asks now.

        A gap's runs are not known, so it counts towards every limit.
        """
        moment = self.now if at is None else at
        found: list[Mechanism] = []
        for run in self.runs.values():
            if limit.covers(run.purpose, run.plan) and limit.same_window(run.reserved_at, moment):
                found += run.charged(self.now)
        return found + [gap.spend for gap in self.gaps if limit.same_window(gap.time, moment)]

    def decision_on(self, plan_digest: str) -> PlanDecision | None:
        """The newest decision of a person about this plan, if there is one."""
        about = (one for one in reversed(self.decisions) if one.plan_digest == plan_digest)
        return next(about, None)

    def runs_after(self, decision: PlanDecision) -> int:
        """How many runs of its plan were reserved after `decision`; one given back untouched
        counts for nothing."""
        return sum(
            run.plan_digest == decision.plan_digest
            and run.position > decision.position
            and run.state != "refunded"
            for run in self.runs.values()
        )

    def recorded_until(self, moment: datetime) -> list[Mechanism]:
        """What the entries up to `moment` charge for good, whatever happens to open runs."""
        intents = (one for run in self.runs.values() for one in run.intents)
        known = [one.mechanism for one in intents if one.time <= moment]
        return known + [gap.spend for gap in self.gaps if gap.time <= moment]


def gap_body(state: LedgerState, known: LedgerPosition) -> dict[str, Any]:
    """The entry that charges what `known` had charged and this file's entries until then do not.

    If `known` is later than now, its clock was ahead, and its time tells nothing about which of
    this file's entries it had: all of it is charged.
    """
    recorded = accounting.rdp(state.recorded_until(known.time) if known.time <= state.now else [])
    missing = [max(0.0, was - now) for was, now in zip(known.rdp, recorded, strict=True)]
    return {"known_position": known.position, "known_hash": known.hash, "rdp": missing}


def room_for(
    state: LedgerState,
    mechanisms: Sequence[Mechanism],
    purpose: str,
    plan: str,
    limits: Sequence[Limit],
    at: datetime | None = None,
) -> str:
    """The first budget that a run, reserved `at` or asking now, would pass by `mechanisms`, in
    words; empty if there is room."""
    cap, together = state.cap, [*state.charged(), *mechanisms]
    if not cap.admits(together):
        return (
            f"lifetime budget of epsilon {cap.epsilon:g} at delta {cap.delta:g}: it would be "
            f"{cap.used(together):.1%} used"
        )
    for limit in limits:
        if limit.covers(purpose, plan):
            covered = [*state.charged_under(limit, at), *mechanisms]
            if not limit.admits(covered, cap.delta):
                return f"limit {limit.name} of epsilon {limit.epsilon:g} ({limit.window})"
    return ""
