"""How stored runs become the desk's views. A party operator's view leaves out what is told about
other parties alone: their bytes, their refusals' reasons, their ledger heads, and the error's own
words, which name parties with their reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import RowMapping

from coordinator.desk_store import DeskStore
from coordinator.desk_views import (
    ComparedRun,
    ExchangeView,
    FailureView,
    FigureView,
    MembershipView,
    ModelView,
    PartyInRun,
    PhaseView,
    RunDetail,
    RunView,
)
from coordinator.failures import explain
from coordinator.run_store import RunStore
from models.plan import Plan, parse_plan
from models.plan_diff import changes, meaning
from privacy.errors import FedtagsError

ERROR_OF = "_standard_error"  # what a figure's error is recorded under, after the figure's name
_PLANS = 512  # kept parsed: parsing one takes longer than all else about a run on a page
_STORED = (
    "run_id", "plan_name", "plan_digest", "state", "stop_requested", "resume_requested", "phase",
    "round", "total_rounds", "flower_run_id", "error", "exit_code", "message", "created_at",
    "started_at", "ended_at", "pause_until",
)  # fmt: skip


def run_view(
    row: RowMapping,
    requesters: Mapping[bytes, str],
    metrics: Mapping[str, float],
    only: str | None,
) -> RunView:
    """One run; `requesters`: names by public key; `only`: the party that the asker operates."""
    return RunView(**_head(row, requesters, metrics, only))


def run_views(
    rows: Sequence[RowMapping],
    requesters: Mapping[bytes, str],
    store: DeskStore,
    only: str | None,
) -> tuple[RunView, ...]:
    """Runs in their order, with their released figures."""
    figures = store.metrics_of([row["run_id"] for row in rows]) if rows else {}
    return tuple(run_view(row, requesters, figures[row["run_id"]], only) for row in rows)


def run_detail(
    row: RowMapping,
    requesters: Mapping[bytes, str],
    store: DeskStore,
    runs: RunStore,
    only: str | None,
) -> RunDetail:
    """One run with all that was recorded. `only`: the party that the one who asks operates."""
    run_id = row["run_id"]
    plan = _plan(row["plan_source"])
    outcome = None if row["outcome"] is None else json.loads(row["outcome"])
    metrics = store.metrics_of([run_id])[run_id]
    exchanges = [
        ExchangeView(
            phase=one.phase,
            round=one.round,
            seconds=one.seconds,
            bytes_up=_own(one.bytes_up, only),
            bytes_down=_own(one.bytes_down, only),
        )
        for one in runs.exchanges_of(run_id)
    ]
    membership = [
        MembershipView(
            party=one.party, event=one.event, phase=one.phase, round=one.round, at=one.at
        )
        for one in runs.membership_of(run_id)
    ]
    head = _head(row, requesters, metrics, only)
    members = tuple(runs.members_of(run_id))
    return RunDetail(
        **head,
        purpose="" if plan is None else plan.purpose,
        asked={} if plan is None else asked_of(plan),
        outcome=None if outcome is None else _told_to(outcome, only),
        members=members,
        parties=tuple(
            _party(name, head, plan, outcome, exchanges, membership, only) for name in members
        ),
        phases=tuple(
            PhaseView(phase=one.phase, round=one.round, started_at=one.started_at)
            for one in store.phases_of(run_id)
        ),
        exchanges=tuple(exchanges),
        membership=tuple(membership),
        figures=figures_of(metrics),
    )


def compared(
    runs: Sequence[RunView], store: DeskStore, only: str | None
) -> tuple[ComparedRun, ...]:
    """The runs as columns beside each other; plans are compared with the first one's. Bytes are
    those of all parties, or of `only`."""
    ids = [run.run_id for run in runs]
    sources, sizes = store.sources_of(ids), store.bytes_of(ids, only)
    plans = {run_id: _plan(source) for run_id, (source, _) in sources.items()}
    first = plans[ids[0]]
    columns = []
    for run in runs:
        plan, outcome = plans[run.run_id], sources[run.run_id][1]
        up, down = sizes[run.run_id]
        columns.append(
            ComparedRun(
                run=run,
                figures=figures_of(run.metrics),
                parties=tuple(json.loads(outcome)["parties"]) if outcome else (),
                seconds=run.seconds,
                bytes_up=up,
                bytes_down=down,
                changes=()
                if first is None or plan is None
                else changes(meaning(first), meaning(plan)),
            )
        )
    return tuple(columns)


def model_views(
    rows: Sequence[RunView], store: DeskStore, holders: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> tuple[ModelView, ...]:
    """The model versions of finished runs; `holders`: by run, then by the model's digest."""
    ids = [run.run_id for run in rows]
    if not ids:
        return ()
    versions, sources = store.versions(ids), store.sources_of(ids)
    views = []
    for run in rows:
        source, outcome = sources[run.run_id]
        plan, held = _plan(source), holders.get(run.run_id, {})
        views.append(
            ModelView(
                run_id=run.run_id,
                plan_name=run.plan_name,
                plan_digest=run.plan_digest,
                version=versions[run.run_id],
                made_at=run.ended_at or run.created_at,
                digests=dict(held),
                parties=tuple(json.loads(outcome)["parties"]) if outcome else (),
                figures=figures_of(run.metrics),
                task="" if plan is None else plan.task.kind,
                family="" if plan is None else plan.model.family,
            )
        )
    return tuple(views)


