"""One party's ledger: what was allowed, what was reserved, what ran. The budget's hard stop.

    open      party, unit of privacy, adjacency, the lifetime cap (epsilon at delta), code version
    amend     the operator set another cap; the ledger shows who was promised what, and when
    reserve   a run's mechanisms, before anything else; refused if the cap would be passed
    refund    gives a reservation back, only while its run has no intent
    intent    written before a mechanism touches data; from here on nothing is refunded
    commit    the round's bytes left the party
    close     the run's outcome
    torn      seals a line that a crash interrupted (`privacy.hash_chain`)

Spend is never a stored number: it is the epsilon, composed anew at the ledger's delta, of every
mechanism that is reserved and not refunded. A reservation therefore counts wholly, whether its
run finished, failed, crashed or is still under way. Unit of privacy: one customer at one party,
add/remove adjacency.

The file holds no customer's data: mechanisms are public constants of plans.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from privacy import accounting
from privacy.errors import BudgetExceeded, LedgerError, PrivacyError
from privacy.hash_chain import TORN, Appender, Chain, Clock, Entry, HashChain, Head, utc_now
from privacy.mechanism import Mechanism, SampledGaussian, mechanism_from_data

FORMAT = 1
UNIT_OF_PRIVACY = "one customer at one party"
ADJACENCY = "add or remove one customer"
_DOMAIN = b"fedtags ledger 1"
_BODY_START = b'{"body":'  # keys are sorted, so a line begins with its body

EpsilonFunction = Callable[[Sequence[Mechanism], float], float]
Outcome = Literal["finished", "failed"]


@dataclass
class RunState:
    """What the ledger knows of one run. `touched`: its reservation can no longer be refunded."""

    purpose: str
    plan_digest: str
    mechanisms: tuple[Mechanism, ...]
    intents: list[tuple[int, Mechanism]] = field(default_factory=list)
    committed: set[int] = field(default_factory=set)
    state: Literal["reserved", "refunded", "finished", "failed", "interrupted"] = "reserved"
    touched: bool = False


@dataclass
class LedgerState:
    """What the entries add up to. `cap_epsilon` at `cap_delta` is the lifetime budget."""

    party: str
    cap_epsilon: float
    cap_delta: float
    runs: dict[str, RunState] = field(default_factory=dict)

    def charged(self) -> list[Mechanism]:
        """Every mechanism that counts as spent."""
        return [
            mechanism
            for run in self.runs.values()
            if run.state != "refunded"
            for mechanism in run.mechanisms
        ]


class Ledger:
    """The ledger in the file `path`, made by `Ledger.create`.

    Safe between threads and processes: every decision is made under an exclusive lock on a file
    read anew, so no two reservations can pass the cap together. Every method raises LedgerError
    if the file is not what was written.
    """

    def __init__(
        self,
        path: Path,
        epsilon: EpsilonFunction = accounting.epsilon,
        clock: Clock = utc_now,
    ) -> None:
        self._file = HashChain(path, _DOMAIN, clock)
        self._epsilon = epsilon

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        party: str,
        cap_epsilon: float,
        cap_delta: float,
        code_version: str,
        epsilon: EpsilonFunction = accounting.epsilon,
        clock: Clock = utc_now,
    ) -> Ledger:
        """Start a ledger (mode 0600) with its lifetime cap. An existing file is never replaced."""
        _check_cap(cap_epsilon, cap_delta)
        ledger = cls(path, epsilon, clock)
        body = {
            "format": FORMAT,
            "party": party,
            "unit_of_privacy": UNIT_OF_PRIVACY,
            "adjacency": ADJACENCY,
            "cap_epsilon": float(cap_epsilon),
            "cap_delta": float(cap_delta),
            "code_version": code_version,
        }
        ledger._file.create("open", body)
        return ledger

    def amend(self, *, cap_epsilon: float, cap_delta: float) -> None:
        """Record another lifetime cap, if it differs. A lower one than is spent stops all runs."""
        _check_cap(cap_epsilon, cap_delta)
        with self._appending() as (file, state):
            if (state.cap_epsilon, state.cap_delta) != (cap_epsilon, cap_delta):
                file.append(
                    "amend", {"cap_epsilon": float(cap_epsilon), "cap_delta": float(cap_delta)}
                )

    def reserve(
        self, run: str, *, plan_digest: str, purpose: str, mechanisms: Sequence[Mechanism]
    ) -> None:
        """Set the whole spend of `run` aside; on the disk when this returns. It does not expire.

        Raises BudgetExceeded, before anything is written, if all that is charged and this would
        pass the cap; LedgerError if the ledger knows the run already.
        """
        if not mechanisms:
            raise LedgerError("a reservation names at least one mechanism")
        with self._appending() as (file, state):
            if run in state.runs:
                raise LedgerError(f"run {run} is in the ledger already; a run id is used once")
            total = self._epsilon([*state.charged(), *mechanisms], state.cap_delta)
            if not total <= state.cap_epsilon:  # so that a NaN is refused too
                raise BudgetExceeded(
                    f"this run would bring the party's spend to epsilon {total:.4g}, above its "
                    f"lifetime budget of {state.cap_epsilon:g} at delta {state.cap_delta:g}; ask "
                    "for less, or let the party's operator decide about its budget"
                )
            file.append(
                "reserve",
                {
                    "run": run,
                    "plan_digest": plan_digest,
                    "purpose": purpose,
                    "mechanisms": [mechanism.as_data() for mechanism in mechanisms],
                },
            )

    def intent(self, run: str, round_number: int, mechanism: Mechanism) -> None:
        """Say, durably and before data are touched, that `mechanism` is about to run.

        Raises BudgetExceeded if the run's intents would go beyond its reservation.
        """
        self._step("intent", {"run": run, "round": round_number, "mechanism": mechanism.as_data()})

    def commit(self, run: str, round_number: int) -> None:
        """Say that the round's bytes were released. A round is committed once."""
        self._step("commit", {"run": run, "round": round_number})

    def refund(self, run: str) -> None:
        """Give a reservation back. LedgerError if the run has any intent or is not open."""
        self._step("refund", {"run": run})

    def close(self, run: str, outcome: Outcome) -> None:
        """Record how the run ended. What it reserved stays spent, however it ended."""
        self._step("close", {"run": run, "outcome": outcome})

    def state(self) -> LedgerState:
        """All that the ledger says, for reports."""
        return _replay(self._file.read())

    def has_run(self, run: str) -> bool:
        """Whether this run id was ever used here."""
        return run in self.state().runs

    def spent(self) -> float:
        """Epsilon of everything charged, composed, at the ledger's delta."""
        state = self.state()
        return self._epsilon(state.charged(), state.cap_delta)

    def remaining(self) -> float:
        """The cap less what is spent, at least 0. Composition is not a sum: a run whose own
        epsilon is a little above this may still fit."""
        state = self.state()
        return max(0.0, state.cap_epsilon - self._epsilon(state.charged(), state.cap_delta))

    def spent_by_run(self) -> dict[str, float]:
        """Each run's own epsilon at the ledger's delta; 0 if refunded. Their sum is an upper
        figure: `spent` composes all runs and is lower."""
        state = self.state()
        return {
            name: 0.0 if run.state == "refunded" else self._epsilon(run.mechanisms, state.cap_delta)
            for name, run in state.runs.items()
        }

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

    def verify(self, known: Head | None = None) -> Head:
        """Check every byte and every step; LedgerError names the line. Returns the head.

        Whole lines cut from the end show only against a head `known` from elsewhere.
        """
        head = self._file.verify(known)
        self.state()
        return head

    def _step(self, kind: str, body: Mapping[str, Any]) -> None:
        with self._appending() as (file, state):
            _apply(state, kind, body)
            file.append(kind, body)

    @contextmanager
    def _appending(self) -> Iterator[tuple[Appender, LedgerState]]:
        with self._file.appending() as file:
            state = _replay(file.chain)
            if file.chain.torn:
                file.seal_torn(_salvage(file.chain.torn))
            yield file, state


