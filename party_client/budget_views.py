"""Ledger, budget and forecast on a terminal, and as plain data for scripts.

Text rounds a spend up and never down; JSON has every digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from party_client.ledger_words import Line, RunLine
from party_client.views import share_in_words
from privacy.accounting import epsilon
from privacy.budget import Limit
from privacy.ledger import ADJACENCY, UNIT_OF_PRIVACY
from privacy.ledger_state import LedgerState

if TYPE_CHECKING:
    from party_client.forecast import Cost, Forecast

MOST_RUNS = 10_000  # the ledger counts no further
_FILTER = (
    "The lifetime budget is a hard stop that never starts anew: a filter on the Rényi divergence "
    "at one order, fixed with the budget. It holds although each run is chosen after the last "
    "one's result."
)
_POLICY = (
    "A sub-limit's reset is policy, not mathematics: what was learned before it stays learned."
)
_PERSON = "A person here approves each plan before it runs (policy.toml: approval)."
_REST = "Requester, cohort and data are judged when it is submitted."


def ledger_view(
    lines: Sequence[Line],
    runs: Sequence[RunLine],
    provenance: Sequence[Mapping[str, Any]],
    state: LedgerState,
) -> Group:
    """Every entry under its run, then what each run is charged, then the lifetime budget."""
    parts: list[RenderableType] = []
    plans = {one.run: f" · plan {one.plan}, for {one.purpose}" for one in runs}
    for name, group in groupby(lines, key=lambda one: one.run):
        parts.append(Text.assemble((name, "bold"), plans.get(name, "")))
        table = _table("", "", "")
        for line in group:
            table.add_row(f"{line.time:%F %T}", line.what, line.status)
        parts.append(Padding(table, (0, 0, 1, 2)))
    for one in provenance:
        title = Text(f"how the {one['step']} was computed", style="bold")
        parts += [title, _provenance(one), Text()]
    parts += [_runs(runs), Text(), _lifetime(state), Text()]
    return Group(*parts, Text(_promise(state.cap_delta) + " Times are UTC."))


def budget_view(
    state: LedgerState, limits: Sequence[Limit], open_runs: Sequence[RunLine], note: str = ""
) -> Group:
    """The lifetime budget, each sub-limit with its window, and what is set aside now."""
    parts: list[RenderableType] = [_lifetime(state), Text()]
    if limits:
        table = _table("sub-limit", "for", "window", "spent>", "of>")
        for one in limit_rows(state, limits):
            numbers = (_up(one["spent"]), f"{one['epsilon']:g}")
            table.add_row(one["name"], one["applies_to"], one["window_now"], *numbers)
        parts += [table, Text(_POLICY), Text()]
    if open_runs:
        table = _table("open reservation", "set aside>", "until (UTC)")
        for run in open_runs:
            table.add_row(run.run, _up(run.epsilon), f"{run.expires:%F %T}")
        parts += [
            table,
            Text("Counted whole until it ends; then what was not used is free."),
            Text(),
        ]
    notes = [Text(one) for one in (_FILTER, _promise(state.cap_delta), note) if one]
    return Group(*parts, *notes)


def forecast_view(made: Forecast) -> Group:
    """What one run costs, how many more fit, and who refuses it."""
    terms, mechanism = made.terms, made.terms.training
    costs = [made.at_run]
    if made.at_ledger.delta != made.at_run.delta:
        costs.append(made.at_ledger)
    table = _table("epsilon", *(f"at delta {one.delta:.1e}>" for one in costs), "")
    table.add_row(
        "training",
        *(_up(one.training) for one in costs),
        f"{mechanism.steps} steps, batch {terms.rule.batch_size:,} (sample rate "
        f"{mechanism.sample_rate:.4g}), noise multiplier {mechanism.noise_multiplier:.4g}",
    )
    noise = f"noise multiplier {terms.evaluation.noise_multiplier:.4g}"
    table.add_row("evaluation", *(_up(one.evaluation) for one in costs), noise)
    if terms.weights is not None:
        noise = f"noise multiplier {terms.weights.noise_multiplier:.4g}"
        table.add_row("weights", *(_up(one.weights) for one in costs), noise)
    share = (
        f"{share_in_words(made.share)} of the lifetime budget; {share_in_words(made.used)} is used"
    )
    table.add_row("together", *(_up(one.together) for one in costs), share)
    left = _table("such runs left", ">", "within the lifetime budget" if made.rooms[1:] else "")
    for room in made.rooms:
        notes = [] if room.window == "lifetime" else [f"this {room.window}"]
        if room == made.binding and len(made.rooms) > 1:
            notes.append("refuses first")
        left.add_row(room.budget, _runs_left(room.runs_left), ", ".join(notes))
    refusals = [Text(f"refused ({one.reason}): {one}") for one in made.refusals]
    if not made.binding.runs_left:
        refusals.append(Text(f"refused (budget): no room in {made.binding.budget}"))
    head = ("plan ", (made.plan.name, "bold"), f", for {made.plan.purpose}, ")
    return Group(
        Text.assemble(*head, f"at a public size of {terms.public_size:,}"),
        Text(), table, Text(), left, Text(),
        *(refusals or [Text(f"policy.toml allows it. {_REST}")]),
        *([Text(_PERSON)] if made.person else []),
        Text(
            "The cost is an upper bound, and exactly what is charged if nothing fails. "
            + _promise(made.at_run.delta if len(costs) == 1 else None)
        ),
    )  # fmt: skip


def lifetime_json(state: LedgerState) -> dict[str, Any]:
    """The lifetime budget and what is spent of it."""
    charged = state.charged()
    return {
        "party": state.party,
        "unit_of_privacy": UNIT_OF_PRIVACY,
        "adjacency": ADJACENCY,
        "delta": state.cap_delta,
        "epsilon_budget": state.cap_epsilon,
        "filter_order": state.cap.order,
        "budget_used": state.cap.used(charged),
        "epsilon_spent": epsilon(charged, state.cap_delta),
    }


def limit_rows(state: LedgerState, limits: Sequence[Limit]) -> list[dict[str, Any]]:
    """Each sub-limit with what is spent in its window now."""
    return [
        {
            "name": one.name,
            "applies_to": _applies_to(one),
            "purpose": one.purpose,
            "plan": one.plan,
            "window": one.window,
            "window_now": _window_now(one, state),
            "epsilon": one.epsilon,
            "spent": epsilon(state.charged_under(one), state.cap_delta),
        }
        for one in limits
    ]


def forecast_json(made: Forecast) -> dict[str, Any]:
    """All of a forecast."""
    terms = made.terms
    return {
        "plan": made.plan.name,
        "purpose": made.plan.purpose,
        "unit_of_privacy": UNIT_OF_PRIVACY,
        "adjacency": ADJACENCY,
        "public_size": terms.public_size,
        "at_run_delta": _cost_json(made.at_run),
        "at_ledger_delta": _cost_json(made.at_ledger),
        "steps": terms.training.steps,
        "batch_size": terms.rule.batch_size,
        "sample_rate": terms.training.sample_rate,
        "noise_multiplier": terms.training.noise_multiplier,
        "evaluation_noise_multiplier": terms.evaluation.noise_multiplier,
        "budget_used": made.used,
        "budget_share": made.share,
        "runs_left": made.binding.runs_left,
        "runs_left_by_budget": {room.budget: room.runs_left for room in made.rooms},
        "binding": made.binding.budget,
        "refusals": [{"reason": one.reason, "message": str(one)} for one in made.refusals],
        "admitted": made.admitted,
        "needs_approval": made.person,
    }


def _cost_json(cost: Cost) -> dict[str, float]:
    return {
        "delta": cost.delta,
        "epsilon_training": cost.training,
        "epsilon_evaluation": cost.evaluation,
        "epsilon_weights": cost.weights,
        "epsilon": cost.together,
    }


def _lifetime(state: LedgerState) -> Table:
    values = lifetime_json(state)
    table = _table("", "")
    table.add_row("lifetime budget", f"epsilon {state.cap_epsilon:g}, over all runs and purposes")
    table.add_row(
        "used",
        f"{share_in_words(values['budget_used'])} (a run beyond 100 % is refused: Rényi filter, "
        f"order {state.cap.order})",
    )
    spent = f"epsilon {_up(values['epsilon_spent'])}, as if all runs had been fixed beforehand"
    table.add_row("spent", spent)
    if state.gaps:
        gaps = "1 gap" if len(state.gaps) == 1 else f"{len(state.gaps)} gaps"
        table.add_row("lost entries", f"{gaps}, charged by what other members' heads showed")
    return table


def _runs(runs: Sequence[RunLine]) -> RenderableType:
    if not runs:
        return Text("no run yet")
    table = _table("what each run is charged", "for", "epsilon>", "state")
    for run in runs:
        table.add_row(run.run, run.purpose, _up(run.epsilon), run.status)
    notes = [Text(f"{run.run}: {run.two_party}") for run in runs if run.two_party]
    return Group(table, *notes)


def _provenance(one: Mapping[str, Any]) -> Padding:
    table = _table("", "")
    for name, value in list(one.items())[1:]:
        text = ", ".join(value) if isinstance(value, list) else str(value)
        table.add_row(name.replace("_", " "), text)
    return Padding(table, (0, 0, 0, 2))


def _applies_to(limit: Limit) -> str:
    parts = [f"purpose {limit.purpose}"] if limit.purpose else []
    parts += [f"plan {limit.plan}"] if limit.plan else []
    return ", ".join(parts) or "all runs"


def _window_now(limit: Limit, state: LedgerState) -> str:
    now = state.now
    names = {
        "lifetime": "lifetime",
        "year": f"{now:%Y}",
        "quarter": f"{now:%Y} Q{(now.month + 2) // 3}",
        "month": f"{now:%Y-%m}",
    }
    return names[limit.window]


def _promise(delta: float | None) -> str:
    at = "" if delta is None else f", at delta {delta:.1e}"
    return f"Every epsilon is for one customer at this party, added or removed{at}."


def _runs_left(number: int) -> str:
    return f"{number:,}" + (" or more" if number >= MOST_RUNS else "")


def _up(value: float) -> str:
    return f"{math.ceil(value * 1000 - 1e-9) / 1000:.3f}"


def _table(*headings: str) -> Table:
    """Columns that fold rather than cut; a heading that ends with > is of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(headings))
    for number, heading in enumerate(headings):
        right = heading.endswith(">")
        table.add_column(
            heading.removesuffix(">"),
            justify="right" if right else "left",
            no_wrap=right or (number == 0 and not any(headings)),
            overflow="fold",
        )
    return table
