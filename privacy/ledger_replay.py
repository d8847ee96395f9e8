"""From entries to what they add up to: the ledger's state machine, without file, lock or clock.

    open      party, unit of privacy, adjacency, the lifetime cap and its order, code version
    amend     the operator set another cap; the ledger shows who was promised what, and when
    reserve   a run's mechanisms, before anything else; refused if a budget would be passed
    extend    more of them, for what a crash made a run draw again; refused in the same way
    intent    written before a mechanism touches data; from here on it is spent
    commit    the round's bytes leave the party: under which attempt, and who can open them
    close     the run ended: what it reserved and never started is free again
    refund    a reservation given back untouched
    approve   a person admits so many runs of a plan, until a day (`privacy.ledger_decisions`)
    refuse    a person refuses a plan, or takes an approval back
    gap       what peers' heads show that this file had charged and lost
    torn      seals a line that a crash interrupted (`privacy.hash_chain`)

A round may be committed again: the same values under fresh masks, for whoever is left. No attempt
of a round comes twice, and attempts only grow.

An entry that the state before it does not allow is refused, when written and when read. Budgets
are checked when a reservation is written, or extended, only: a cap may be lowered later.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from privacy import accounting
from privacy.budget import Cap
from privacy.errors import BudgetExceeded, LedgerError, PrivacyError
from privacy.hash_chain import TORN, Chain, Entry
from privacy.ledger_decisions import KINDS as DECISIONS
from privacy.ledger_decisions import read_decision
from privacy.ledger_state import Gap, Intent, LedgerState, Provenance, RunState
from privacy.mechanism import Mechanism, SampledGaussian, Unrecorded, mechanism_from_data

# Kinds were added within format 3 (approve, refuse): older files read as ever, and an older version
# of fedtags refuses a file with such an entry by the name of its kind.
FORMAT = 3
MAX_VALID_FOR = timedelta(days=366)
_BODY_START = b'{"body":'  # keys are sorted, so a line begins with its body
# The fields of entries of kind extend and reserve.
_EXTENSION = ("run", "mechanisms")
_RESERVATION = (*_EXTENSION, "purpose", "plan", "plan_digest", "valid_seconds")


def replay(chain: Chain) -> LedgerState:
    """Add the entries up. LedgerError names the line of an impossible one."""
    first = chain.entries[0]
    if first.kind != "open":
        raise LedgerError("ledger line 1: not the start of a ledger")
    if first.body.get("format") != FORMAT:
        raise LedgerError(
            f"ledger line 1: this version of fedtags reads ledgers of format {FORMAT}; use the "
            "version that wrote this one, or make a new home with fedtags-party init"
        )
    state: LedgerState | None = None
    for entry in chain.entries:
        try:
            if state is None:
                state = _opened(entry)
            else:
                apply(state, entry.kind, entry.body, entry.time)
        except (LedgerError, BudgetExceeded) as error:
            raise LedgerError(f"ledger line {entry.line}: {error}") from error
        except (KeyError, TypeError, ValueError, PrivacyError) as error:
            raise LedgerError(
                f"ledger line {entry.line}: its fields are not those of kind {entry.kind}"
            ) from error
        state.positions.add((state.position, entry.hash))
        state.newest = entry.hash
    assert state is not None
    if chain.torn:
        _apply_torn(state, salvage(chain.torn))
    return state


def apply(state: LedgerState, kind: str, body: Mapping[str, Any], time: datetime) -> None:
    """One entry written at `time`; LedgerError or BudgetExceeded if it is not allowed."""
    if kind == TORN:  # written at a time unknown, before this entry: `now` is still the one before
        _apply_torn(state, body)
    state.now = time
    state.position += 1
    if kind == "amend":
        state.cap = _cap(body)
    elif kind == "reserve":
        if body["run"] in state.runs:
            raise LedgerError(f"run {body['run']} is reserved twice")
        state.runs[body["run"]] = _reserved(body, time, state.position)
    elif kind == "gap":
        _apply_gap(state, body)
    elif kind in DECISIONS:
        state.decisions.append(
            read_decision(
                kind,
                body,
                party=state.party,
                moment=time,
                previous=state.newest,
                position=state.position,
            )
        )
    elif kind in ("extend", "intent", "commit", "refund", "close"):
        run = state.runs.get(body["run"])
        if run is None or run.state != "reserved":
            raise LedgerError(f"run {body['run']} has no open reservation; {kind} is not allowed")
        _apply_to_run(run, kind, body, time)
    elif kind != TORN:
        raise LedgerError(f"unknown kind {kind}; it was written by a newer version of fedtags")


def _opened(entry: Entry) -> LedgerState:
    return LedgerState(str(entry.body["party"]), _cap(entry.body), entry.time, position=1)


def _cap(body: Mapping[str, Any]) -> Cap:
    return Cap(float(body["cap_epsilon"]), float(body["cap_delta"]), body["order"])


def _reserved(body: Mapping[str, Any], time: datetime, position: int) -> RunState:
    mechanisms = tuple(mechanism_from_data(one) for one in body["mechanisms"])
    return RunState(
        purpose=body["purpose"],
        plan=body["plan"],
        plan_digest=body["plan_digest"],
        mechanisms=mechanisms,
        left=_units(mechanisms),
        valid_for=checked_validity(timedelta(seconds=body["valid_seconds"])),
        reserved_at=time,
        newest=time,
        position=position,
    )


def checked_validity(valid_for: timedelta) -> timedelta:
    """How long a reservation may lie still. PrivacyError outside (0, 366 days]."""
    if not timedelta(0) < valid_for <= MAX_VALID_FOR:
        raise PrivacyError(f"a reservation is valid for up to {MAX_VALID_FOR.days} days")
    return valid_for


def _apply_to_run(run: RunState, kind: str, body: Mapping[str, Any], time: datetime) -> None:
    if kind in ("extend", "intent", "commit") and run.expired(time):
        raise LedgerError("the run's reservation has expired; submit the plan again")
    if kind in ("extend", "intent") and run.doubtful:
        # What it may have begun already is not known, so nor is what is left.
        raise LedgerError("a crash interrupted this run's entries; submit the plan again")
    if kind == "extend":
        _extend(run, body)
    elif kind == "intent":
        mechanism = mechanism_from_data(body["mechanism"])
        asked = _units([mechanism])
        if not asked <= run.left:
            raise BudgetExceeded("the run asks for more than it reserved; nothing may be computed")
        provenance = Provenance.from_data(body["provenance"])
        run.intents.append(Intent(body["round"], mechanism, time, provenance))
        run.left -= asked
    elif kind == "commit":
        _commit(run, body)
    elif kind == "refund":
        if run.touched:
            raise LedgerError("a run that may have touched data is never refunded")
        run.state = "refunded"
    else:
        if body["outcome"] not in ("finished", "failed"):
            raise LedgerError("an outcome is finished or failed")
        run.state = body["outcome"]
    run.newest = time


def _extend(run: RunState, body: Mapping[str, Any]) -> None:
    more = tuple(mechanism_from_data(one) for one in body["mechanisms"])
    run.mechanisms += more
    run.left += _units(more)


def _commit(run: RunState, body: Mapping[str, Any]) -> None:
    round_number, attempt = body["round"], body["attempt"]
    if type(attempt) is not int or not all(isinstance(one, str) for one in body["recipients"]):
        raise TypeError("a commit names an attempt and its recipients")
    if round_number not in {one.round for one in run.intents}:
        raise LedgerError("a commit needs an intent of its round")
    if attempt <= run.attempts.get(round_number, 0):
        raise LedgerError("a commit needs an attempt above every earlier one of its round")
    run.attempts[round_number] = attempt
    run.two_party = run.two_party or len(body["recipients"]) <= 2


def _apply_gap(state: LedgerState, body: Mapping[str, Any]) -> None:
    known, known_hash = body["known_position"], body["known_hash"]
    if type(known) is not int or not isinstance(known_hash, str):
        raise TypeError("a gap names a position and a hash")
    spend = Unrecorded(tuple(body["rdp"]))
    if len(spend.rdp) != len(accounting.ORDERS):
        raise ValueError("a gap's curve has a value for each order")
    state.gaps.append(Gap(known, known_hash, state.now, spend))
    state.positions.add((known, known_hash))
    state.position = max(state.position, known + 1)


def _apply_torn(state: LedgerState, body: Mapping[str, Any]) -> None:
    """A crash interrupted a line: assume the worst of what it may have said.

    It may have been an intent of any run that was open then, so none of them gets anything back.
    If it was a reservation, or more for one, that can still be read, it counts as spent.
    """
    for run in state.runs.values():
        run.doubtful = run.doubtful or run.open(state.now)
    if "mechanisms" in body and "plan" not in body:
        if body["run"] in state.runs and state.runs[body["run"]].state == "reserved":
            _extend(state.runs[body["run"]], body)
    elif "mechanisms" in body:
        name, run = body["run"], _reserved(body, state.now, state.position)
        while name in state.runs:
            name += " (interrupted)"
        run.state, run.doubtful = "interrupted", True
        state.runs[name] = run


def salvage(fragment: bytes) -> dict[str, Any]:
    """What an interrupted line says of a reservation, or of more for one, if its body is whole."""
    if not fragment.startswith(_BODY_START):
        return {}
    try:
        text = fragment[len(_BODY_START) :].decode("ascii", errors="replace")
        body, _ = json.JSONDecoder().raw_decode(text)
        kept = {key: body[key] for key in (_RESERVATION if "plan" in body else _EXTENSION)}
        for one in kept["mechanisms"]:
            mechanism_from_data(one)
        if "plan" in kept:
            _reserved(kept, datetime.now(UTC), 0)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, PrivacyError):
        return {}
    texts = set(kept) - {"mechanisms", "valid_seconds"}
    return kept if all(isinstance(kept[key], str) for key in texts) else {}


def _units(mechanisms: Iterable[Mechanism]) -> Counter[Mechanism]:
    """How often each mechanism runs: a step of a sampled one is one unit."""
    units: Counter[Mechanism] = Counter()
    for mechanism in mechanisms:
        if isinstance(mechanism, SampledGaussian):
            units[mechanism.split(1)] += mechanism.steps
        else:
            units[mechanism] += 1
    return units