def _check_cap(epsilon: float, delta: float) -> None:
    if not (0 < epsilon < float("inf") and 0 < delta < 1):
        raise PrivacyError("a budget needs a finite epsilon above 0 and a delta between 0 and 1")


def _replay(chain: Chain) -> LedgerState:
    """Add the entries up. An impossible one (intent without reservation, say) names its line."""
    first = chain.entries[0]
    if first.kind != "open" or first.body.get("format") != FORMAT:
        raise LedgerError("ledger line 1: not the start of a ledger that this version can read")
    state: LedgerState | None = None
    for entry in chain.entries:
        try:
            if state is None:
                state = _opened(entry.body)
            else:
                _apply(state, entry.kind, entry.body)
        except (LedgerError, BudgetExceeded) as error:
            raise LedgerError(f"ledger line {entry.line}: {error}") from error
        except (KeyError, TypeError, ValueError, PrivacyError) as error:
            raise LedgerError(
                f"ledger line {entry.line}: its fields are not those of kind {entry.kind}"
            ) from error
    assert state is not None
    if chain.torn:
        _apply(state, TORN, _salvage(chain.torn))
    return state


def _opened(body: Mapping[str, Any]) -> LedgerState:
    epsilon, delta = float(body["cap_epsilon"]), float(body["cap_delta"])
    _check_cap(epsilon, delta)
    return LedgerState(str(body["party"]), epsilon, delta)


