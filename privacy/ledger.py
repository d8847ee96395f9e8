"""One party's ledger: what was allowed, what was reserved, what ran. The budget's hard stop.

The entries are listed in `privacy.ledger_replay`, what a run is charged in `privacy.ledger_state`,
the budgets in `privacy.budget`. This module keeps the file: every decision is made under an
exclusive lock on a file read anew, and an entry is on the disk when the method that writes it
returns.

Spend is never a stored number: it is composed anew from the mechanisms that are charged. Unit of
privacy: one customer at one party, add/remove adjacency. The file holds no customer's data:
mechanisms are public constants of plans, and data sets are named by an HMAC under a local key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from privacy import accounting
from privacy.budget import Cap, Limit
from privacy.errors import BudgetExceeded, DecidedMeanwhile, LedgerError
from privacy.hash_chain import Appender, Clock, Entry, HashChain, Head, utc_now
from privacy.identity import SigningKey
from privacy.ledger_decisions import DecisionTerms, PlanDecision, check_signatures, signed_body
from privacy.ledger_replay import FORMAT, apply, checked_validity, replay, salvage
from privacy.ledger_state import (
    EVALUATION_ROUND,
    WEIGHTS_ROUND,
    LedgerPosition,
    LedgerState,
    Provenance,
    RunState,
    gap_body,
    room_for,
)
from privacy.mechanism import Mechanism

__all__ = [
    "ADJACENCY",
    "EVALUATION_ROUND",
    "UNIT_OF_PRIVACY",
    "WEIGHTS_ROUND",
    "Ledger",
    "LedgerPosition",
    "LedgerState",
    "Outcome",
    "Provenance",
    "RunState",
]

UNIT_OF_PRIVACY = "one customer at one party"
ADJACENCY = "add or remove one customer"
_DOMAIN = b"fedtags ledger 1"

Outcome = Literal["finished", "failed"]


class Ledger:
    """The ledger in the file `path`, made by `Ledger.create`.

    Safe between threads and processes: no two reservations can pass a budget together. Every
    method raises LedgerError if the file is not what was written, cannot be written, or holds an
    entry later than this machine's clock (when writing).
    """

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self._file = HashChain(path, _DOMAIN, clock)
        self._clock = clock

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        party: str,
        cap_epsilon: float,
        cap_delta: float,
        code_version: str,
        clock: Clock = utc_now,
    ) -> Ledger:
        """Start a ledger (mode 0600) with its lifetime cap. An existing file is never replaced."""
        body = {
            "format": FORMAT,
            "party": party,
            "unit_of_privacy": UNIT_OF_PRIVACY,
            "adjacency": ADJACENCY,
            **_cap_body(Cap.of(cap_epsilon, cap_delta)),
            "code_version": code_version,
        }
        ledger = cls(path, clock)
        ledger._file.create("open", body)
        return ledger

    def amend(self, *, cap_epsilon: float, cap_delta: float) -> None:
        """Record another lifetime cap, and its order, if it differs.

        A lower one than is spent stops all runs.
        """
        cap = Cap.of(cap_epsilon, cap_delta)
        with self._appending() as (file, state):
            if (state.cap_epsilon, state.cap_delta) != (cap.epsilon, cap.delta):
                file.append("amend", _cap_body(cap))

    def reserve(
        self,
        run: str,
        *,
        plan_digest: str,
        plan: str,
        purpose: str,
        mechanisms: Sequence[Mechanism],
        valid_for: timedelta,
        limits: Sequence[Limit] = (),
        permit: Callable[[LedgerState], None] | None = None,
    ) -> None:
        """Set the whole spend of `run` aside, until it lies still for longer than `valid_for`.

        `permit` is asked first, under the lock, and raises what forbids the run.

        Raises BudgetExceeded, before anything is written, naming the budget that all that is
        charged and this would pass: the lifetime filter, or one of `limits`. LedgerError if the
        ledger knows the run already.
        """
        if not mechanisms:
            raise LedgerError("a reservation names at least one mechanism")
        checked_validity(valid_for)
        with self._appending() as (file, state):
            if run in state.runs:
                raise LedgerError(f"run {run} is in the ledger already; a run id is used once")
            if permit is not None:
                permit(state)
            _check_room(room_for(state, mechanisms, purpose, plan, limits))
            file.append(
                "reserve",
                {
                    "run": run,
                    "plan_digest": plan_digest,
                    "plan": plan,
                    "purpose": purpose,
                    "mechanisms": [mechanism.as_data() for mechanism in mechanisms],
                    "valid_seconds": valid_for.total_seconds(),
                },
            )

    def extend(
        self, run: str, mechanisms: Sequence[Mechanism], limits: Sequence[Limit] = ()
    ) -> None:
        """Set more aside for an open run, as for what a crash makes it draw again.

        Raises BudgetExceeded as `reserve` does, by the windows in which the run was reserved;
        LedgerError if the run is not open, or a torn line may have been an entry of it.
        """
        if not mechanisms:
            raise LedgerError("an extension names at least one mechanism")
        body = {"run": run, "mechanisms": [mechanism.as_data() for mechanism in mechanisms]}
        with self._appending() as (file, state):
            known = state.runs.get(run)
            if known is not None:
                named = known.purpose, known.plan
                _check_room(room_for(state, mechanisms, *named, limits, known.reserved_at))
            apply(state, "extend", body, state.now)
            file.append("extend", body)

    def intent(
        self, run: str, round_number: int, mechanism: Mechanism, provenance: Provenance
    ) -> None:
        """Say, durably and before data are touched, that `mechanism` is about to run.

        Raises BudgetExceeded if the run's intents would go beyond its reservation, LedgerError if
        the reservation has expired.
        """
        body = {"run": run, "round": round_number, "mechanism": mechanism.as_data()}
        self._step("intent", {**body, "provenance": provenance.as_data()})

    def commit(self, run: str, round_number: int, attempt: int, recipients: Sequence[str]) -> None:
        """Say, durably and before they are protected, that the round's values are about to be
        released, and who will be able to open the sum. Recorded, not charged.

        The same values may be released again under a higher attempt. LedgerError for an attempt
        that is not above every earlier one of the round.
        """
        body = {"run": run, "round": round_number, "attempt": attempt}
        self._step("commit", {**body, "recipients": sorted(recipients)})

    def refund(self, run: str) -> None:
        """Give a reservation back. LedgerError if the run has any intent or is not open."""
        self._step("refund", {"run": run})

    def close(self, run: str, outcome: Outcome) -> None:
        """Record how the run ended. Its intents stay spent; what it never started is free again."""
        self._step("close", {"run": run, "outcome": outcome})

    def decide(
        self, key: SigningKey, terms: DecisionTerms, *, seen: PlanDecision | None
    ) -> PlanDecision:
        """Record what a person decided about a plan, signed by `key`, the party's identity.

        `seen`: the newest decision about this plan that the person knew. Raises DecidedMeanwhile,
        writing nothing, if there is another by now; LedgerError for terms outside their bounds.
        """
        with self._appending() as (file, state):
            newest = state.decision_on(terms.plan_digest)
            if newest != seen:
                raise DecidedMeanwhile(
                    "somebody else has decided about this plan in the meantime; nothing was "
                    "changed: look at it again, then decide"
                )
            body = signed_body(
                key, terms, party=state.party, moment=file.moment, previous=state.newest
            )
            kind = "approve" if terms.approved else "refuse"
            apply(state, kind, body, file.moment)
            file.append(kind, body)
            return state.decisions[-1]

    def charge_gap(self, known: LedgerPosition) -> None:
        """Charge what `known`, a place in this ledger's lost part, had charged and this file lacks.

        Never charges too little as long as one node at a time wrote this ledger, by a clock that
        was right. A place that the ledger contains already is charged no second time.
        """
        with self._appending() as (file, state):
            if (known.position, known.hash) not in state.positions:
                body = gap_body(state, known)
                apply(state, "gap", body, state.now)
                file.append("gap", body)

    def state(self) -> LedgerState:
        """All that the ledger says, as of the clock's time or the newest entry's, if later."""
        return self.snapshot()[1]

    def snapshot(self) -> tuple[tuple[Entry, ...], LedgerState]:
        """Every entry, and what they add up to: of one reading, whoever else is writing."""
        chain = self._file.read()
        state = replay(chain)
        state.now = max(state.now, self._clock())
        return chain.entries, state

    def has_run(self, run: str) -> bool:
        """Whether this run id was ever used here."""
        return run in self.state().runs

    def spent(self) -> float:
        """Epsilon of everything charged, composed by PLD, at the ledger's delta."""
        state = self.state()
        return accounting.epsilon(state.charged(), state.cap_delta)

    def used(self) -> float:
        """The share of the lifetime filter that is charged. Runs stop at 1; above 1 only if a
        lower cap or a gap came later."""
        state = self.state()
        return state.cap.used(state.charged())

    def spent_by_run(self) -> dict[str, float]:
        """Each run's own epsilon at the ledger's delta. Their sum is an upper figure: `spent`
        composes all runs and is lower."""
        state = self.state()
        return {
            name: accounting.epsilon(run.charged(state.now), state.cap_delta)
            for name, run in state.runs.items()
        }

    def runs_left(
        self,
        mechanisms: Sequence[Mechanism],
        *,
        purpose: str,
        plan: str,
        limits: Sequence[Limit] = (),
    ) -> int:
        """How many more runs that cost `mechanisms` each would be granted now, one after another.

        Exact if each uses all that it reserves; a run that ends early leaves room for more.
        """
        state = self.state()

        def fits(runs: int) -> bool:
            return not room_for(state, [*mechanisms] * runs, purpose, plan, limits)

        return _largest(fits)

    def position(self) -> LedgerPosition:
        """The newest entry's place, and what is charged there."""
        chain = self._file.read()
        state = replay(chain)
        return LedgerPosition(
            state.position, chain.head.hash, state.now, accounting.rdp(state.charged())
        )

    def contains(self, position: int, digest: str) -> bool:
        """Whether the entry with this hash is at this place, or a gap was charged for it."""
        return (position, digest) in self.state().positions

    def refunds_since(self, moment: datetime) -> int:
        """How many reservations were given back at or after `moment` (with its zone)."""
        entries = self._file.read().entries
        return sum(one.kind == "refund" and one.time >= moment for one in entries)

    def entries(self) -> tuple[Entry, ...]:
        """All entries, oldest first, each verified."""
        return self._file.read().entries

    def head(self) -> Head:
        """The newest entry's number and hash. Kept elsewhere, it makes a cut visible."""
        return self._file.read().head

    def verify(self, known: Head | None = None, public: bytes | None = None) -> Head:
        """Check every byte and every step; LedgerError names the line. Returns the head.

        With the party's `public` key, the signature of every decision about a plan, too.

        Whole lines cut from the end show only against a head `known` from elsewhere.
        """
        head = self._file.verify(known)
        decisions = self.state().decisions
        if public is not None:
            check_signatures(public, decisions)
        return head

    def _step(self, kind: str, body: Mapping[str, Any]) -> None:
        with self._appending() as (file, state):
            apply(state, kind, body, state.now)
            file.append(kind, body)

    @contextmanager
    def _appending(self) -> Iterator[tuple[Appender, LedgerState]]:
        with self._file.appending() as file:
            state = replay(file.chain)
            if file.chain.torn:
                state.newest = file.seal_torn(salvage(file.chain.torn)).hash
                state.position += 1
            # A clock that is behind the newest entry fails at the append; until then, the entry
            # decides what has expired.
            state.now = max(state.now, file.moment)
            yield file, state


def _check_room(full: str) -> None:
    if full:
        raise BudgetExceeded(
            f"this run would pass the party's {full}; ask for less, or let the party's "
            "operator decide about its budget"
        )


def _cap_body(cap: Cap) -> dict[str, Any]:
    return {"cap_epsilon": cap.epsilon, "cap_delta": cap.delta, "order": cap.order}


def _largest(fits: Callable[[int], bool], most: int = 10_000) -> int:
    """The largest number that fits, at most `most`: doubling, then halving."""
    high = 1
    while high <= most and fits(high):
        high *= 2
    low, high = high // 2, min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
