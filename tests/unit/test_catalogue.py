"""The event catalogue: what each column holds, on logs small enough to reckon by hand."""

from __future__ import annotations

from datetime import date
from typing import Any

import duckdb
import numpy as np
import pytest
from pydantic import ValidationError

from models.catalogue import (
    EVENTS_1,
    GROUPS,
    catalogue_columns,
    columns_of,
    feature_sql,
    input_width,
)
from models.features import FeatureColumn, outside_ranges, scale, scale_number
from models.plan import parse_plan
from privacy.errors import DataError, PlanError

CUTOFF = date(2024, 7, 1)
Event = tuple[str, str, int, str | None, str | None, str | None]


def rows(events: list[Event], eligible_days: int = 180) -> dict[str, dict[str, Any]]:
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE events (customer VARCHAR, time TIMESTAMP, amount_cents BIGINT, "
        "type VARCHAR, category VARCHAR, channel VARCHAR)"
    )
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", events)
    result = connection.execute(feature_sql(CUTOFF, eligible_days))
    names = [column[0] for column in result.description]
    found = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    return {row["customer"]: row for row in found}


def test_every_column_of_a_hand_made_customer() -> None:
    row = rows(
        [
            ("a", "2023-01-01 12:00:00", 100_00, None, "books", "web"),  # age 547
            ("a", "2024-03-03 23:30:00", 30_00, None, "books", "web"),  # age 120, Sunday, night
            ("a", "2024-05-02 12:00:00", 10_00, None, "toys", "web"),  # age 60, Thursday
            ("a", "2024-05-02 13:00:00", 20_00, None, "toys", "app"),  # the same day
            ("a", "2024-06-29 09:00:00", 40_00, None, None, "app"),  # age 2, Saturday
            ("a", "2024-06-30 09:00:00", -40_00, None, None, "app"),  # a return by its sign
            ("a", "2024-06-30 10:00:00", 5_00, "refund", None, "app"),  # a return by its type
            ("a", "2024-07-01 00:00:00", 99_00, None, "cars", "web"),  # at the cut-off: not read
        ]
    )["a"]
    expected = {
        "recency_days": 2,
        "tenure_days": 547,
        "purchase_days_30": 1,
        "purchase_days_90": 2,
        "purchase_days_180": 3,
        "purchase_days_365": 3,
        "purchases_180": 4,
        "active_months_365": 3,
        "spend_30": 40,
        "spend_90": 70,
        "spend_365": 100,
        "spend_per_day_365": 100 / 3,
        "day_trend_30": 1 / 2,
        "day_trend_90": 2 / 3,
        "spend_trend_90": 0.7,
        "gap_mean_365": 59,
        "gap_deviation_365": 1,
        "overdue": 2 / 59,
        "categories_180": 2,
        "channels_180": 2,
        "night_share_365": 1 / 4,
        "weekend_share_365": 2 / 4,
        "returns_365": 2,
        "return_share_365": 2 / 6,
    }
    assert set(expected) == {column.name for column in EVENTS_1}
    assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_only_customers_with_a_purchase_in_the_eligible_days_have_a_row() -> None:
    found = rows(
        [
            ("inside", "2024-06-01 00:00:00", 100, None, None, None),
            ("outside", "2024-05-31 23:59:59", 100, None, None, None),
            ("only-returns", "2024-06-20 12:00:00", -100, None, None, None),
            ("later", "2024-07-01 00:00:00", 100, None, None, None),
        ],
        eligible_days=30,
    )
    assert set(found) == {"inside"}


def test_absent_optional_columns_become_public_constants() -> None:
    row = rows([("a", "2024-06-10 00:00:00", 100, None, None, None)])["a"]
    # A time of exactly midnight is a date without a time of day.
    for name in ("categories_180", "channels_180", "night_share_365", "gap_mean_365", "overdue"):
        assert row[name] is None, name
    raw = {
        name: np.array([value], dtype=np.float64)
        for name, value in row.items()
        if name != "customer"
    }
    scaled = dict(zip([c.name for c in EVENTS_1], scale(EVENTS_1, raw)[0].tolist(), strict=True))
    assert scaled["night_share_365"] == pytest.approx(0.1)
    assert scaled["gap_mean_365"] == 1.0
    assert scaled["categories_180"] == 0.0


