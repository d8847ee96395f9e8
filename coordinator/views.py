"""How runs look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from coordinator.api_models import RunDetail, RunView


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
    """A finished run: its released figures, bytes and seconds."""
    table = Table(box=None, show_header=False)
    table.add_row("run", run.run_id)
    table.add_row("plan", f"{run.plan_name} {run.plan_digest[:16]}")
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
    if run.phase == "round" and run.round is not None:
        return f"round {run.round} of {run.total_rounds}"
    return run.phase or ""


def progress_fraction(run: RunView) -> float:
    """How far a run is, from 0 to 1: every phase and every round counts alike."""
    if run.state == "finished":
        return 1.0
    rounds = run.total_rounds or 1
    before = {"preflight": 0, "keys": 1, "round": 2, "evaluation": 2 + rounds}
    done = before.get(run.phase or "preflight", 3 + rounds)
    if run.phase == "round" and run.round is not None:
        done += run.round - 1
    return done / (4 + rounds)
