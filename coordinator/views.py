"""How runs, plans and parties look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from coordinator.desk_views import (
    Comparison,
    DryRun,
    FigureView,
    PartyView,
    PlanDiff,
    RunDetail,
    RunView,
)

TWO_PARTY = (
    "a sum of this run was made of two parties: each of them can take its own part off and knows "
    "the other's noised update; there only differential privacy protects it"
)
_UNKNOWN = "not told"


def run_table(runs: Sequence[RunView]) -> Table:
    """One line a run."""
    table = Table("run", "state", "phase", "started (UTC)", "reason", box=None)
    for run in runs:
        table.add_row(
            plain(run.run_id),
            run.state,
            plain(progress_text(run)),
            f"{run.created_at:%F %R}",
            f"{run.error} ({run.exit_code})" if run.error else "",
        )
    return table


def run_summary(run: RunDetail) -> Table:
    """A run: where it is, who left, why it failed, its released figures, bytes and seconds."""
    table = _pairs()
    table.add_row("run", plain(run.run_id))
    table.add_row("plan", plain(f"{run.plan_name} {run.plan_digest[:16]}"))
    table.add_row("state", plain(state_text(run)))
    if run.failure is not None:
        table.add_row("cause", plain(run.failure.cause))
        table.add_row("next step", plain(run.failure.next_step))
    for text in [*membership_lines(run), *outcome_lines(run.outcome or {})]:
        table.add_row("note", plain(text))
    for figure in run.figures:
        table.add_row(f"{figure.name} (noised)", figure_text(figure))
    up = sum(sum(item.bytes_up.values()) for item in run.exchanges)
    down = sum(sum(item.bytes_down.values()) for item in run.exchanges)
    table.add_row("bytes up / down", f"{up:,} / {down:,}")
    if run.seconds is not None:
        table.add_row("seconds", f"{run.seconds:.1f}")
    return table


def comparison(found: Comparison) -> RenderableType:
    """Runs side by side: one column each."""
    table = Table("", *(one.run.run_id for one in found.runs), box=None)
    names = sorted({figure.name for one in found.runs for figure in one.figures})
    table.add_row("plan", *(plain(one.run.plan_name) for one in found.runs))
    table.add_row("state", *(one.run.state for one in found.runs))
    for name in names:
        by_run = [{figure.name: figure for figure in one.figures} for one in found.runs]
        shown = [figure_text(one[name]) if name in one else "" for one in by_run]
        table.add_row(f"{name} (noised)", *shown)
    table.add_row("parties", *(plain(", ".join(one.parties)) for one in found.runs))
    table.add_row(
        "seconds", *("" if one.seconds is None else f"{one.seconds:.1f}" for one in found.runs)
    )
    table.add_row(
        "bytes up / down", *(f"{one.bytes_up:,} / {one.bytes_down:,}" for one in found.runs)
    )
    keys = list(dict.fromkeys(change.key for one in found.runs for change in one.changes))
    for key in keys:
        values = [{change.key: change for change in one.changes} for one in found.runs]
        first = next(one[key].before for one in values if key in one)
        shown = [(one[key].after if key in one else first) or "(left out)" for one in values]
        table.add_row(plain(key), *map(plain, shown))
    return table


def diff_table(found: PlanDiff) -> RenderableType:
    """What differs between two plans."""
    names = f"{found.before} ({found.before_digest[:12]}) and {found.after}"
    names += f" ({found.after_digest[:12]})"
    if not found.changes:
        return plain(f"{names} mean the same; comments or layout may differ")
    table = Table("key", "was", "is", box=None)
    for one in found.changes:
        table.add_row(*map(plain, (one.key, one.before or "", one.after or "(left out)")))
    return Group(plain(names), table)


def dry_run_table(found: DryRun) -> RenderableType:
    """What one run of a plan would cost each party."""
    table = Table(
        "party", "node", "can take part", "public size", "epsilon", "delta", "budget used, after",
        "such runs left", box=None,
    )  # fmt: skip
    for one in found.parties:
        budget = _UNKNOWN
        if one.budget_used is not None:
            after = "" if one.budget_after is None else f", {one.budget_after:.1%}"
            budget = f"{one.budget_used:.1%}{after}"
        table.add_row(
            plain(one.party),
            one.state,
            "yes" if one.can_take_part else "no",
            _UNKNOWN if one.public_size is None else f"{one.public_size:,}",
            "" if one.epsilon is None else f"{one.epsilon:.4g}",
            "" if one.delta is None else f"{one.delta:.1e}",
            budget,
            "" if one.runs_left is None else f"{one.runs_left:,}",
        )
    reasons = [plain(f"{one.party}: {one.why}") for one in found.parties if one.why]
    enough = "enough parties can take part" if found.enough else "too few parties can take part"
    head = plain(f"plan {found.name} {found.digest[:16]}: {enough}; nothing was run")
    return Group(head, table, *reasons, *map(plain, found.notes))


def party_table(parties: Sequence[PartyView]) -> Table:
    """One line a party."""
    table = Table(
        "party", "node", "fingerprint", "enrolled (UTC)", "budget used", "last seen (UTC)", box=None
    )
    for one in parties:
        table.add_row(
            plain(one.name),
            one.state,
            one.fingerprint,
            f"{one.enrolled_at:%F %R}",
            _UNKNOWN if one.budget_used is None else f"{one.budget_used:.1%}",
            "" if one.last_seen is None else f"{one.last_seen:%F %R}",
        )
    return table


def figure_text(figure: FigureView) -> str:
    """A released figure with how far its noise moves it."""
    error = "" if figure.standard_error is None else f" ± {figure.standard_error:.3f}"
    return f"{figure.value:.3f}{error}"


def plain(text: str) -> Text:
    """Text as it is: no markup, and no character that a terminal obeys."""
    return Text("".join(one if one.isprintable() else "\ufffd" for one in text))


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
    if run.state == "recovering":
        why = f": {run.interruption}" if run.interruption else ""
        return f"being started again (attempt {run.attempt}){why}"
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
    # Imported here: it knows the accountant, which takes seconds to import.
    from coordinator.membership import preflight_refusals

    lines = preflight_refusals(outcome["refused"]) if outcome.get("refused") else []
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


def _pairs() -> Table:
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
