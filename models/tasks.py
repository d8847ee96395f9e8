"""Tasks: how a label follows from the events after the cut-off.

Both labels come from one window, [cut-off, cut-off + horizon): churn is no purchase in it,
propensity is at least one (in the plan's category, if it names one). At one horizon the two are
one model with its sign turned, which is why the shipped plans differ in horizon.
"""

from __future__ import annotations

from datetime import date, timedelta

from models.catalogue import IS_RETURN
from models.plan import Plan, Task
from privacy.errors import PlanError


def label_window(task: Task, cutoff: date) -> tuple[date, date]:
    """First day of the label window and the first day after it."""
    return cutoff, cutoff + timedelta(days=task.horizon_days)


def label_sql(task: Task, cutoff: date, events: str = "events") -> str:
    """DuckDB SQL: `customer` and `label` (0 or 1) for each customer who is eligible at `cutoff`.

    Eligible: a purchase in the `eligible_days` before the cut-off. `events` is as for
    `feature_sql`. A label depends on its customer's events only. Raises PlanError for a task whose
    label is a column of a feature table.
    """
    if task.kind == "label":
        raise PlanError("task.kind 'label' takes its label from a feature table, not from events")
    first, end = label_window(task, cutoff)
    oldest = cutoff - timedelta(days=task.eligible_days)
    wanted = f"time >= {_timestamp(first)} AND time < {_timestamp(end)}"
    if task.category is not None:
        wanted += f" AND category = {text_literal(task.category)}"
    bought = f"count(*) FILTER ({wanted}) > 0"
    label = f"NOT ({bought})" if task.kind == "churn" else bought
    return f"""
SELECT customer, CAST({label} AS INTEGER) AS label
FROM {events}
WHERE NOT {IS_RETURN}
GROUP BY customer
HAVING count(*) FILTER (time >= {_timestamp(oldest)} AND time < {_timestamp(cutoff)}) > 0
"""


def complementary(first: Task, second: Task) -> bool:
    """True when the two tasks are one model with its sign turned: one horizon, opposite labels."""
    return (
        {first.kind, second.kind} == {"churn", "propensity"}
        and first.horizon_days == second.horizon_days
        and first.category is None
        and second.category is None
    )


def require_labels_known(plan: Plan, party: str, today: date) -> None:
    """Raise PlanError when the label window at `party` has not ended by `today` (UTC)."""
    if plan.task.kind == "label":
        return
    _, end = label_window(plan.task, plan.task.cutoff_of(party))
    if end > today + timedelta(days=1):
        raise PlanError(
            f"the label window of this plan ends on {end.isoformat()}, which is still to come: "
            "choose an earlier task.cutoff or a shorter task.horizon_days"
        )


def text_literal(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _timestamp(day: date) -> str:
    return f"TIMESTAMP '{day.isoformat()} 00:00:00'"
