"""Labels: which day counts for which class, and that shipped plans are not one model twice."""

from __future__ import annotations

from datetime import date
from itertools import combinations
from pathlib import Path

import duckdb
import pytest

from models.plan import Task, parse_plan, read_plan
from models.tasks import complementary, label_sql, require_labels_known
from privacy.errors import PlanError

PLANS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
CUTOFF = date(2024, 7, 1)


def labels(task: Task, events: list[tuple[str, str, int, str | None]]) -> dict[str, int]:
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE events (customer VARCHAR, time TIMESTAMP, amount_cents BIGINT, "
        "type VARCHAR, category VARCHAR)"
    )
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, NULL, ?)", events)
    return dict(connection.execute(label_sql(task, CUTOFF)).fetchall())


EVENTS: list[tuple[str, str, int, str | None]] = [
    ("at-cutoff", "2024-06-30 23:59:59", 1, "toys"),
    ("at-cutoff", "2024-07-01 00:00:00", 1, "toys"),
    ("last-second", "2024-06-01 00:00:00", 1, "toys"),
    ("last-second", "2024-07-30 23:59:59", 1, "it's"),
    ("too-late", "2024-06-01 00:00:00", 1, None),
    ("too-late", "2024-07-31 00:00:00", 1, None),
    ("only-returned", "2024-06-01 00:00:00", 1, None),
    ("only-returned", "2024-07-10 00:00:00", -1, None),
    ("not-eligible", "2023-12-01 00:00:00", 1, None),
    ("not-eligible", "2024-07-10 00:00:00", 1, None),
]


def test_the_label_window_starts_at_the_cutoff_and_ends_before_the_horizon() -> None:
    propensity = Task(kind="propensity", horizon_days=30, cutoff=CUTOFF)
    expected = {"at-cutoff": 1, "last-second": 1, "too-late": 0, "only-returned": 0}
    assert labels(propensity, EVENTS) == expected
    churn = Task(kind="churn", horizon_days=30, cutoff=CUTOFF)
    assert labels(churn, EVENTS) == {name: 1 - label for name, label in expected.items()}


def test_propensity_may_ask_for_one_category_and_quotes_it() -> None:
    task = Task(kind="propensity", horizon_days=30, cutoff=CUTOFF, category="it's")
    found = labels(task, EVENTS)
    assert found["last-second"] == 1
    assert found["at-cutoff"] == 0


def test_a_label_column_is_not_derived_from_events() -> None:
    with pytest.raises(PlanError, match="feature table"):
        label_sql(Task(kind="label", label="bad"), CUTOFF)


def test_shipped_churn_and_propensity_plans_are_not_complementary() -> None:
    plans = [read_plan(path)[0] for path in sorted(PLANS.glob("*.toml"))]
    assert {plan.task.kind for plan in plans} >= {"churn", "propensity"}
    for first, second in combinations(plans, 2):
        if set(first.cohort.parties) == set(second.cohort.parties):
            assert not complementary(first.task, second.task), (first.name, second.name)


def test_one_horizon_makes_churn_and_propensity_complementary() -> None:
    churn = Task(kind="churn", horizon_days=30, cutoff=CUTOFF)
    propensity = Task(kind="propensity", horizon_days=30, cutoff=CUTOFF)
    assert complementary(churn, propensity)
    assert complementary(propensity, churn)
    assert not complementary(churn, churn)
    assert not complementary(churn, propensity.model_copy(update={"horizon_days": 60}))
    assert not complementary(churn, propensity.model_copy(update={"category": "toys"}))


def test_a_label_window_that_has_not_ended_is_refused() -> None:
    plan = parse_plan(
        b'format = 1\nname = "p"\npurpose = "x"\nprivacy = { epsilon = 1.0 }\n'
        b'task = { kind = "churn", horizon_days = 30, cutoff = 2024-07-01 }\n'
    )
    require_labels_known(plan, "bank", date(2024, 7, 30))
    with pytest.raises(PlanError, match="still to come"):
        require_labels_known(plan, "bank", date(2024, 7, 29))
