"""A ledger in plain words: what each entry says, what each run is charged, and how it stands.

Pure: from verified entries and their state to values that a table or JSON shows. Every epsilon is
for one customer at one party, add/remove adjacency, at the ledger's delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from privacy.accounting import epsilon
from privacy.errors import ConfigError, LedgerError
from privacy.hash_chain import TORN, Entry
from privacy.ledger_decisions import KINDS as DECISIONS
from privacy.ledger_decisions import PlanDecision
from privacy.ledger_state import EVALUATION_ROUND, WEIGHTS_ROUND, LedgerState, RunState
from privacy.mechanism import Mechanism, SampledGaussian, mechanism_from_data

_STEPS = {EVALUATION_ROUND: "evaluation", WEIGHTS_ROUND: "weights"}
LEDGER = "ledger"  # stands in for a run's name where an entry is about the ledger itself
PLANS = "plans"  # and here where it is a person's decision about a plan


# What a party is told wherever a run is shown of which a sum had two participants.
TWO_PARTY = (
    "a sum of two parties gives each the other's noised update: only differential privacy "
    "protects it from the other party"
)


@dataclass(frozen=True)
class Line:
    """One entry. `line`: its number in the file; `status`: what became of what it charges."""

    line: int
    time: datetime
    run: str
    what: str
    status: str


@dataclass(frozen=True)
class RunLine:
    """One run. `epsilon`: its own, of what it is charged. `expires`: of an open reservation.
    `two_party`: what it means that a sum of it had two participants; None if none had."""

    run: str
    plan: str
    plan_digest: str
    purpose: str
    epsilon: float
    status: str
    reserved_at: datetime
    expires: datetime | None
    two_party: str | None


def lines(entries: Sequence[Entry], state: LedgerState, public: bytes | None = None) -> list[Line]:
    """Every entry, oldest first; the first commit of what an intent drew is that intent's status,
    and a later one a line of its own: the same values, sent again.

    With the party's `public` key, a decision's status says whether its signature is the party's.
    """
    found: dict[int, Line] = {}
    decisions = iter(state.decisions)
    drawn: dict[tuple[str, int], int] = {}  # the entry of the intent whose values await a commit
    for entry in entries:
        step = (str(entry.body.get("run")), entry.body.get("round", EVALUATION_ROUND))
        if entry.kind == "intent":
            drawn[step] = entry.line
        elif entry.kind == "commit" and step in drawn:
            line = drawn.pop(step)
            found[line] = replace(found[line], status="released")
            continue
        if entry.kind in DECISIONS:
            found[entry.line] = _decided(entry, next(decisions), public)
            continue
        found[entry.line] = _line(entry, state)
    return list(found.values())


def run_lines(state: LedgerState, *, only_open: bool = False) -> list[RunLine]:
    """Every run, or every one that may still compute, oldest first."""
    return [
        RunLine(
            run=name,
            plan=run.plan,
            plan_digest=run.plan_digest,
            purpose=run.purpose,
            epsilon=epsilon(run.charged(state.now), state.cap_delta),
            status=run_status(run, state.now),
            reserved_at=run.reserved_at,
            expires=run.newest + run.valid_for if run.open(state.now) else None,
            two_party=TWO_PARTY if run.two_party else None,
        )
        for name, run in state.runs.items()
        if run.open(state.now) or not only_open
    ]


def one_run(state: LedgerState, run: str) -> RunState:
    """The run of this name. Raises ConfigError if the ledger does not know it."""
    try:
        return state.runs[run]
    except KeyError as error:
        raise ConfigError(
            "--run: the ledger has no run of this name; `fedtags-party ledger show` lists them"
        ) from error


def run_status(run: RunState, now: datetime) -> str:
    """How a run stands. Charged whole: an interrupted line may have been one of its steps."""
    stands: str = run.state
    if run.state == "reserved":
        stands = "expired" if run.expired(now) else "open"
    return f"{stands}, charged whole" if run.doubtful else stands


def provenance(run: RunState) -> list[dict[str, Any]]:
    """How the run was computed and who could open what left: each kind once."""
    found: list[dict[str, Any]] = []
    for intent in run.intents:
        step = _STEPS.get(intent.round, "training")
        one = {"step": step, **intent.provenance.as_data()}
        if one not in found:
            found.append(one)
    return found


def plain(value: Line | RunLine) -> dict[str, Any]:
    """The same for scripts: times in ISO 8601, UTC."""
    return {
        key: one.astimezone(UTC).isoformat() if isinstance(one, datetime) else one
        for key, one in asdict(value).items()
    }


def decision_words(decision: PlanDecision) -> str:
    """What a person decided about a plan, and why."""
    about = f"plan {decision.plan} ({decision.plan_digest[:12]}) of requester {decision.requester}"
    if decision.valid_until is None:
        return f"{decision.person} refused {about}: {decision.reason}"
    runs = "1 run" if decision.runs == 1 else f"{decision.runs} runs"
    until = f"until {decision.valid_until:%F %T} UTC"
    return f"{decision.person} approved {runs} of {about}, {until}: {decision.reason}"


def _decided(entry: Entry, decision: PlanDecision, public: bytes | None) -> Line:
    status = ""
    if public is not None:
        try:
            decision.check_signature(public)
            status = "signed by this party"
        except LedgerError:
            status = "FORGED: not signed by this party; it admits nothing"
    return Line(entry.line, entry.time, PLANS, decision_words(decision), status)


def _line(entry: Entry, state: LedgerState) -> Line:
    name = str(entry.body.get("run", LEDGER))
    what, status = _words(entry, state, state.runs.get(name))
    return Line(entry.line, entry.time, name, what, status)


def _words(entry: Entry, state: LedgerState, run: RunState | None) -> tuple[str, str]:
    body = entry.body
    if entry.kind in ("open", "amend"):
        verb = "opened" if entry.kind == "open" else "changed by the operator"
        cap = f"epsilon {body['cap_epsilon']:g} at delta {body['cap_delta']:.1e}"
        return f"{verb}: lifetime budget {cap}, order {body['order']}", ""
    if entry.kind == "gap":
        return "lost entries, known from other parties' heads", "charged"
    if entry.kind == TORN:
        return "a write was interrupted; it may have been a step of a run that was open", "counted"
    assert run is not None  # an entry of a run follows its reservation, or the replay had failed
    if entry.kind == "reserve":
        asked = [mechanism_from_data(one) for one in body["mechanisms"]]
        return f"reserved: {_asked(asked)}", run_status(run, state.now)
    if entry.kind == "extend":
        more = [mechanism_from_data(one) for one in body["mechanisms"]]
        return f"reserved more, for what was lost and is drawn again: {_asked(more)}", ""
    if entry.kind == "intent":
        what = _intent(body["round"], mechanism_from_data(body["mechanism"]))
        stands = "under way" if run.open(state.now) else "charged, not known to have been released"
        return what, stands
    if entry.kind == "commit":
        told = ", ".join(body["recipients"])
        what = f"{_what(body['round'])}: the same values sent again, under fresh masks, for {told}"
        return what, "not charged again"
    if entry.kind == "refund":
        return "given back: no data were touched for it", "not charged"
    return f"run {body['outcome']}", ""


def _what(round_number: int) -> str:
    return _STEPS.get(round_number, f"round {round_number}")


def _intent(round_number: int, mechanism: Mechanism) -> str:
    if isinstance(mechanism, SampledGaussian):
        return f"{_what(round_number)}: {mechanism.steps} training steps"
    noised = "this party's noised size" if round_number == WEIGHTS_ROUND else "noised counts"
    return f"{_what(round_number)}: {noised}"


def _asked(mechanisms: Sequence[Mechanism]) -> str:
    steps = sum(one.steps for one in mechanisms if isinstance(one, SampledGaussian))
    others = len([one for one in mechanisms if not isinstance(one, SampledGaussian)])
    parts = [f"{steps} training steps"] if steps else []
    parts += [f"{others} release{'' if others == 1 else 's'} of noised counts"] if others else []
    return ", ".join(parts)
