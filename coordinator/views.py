"""How runs look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from coordinator.api_models import RunDetail, RunView
from coordinator.membership import preflight_refusals

TWO_PARTY = (
    "a sum of this run was made of two parties: each of them can take its own part off and knows "
    "the other's noised update; there only differential privacy protects it"
)


def run_table(runs: Sequence[RunView]) -> Table:
    """One line a run."""
    table = Table("run", "state", "phase", "started (UTC)", "reason", box=None)
    for run in runs:
        table.add_row(
            run.run_id,
            run.state,
            progress_text(run),
            f"{run.created_at:%F %R}",
            f"{run.error} ({run.exit_code})" if run.error else "",
        )
    return table


def run_summary(run: RunDetail) -> Table:
    """A run: where it is, who left, its released figures, bytes and seconds."""
    table = Table(box=None, show_header=False)
    table.add_row("run", run.run_id)
    table.add_row("plan", f"{run.plan_name} {run.plan_digest[:16]}")
    table.add_row("state", state_text(run))
    for text in [*membership_lines(run), *outcome_lines(run.outcome or {})]:
        table.add_row("note", text)
    for name, value in sorted(run.metrics.items()):
        table.add_row(f"{name} (noised)", f"{value:.3f}")
    up = sum(sum(item.bytes_up.values()) for item in run.exchanges)
    down = sum(sum(item.bytes_down.values()) for item in run.exchanges)
    table.add_row("bytes up / down", f"{up:,} / {down:,}")
    if run.started_at and run.ended_at:
        table.add_row("seconds", f"{(run.ended_at - run.started_at).total_seconds():.1f}")
    return table


def progress_text(run: RunView) -> str:
    """Where a run is, such as 'round 3 of 8'."""
    if run.state == "paused" and run.pause_until is not None:
        return f"waits for {', '.join(run.waiting_for)} until {run.pause_until:%R} UTC"
    if run.phase == "round" and run.round is not None:
        return f"round {run.round} of {run.total_rounds}"
    return run.phase or ""


def state_text(run: RunView) -> str:
    """A run's state in one line; of a paused one, what ends the pause."""
    if run.state == "paused" and run.pause_until is not None:
        return (
            f"paused: waits for {', '.join(run.waiting_for)}, at most until "
            f"{run.pause_until:%R} UTC; it goes on by itself when enough parties are back"
        )
    if run.message is not None:
        return f"{run.state}: {run.message}"
    return f"{run.state}, {progress_text(run)}" if run.active and run.phase else run.state


def membership_lines(run: RunDetail) -> list[str]:
    """Who left and who came back, a line each."""
    how = {"left": "did not answer", "refused": "refused and is out", "returned": "came back"}
    lines = []
    for one in run.membership:
        where = f"round {one.round}" if one.round is not None else one.phase
        lines.append(f"{one.party} {how.get(one.event, one.event)} ({where}, {one.at:%R} UTC)")
    return lines


def outcome_lines(outcome: Mapping[str, Any]) -> list[str]:
    """What a reader of a finished run must know of its parties (a stored `RunOutcome`)."""
    lines = preflight_refusals(outcome.get("refused") or {})
    if outcome.get("unpublished"):
        names = ", ".join(outcome["unpublished"])
        lines.append(f"{names} did not confirm that tags were published there")
    if outcome.get("two_party"):
        lines.append(TWO_PARTY)
    return lines


def progress_fraction(run: RunView) -> float:
    """How far a run is, from 0 to 1: every phase and every round counts alike."""
    if run.state == "finished":
        return 1.0
    rounds = run.total_rounds or 1
    before = {"preflight": 0, "keys": 1, "weights": 1, "round": 2, "evaluation": 2 + rounds}
    if run.phase in ("round", "pause", "keys", "weights") and run.round is not None:
        done = 1 + run.round  # a pause, or keys for a party that is back, belongs to its round
    else:
        done = before.get(run.phase or "preflight", 3 + rounds)
    return done / (4 + rounds)
