"""The demo's summary: what each party got, what it cost, what went over the wire, where it lies.

Per-party figures come from each party's own report on this machine; in a real federation nobody
sees another party's. Alone and without-DP figures are computed in process, on the same held-out
customers (`simulations.comparison`).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from coordinator.desk_views import RunDetail
from coordinator.views import membership_lines, outcome_lines
from models.plan import parse_plan
from models.training import Rows, held_out
from party_client.node import open_ledger
from party_client.policy import load_policy
from party_client.settings import PartySettings, load_settings
from party_client.sources import open_source
from party_client.views import share_in_words
from privacy.accounting import epsilon
from simulations.comparison import Figures, figures, train_alone, train_without_privacy
from simulations.demo import FinishedDemo, plan_file


def summarise(demo: FinishedDemo) -> dict[str, Any]:
    """The summary as plain data, the same as `--json` writes."""
    return {
        "federation": demo.scenario.title,
        "simulated": demo.scenario.simulated,
        "unit_of_privacy": "one customer at one party, add/remove adjacency",
        "runs": [_run(demo, run) for run in demo.runs],
        "parties": {party: _party(demo.folder / party) for party in demo.scenario.sources},
        "worst_case_epsilon_at_all_parties": _worst_case(demo),
        "seconds": {name: round(value, 1) for name, value in demo.seconds.items()},
        "folder": str(demo.folder),
        "python": platform.python_version(),
        "notes": _notes(demo),
    }


def _run(demo: FinishedDemo, run: RunDetail) -> dict[str, Any]:
    source = plan_file(run.plan_name).read_bytes()
    phases: dict[str, float] = {}
    for one in run.exchanges:
        phases[one.phase] = phases.get(one.phase, 0.0) + one.seconds
    return {
        "run": run.run_id,
        "plan": run.plan_name,
        "plan_digest": run.plan_digest,
        "released_auc": run.metrics.get("auc"),
        "released_auc_standard_error": run.metrics.get("auc_standard_error"),
        "released_calibration": run.metrics.get("calibration"),
        "seconds_by_phase": {name: round(value, 1) for name, value in phases.items()},
        "exchanges": len(run.exchanges),
        "two_party": bool((run.outcome or {}).get("two_party")),
        "notes": [*membership_lines(run), *outcome_lines(run.outcome or {})],
        "parties": {
            party: _party_in_run(demo.folder / party, run, source)
            for party in demo.scenario.sources
        },
    }


def _party_in_run(home: Path, run: RunDetail, source: bytes) -> dict[str, Any]:
    settings = load_settings(home)
    report: dict[str, Any] = json.loads((settings.reports / f"{run.run_id}.json").read_text())
    alone, open_ = _compared(settings, source)
    return {
        "customers": report["customers"],
        "consented": report["consented"],
        "eligible": report["eligible"],
        "held_out": report["held_out"],
        "rejected": report["rejected"],
        "epsilon_run": report["epsilon_run"],
        "delta": report["delta"],
        "joint": {"auc": report["joint_auc"], "lift": report["joint_lift"]},
        "alone_same_epsilon": {"auc": alone.auc, "lift": alone.lift},
        "alone_without_dp": {"auc": open_.auc, "lift": open_.lift},
        "tags_written": report["tags_written"],
        "bytes_up": sum(one.bytes_up.get(settings.party, 0) for one in run.exchanges),
        "bytes_down": sum(one.bytes_down.get(settings.party, 0) for one in run.exchanges),
    }


def _compared(settings: PartySettings, source: bytes) -> tuple[Figures, Figures]:
    """The plan's model on this party's rows alone: under the same epsilon, and without DP."""
    plan = parse_plan(source)
    with open_source(settings.source, settings.home) as opened:
        examples = opened.training_examples(plan, settings.party)
    assert examples.labels is not None
    rows = Rows(examples.features, examples.labels)
    local_key = settings.local_key.read_bytes()
    aside = held_out(examples.customer_ids, local_key, plan.evaluation.held_out)
    alone = train_alone(source, settings.public_size, rows[~aside])
    without = train_without_privacy(source, rows[~aside])
    return figures(source, alone, rows[aside]), figures(source, without, rows[aside])


def _party(home: Path) -> dict[str, Any]:
    """The party's budget, recomputed from its ledger's entries here."""
    settings = load_settings(home)
    policy = load_policy(settings.policy)
    ledger = open_ledger(settings.ledger, policy)
    ledger.verify()
    state = ledger.state()
    last = next(reversed(state.runs.values()))
    return {
        "epsilon_spent": epsilon(state.charged(), state.cap_delta),
        "budget_used": state.cap.used(state.charged()),
        "runs_left": ledger.runs_left(
            last.mechanisms, purpose=last.purpose, plan=last.plan, limits=policy.budget.limits
        ),
        "budget_epsilon": state.cap_epsilon,
        "budget_delta": state.cap_delta,
        "public_size": settings.public_size,
        "ledger": str(settings.ledger),
        "profile_store": settings.profile_store_url,
        "reports": str(settings.reports),
    }


def _worst_case(demo: FinishedDemo) -> dict[str, float]:
    """A customer at every party: all parties' events composed, at the largest of their deltas."""
    states = [
        open_ledger(settings.ledger, load_policy(settings.policy)).state()
        for settings in (load_settings(demo.folder / party) for party in demo.scenario.sources)
    ]
    delta = max(state.cap_delta for state in states)
    charged = [mechanism for state in states for mechanism in state.charged()]
    return {"epsilon": epsilon(charged, delta), "delta": delta}