def figures_of(metrics: Mapping[str, float]) -> tuple[FigureView, ...]:
    """Released figures with their standard errors."""
    return tuple(
        FigureView(name=name, value=value, standard_error=metrics.get(name + ERROR_OF))
        for name, value in sorted(metrics.items())
        if not name.endswith(ERROR_OF)
    )


def asked_of(plan: Plan) -> dict[str, float]:
    """The epsilons that a plan asks for, by part."""
    asked = {"training": plan.privacy.epsilon, "evaluation": plan.privacy.evaluation_epsilon}
    if plan.aggregation.weights == "noised_size":
        asked["weights"] = plan.privacy.weights_epsilon
    return asked


def _head(
    row: RowMapping,
    requesters: Mapping[bytes, str],
    metrics: Mapping[str, float],
    only: str | None,
) -> dict[str, Any]:
    message = row["message"] if only is None else None
    failure = None
    if row["error"] is not None:
        why = explain(row["error"])
        failure = FailureView(
            error=row["error"],
            exit_code=row["exit_code"],
            message=message or "",
            cause=why.cause,
            next_step=why.next_step,
        )
    return {
        **{name: row[name] for name in _STORED},
        "message": message,
        "requester": requesters.get(row["requester_public"], "unknown"),
        "waiting_for": tuple(json.loads(row["waiting_for"] or "[]")),
        "failure": failure,
        "attempt": row.get("attempt") or 0,
        "interruption": row.get("interruption"),
        "metrics": dict(metrics),
    }


def _party(
    name: str,
    head: Mapping[str, Any],
    plan: Plan | None,
    outcome: Mapping[str, Any] | None,
    exchanges: Sequence[ExchangeView],
    membership: Sequence[MembershipView],
    only: str | None,
) -> PartyInRun:
    private = only is not None and only != name
    refused = (outcome or {}).get("refused") or {}
    last = next((one.event for one in reversed(membership) if one.party == name), None)
    if plan is not None and plan.cohort.parties and name not in plan.cohort.parties:
        status = "not asked"
    elif name in refused:
        status = "refused"
    elif outcome is not None and name in outcome.get("unpublished", ()):
        status = "unpublished"
    elif outcome is not None and name in outcome.get("parties", ()):
        status = "finished"
    elif last in ("left", "refused"):
        status = str(last)
    elif name in head["waiting_for"]:
        status = "away"
    else:
        status = "takes part" if head["phase"] else "asked"
    return PartyInRun(
        party=name,
        status=status,
        reason=None if private else refused.get(name),
        bytes_up=None if private else sum(one.bytes_up.get(name, 0) for one in exchanges),
        bytes_down=None if private else sum(one.bytes_down.get(name, 0) for one in exchanges),
        private=private,
    )


def _told_to(outcome: Mapping[str, Any], only: str | None) -> Mapping[str, Any]:
    if only is None:
        return outcome
    of_parties = ("refused", "ledger_heads")
    return {
        name: _own(value, only) if name in of_parties and value else value
        for name, value in outcome.items()
    }


def _own(by_party: Mapping[str, Any], only: str | None) -> dict[str, Any]:
    return {party: one for party, one in by_party.items() if only in (None, party)}


@lru_cache(maxsize=_PLANS)
def _plan(source: bytes) -> Plan | None:
    """A stored plan; None for one that this version cannot read any more."""
    try:
        return parse_plan(source)
    except FedtagsError:
        return None