def _apply(state: LedgerState, kind: str, body: Mapping[str, Any]) -> None:
    """One step of the state machine; LedgerError or BudgetExceeded if it is not allowed."""
    if kind == "amend":
        _check_cap(body["cap_epsilon"], body["cap_delta"])
        state.cap_epsilon, state.cap_delta = body["cap_epsilon"], body["cap_delta"]
    elif kind == "reserve":
        if body["run"] in state.runs:
            raise LedgerError(f"run {body['run']} is reserved twice")
        state.runs[body["run"]] = RunState(
            body["purpose"], body["plan_digest"], _mechanisms(body["mechanisms"])
        )
    elif kind == TORN:
        _apply_torn(state, body)
    elif kind in ("intent", "commit", "refund", "close"):
        run = state.runs.get(body["run"])
        if run is None or run.state != "reserved":
            raise LedgerError(f"run {body['run']} has no open reservation; {kind} is not allowed")
        _apply_to_run(run, kind, body)
    else:
        raise LedgerError(f"unknown kind {kind}; it was written by a newer version of fedtags")


def _apply_to_run(run: RunState, kind: str, body: Mapping[str, Any]) -> None:
    if kind == "intent":
        mechanism = mechanism_from_data(body["mechanism"])
        asked = [*(earlier for _, earlier in run.intents), mechanism]
        if not _units(asked) <= _units(run.mechanisms):
            raise BudgetExceeded("the run asks for more than it reserved; nothing may be computed")
        run.intents.append((body["round"], mechanism))
        run.touched = True
    elif kind == "commit":
        if body["round"] in run.committed or body["round"] not in dict(run.intents):
            raise LedgerError("a commit needs an intent of its round, and happens once")
        run.committed.add(body["round"])
    elif kind == "refund":
        if run.touched:
            raise LedgerError("a run that may have touched data is never refunded")
        run.state = "refunded"
    else:
        if body["outcome"] not in ("finished", "failed"):
            raise LedgerError("an outcome is finished or failed")
        run.state = body["outcome"]


def _apply_torn(state: LedgerState, body: Mapping[str, Any]) -> None:
    """A crash interrupted a line: assume the worst of what it may have said.

    It may have been an intent, so no open reservation can be given back any more. If it was a
    reservation that can still be read, it counts as spent.
    """
    for run in state.runs.values():
        run.touched = True
    if "mechanisms" in body:
        state.runs[_interrupted_name(state, body["run"])] = RunState(
            body["purpose"],
            body["plan_digest"],
            _mechanisms(body["mechanisms"]),
            state="interrupted",
            touched=True,
        )


def _interrupted_name(state: LedgerState, run: str) -> str:
    return run if run not in state.runs else f"{run} (interrupted)"


def _salvage(fragment: bytes) -> dict[str, Any]:
    """What an interrupted line says of a reservation, if its body is whole."""
    if not fragment.startswith(_BODY_START):
        return {}
    try:
        text = fragment[len(_BODY_START) :].decode("ascii", errors="replace")
        body, _ = json.JSONDecoder().raw_decode(text)
        kept = {key: body[key] for key in ("run", "purpose", "plan_digest", "mechanisms")}
        _mechanisms(kept["mechanisms"])
    except (ValueError, KeyError, TypeError, RecursionError, PrivacyError):
        return {}
    return kept if all(isinstance(kept[key], str) for key in list(kept)[:3]) else {}


def _mechanisms(data: Sequence[Mapping[str, Any]]) -> tuple[Mechanism, ...]:
    return tuple(mechanism_from_data(one) for one in data)


def _units(mechanisms: Sequence[Mechanism]) -> Counter[Mechanism]:
    """How often each mechanism runs: a step of a sampled one is one unit."""
    units: Counter[Mechanism] = Counter()
    for mechanism in mechanisms:
        if isinstance(mechanism, SampledGaussian):
            units[mechanism.split(1)] += mechanism.steps
        else:
            units[mechanism] += 1
    return units