def _notes(demo: FinishedDemo) -> list[str]:
    notes = [
        "All processes run under one operating-system user, so the party service's socket cannot "
        "tell its own SuperNode from another program of that user.",
        "The demo confirmed every member's fingerprint by itself and read every party's own "
        "report; in a real federation an operator confirms, and nobody sees another's report.",
    ]
    if demo.scenario.simulated:
        notes.insert(0, "The market is simulated: these figures say nothing about real customers.")
    else:
        notes.insert(
            0,
            "The shops' logs are public; whether Complete Journey (grocer) is real is disputed. "
            "The shops have no consent flags, so every customer counts as consented.",
        )
    return notes


def render(summary: Mapping[str, Any]) -> Group:
    """The summary for a terminal."""
    parts: list[Any] = []
    for run in summary["runs"]:
        parts += [Text(f"\n{run['plan']}", style="bold"), _run_table(run)]
        released = run["released_auc"]
        error = run["released_auc_standard_error"]
        shown = "lost in noise" if released is None else f"{released:.3f} ± {error or 0:.3f}"
        phases = ", ".join(f"{name} {one:.0f}" for name, one in run["seconds_by_phase"].items())
        parts.append(f"released AUC over all parties: {shown} (its noise is charged, and is the ±)")
        parts.append(f"seconds by phase: {phases}; {run['exchanges']} exchanges")
        parts += run["notes"]
    parts += [Text("\nrows rejected, and why", style="bold")]
    parts += [
        f"{party}: {_reasons(one['rejected'])}"
        for party, one in summary["runs"][-1]["parties"].items()
    ]
    parts += [Text("\nbudgets, recomputed from each ledger", style="bold")]
    parts.append("for one customer at one party, added or removed; runs left: like the last one")
    parts.append(_budget_table(summary["parties"]))
    worst = summary["worst_case_epsilon_at_all_parties"]
    parts.append(
        f"a customer who is at all parties: ε {worst['epsilon']:.3f} at δ {worst['delta']:.1e}"
    )
    parts += ["", *(f"• {note}" for note in summary["notes"])]
    parts.append(f"\neverything lies in {summary['folder']}")
    parts.append("seconds: " + ", ".join(f"{k} {v:.0f}" for k, v in summary["seconds"].items()))
    return Group(*parts)


def _run_table(run: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("party")
    for heading in (
        "customers", "consented", "eligible", "rejected rows", "ε run",
        "joint AUC (lift)", "alone, same ε", "alone, no DP", "tags", "kB up", "kB down",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for party, one in run["parties"].items():
        table.add_row(
            party,
            *(f"{one[name]:,}" for name in ("customers", "consented", "eligible")),
            f"{sum(one['rejected'].values()):,}",
            f"{one['epsilon_run']:.3f}",
            *(_figures(one[name]) for name in ("joint", "alone_same_epsilon", "alone_without_dp")),
            f"{one['tags_written']:,}",
            f"{one['bytes_up'] / 1000:,.0f}",
            f"{one['bytes_down'] / 1000:,.0f}",
        )
    return table


def _reasons(rejected: Mapping[str, int]) -> str:
    named = (f"{reason.replace('_', ' ')} {count:,}" for reason, count in rejected.items())
    return ", ".join(named) or "none"


def _figures(one: Mapping[str, float | None]) -> str:
    if one["auc"] is None:
        return "one class"
    lift = "" if one["lift"] is None else f" ({one['lift']:.1f})"
    return f"{one['auc']:.3f}{lift}"


def _budget_table(parties: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("party")
    for heading in ("N̂ (public)", "ε spent", "at δ", "budget used", "of ε", "runs left"):
        table.add_column(heading, justify="right")
    table.add_column("ledger", overflow="fold")
    for party, one in parties.items():
        table.add_row(
            party,
            f"{one['public_size']:,}",
            f"{one['epsilon_spent']:.3f}",
            f"{one['budget_delta']:.1e}",
            share_in_words(one["budget_used"]),
            f"{one['budget_epsilon']:g}",
            f"{one['runs_left']}",
            one["ledger"],
        )
    return table