def test_scaled_values_lie_in_the_unit_interval_whatever_the_log_holds() -> None:
    row = rows(
        [("a", f"2024-0{month}-10 12:00:00", 10**12, None, str(month), None) for month in (4, 5, 6)]
    )["a"]
    raw = {name: [value] for name, value in row.items() if name != "customer"}
    values = scale(EVENTS_1, raw)
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() <= 1


def test_groups_choose_columns_in_catalogue_order_and_an_unknown_group_is_refused() -> None:
    assert catalogue_columns() == EVENTS_1
    chosen = catalogue_columns(("monetary", "recency"))
    assert [column.group for column in chosen] == ["recency"] + ["monetary"] * 4
    assert {column.group for column in EVENTS_1} == set(GROUPS)
    with pytest.raises(PlanError, match="has no group 'weather'"):
        catalogue_columns(("recency", "weather"))
    with pytest.raises(PlanError, match="has no group 'weather'"):
        parse_plan(plan_with('[features]\ngroups = ["weather"]'))


def test_every_catalogue_column_says_what_it_is() -> None:
    for column in EVENTS_1:
        assert column.unit, column.name
        assert column.description, column.name
    assert len({column.name for column in EVENTS_1}) == len(EVENTS_1)


def plan_with(features: str) -> bytes:
    return f"""
format = 1
name = "p"
purpose = "x"
task = {{ kind = "churn", cutoff = 2024-01-01 }}
privacy = {{ epsilon = 1.0 }}
{features}
""".encode()


def test_both_sides_know_the_input_width_from_the_plan() -> None:
    groups = parse_plan(plan_with('[features]\ngroups = ["hours", "returns"]'))
    assert input_width(groups) == 4
    own = parse_plan(
        plan_with(
            '[features]\ncolumns = [{name = "age", high = 100.0}, '
            '{name = "plan", kind = "category", categories = ["basic", "gold"]}]'
        )
    )
    assert [column.name for column in columns_of(own)] == ["age", "plan"]
    assert input_width(own) == 3


def test_an_own_contract_scales_numbers_and_spreads_categories() -> None:
    columns = (
        FeatureColumn(name="age", low=20, high=120, missing=70),
        FeatureColumn(name="plan", kind="category", categories=("basic", "gold")),
    )
    raw = {
        "age": np.array([20.0, 500.0, np.nan]),
        "plan": np.array(["gold", "unheard-of", None], dtype=object),
    }
    assert scale(columns, raw).tolist() == [[0, 0, 1], [1, 0, 0], [0.5, 0, 0]]


def test_what_lies_outside_its_public_range_is_clamped_and_counted_by_column() -> None:
    columns = (
        FeatureColumn(name="age", low=20, high=120, missing=500),
        FeatureColumn(name="visits", high=10),
        FeatureColumn(name="plan", kind="category", categories=("basic", "gold")),
    )
    raw = {
        "age": np.array([20.0, 500.0, np.nan, -np.inf, np.inf, 19.99, 120.0]),
        "visits": np.zeros(7),
        "plan": np.array([None, "unheard-of", "gold", "gold", "gold", "gold", "gold"]),
    }
    assert outside_ranges(columns, raw) == {"age": 4}
    assert scale(columns, raw)[:, 0].tolist() == [0, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"missing": float("nan")}, "missing must be finite"),
        ({"missing": float("inf")}, "missing must be finite"),
        ({"low": -1e308, "high": 1e308}, "too far apart"),
        ({"low": 1e16, "high": 1e16 + 2, "transform": "log1p"}, "too close"),
        ({"high": float("inf")}, "both finite"),
    ],
)
def test_constants_that_would_give_no_number_are_refused(
    changes: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(ValidationError, match=wanted):
        FeatureColumn.model_validate({"name": "n"} | changes)


def test_a_missing_feature_column_is_named() -> None:
    with pytest.raises(DataError, match="'age' is missing"):
        scale((FeatureColumn(name="age"),), {})


def test_log_scaling_keeps_the_ends_of_the_public_range() -> None:
    column = FeatureColumn(name="n", high=365, transform="log1p")
    ends = scale_number(np.array([0.0, 365.0, -5.0, 1e9]), column)
    assert ends.tolist() == [0, 1, 0, 1]
