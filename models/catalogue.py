"""The event-log catalogue `events-1`: the same columns at each party by the same versioned code.

Every range, unit and transform below is a public constant, so no statistic has to be shared. A
change to a column, a range or the SQL is a new catalogue with a new name, never an edit: a model
trained on one is not a model of the other.

Words used in the SQL: a *day* is a calendar day; `age` is the number of days from the event's day
to the cut-off (the day before the cut-off has age 1, so a window of w days is age <= w); a *return*
is an event with a negative amount or the type 'return' or 'refund'; every other event is a
*purchase*. Money is whole cents in integers: a sum of floats depends on the order in which threads
add, and then one customer's row could move when another customer's events go.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from models.features import FeatureColumn, width_of
from privacy.errors import PlanError

if TYPE_CHECKING:
    from models.plan import Plan

CATALOGUE = "events-1"
IS_RETURN = "(amount_cents < 0 OR coalesce(type IN ('return', 'refund'), false))"


def _number(
    name: str,
    group: str,
    unit: str,
    high: float,
    description: str,
    *,
    linear: bool = False,
    missing: float | None = None,
) -> FeatureColumn:
    return FeatureColumn(
        name=name,
        group=group,
        unit=unit,
        low=0.0,
        high=high,
        transform="identity" if linear else "log1p",
        missing=missing,
        description=description,
    )


EVENTS_1: tuple[FeatureColumn, ...] = (
    _number("recency_days", "recency", "days", 365, "days since the last purchase", missing=365),
    _number("tenure_days", "tenure", "days", 1095, "days since the first purchase on record"),
    _number("purchase_days_30", "frequency", "days", 30, "days with a purchase, last 30 days"),
    _number("purchase_days_90", "frequency", "days", 90, "days with a purchase, last 90 days"),
    _number("purchase_days_180", "frequency", "days", 180, "days with a purchase, last 180 days"),
    _number("purchase_days_365", "frequency", "days", 365, "days with a purchase, last 365 days"),
    _number("purchases_180", "frequency", "events", 2000, "purchases (lines), last 180 days"),
    _number(
        "active_months_365",
        "frequency",
        "30-day blocks",
        13,
        "blocks of 30 days with a purchase, last 365 days",
        linear=True,
    ),
    _number("spend_30", "monetary", "currency", 5000, "amount bought, last 30 days"),
    _number("spend_90", "monetary", "currency", 10000, "amount bought, last 90 days"),
    _number("spend_365", "monetary", "currency", 50000, "amount bought, last 365 days"),
    _number(
        "spend_per_day_365",
        "monetary",
        "currency",
        2000,
        "amount bought per day with a purchase, last 365 days",
    ),
    _number(
        "day_trend_30",
        "trend",
        "share",
        1,
        "purchase days of the last 90 that fall in the last 30",
        linear=True,
    ),
    _number(
        "day_trend_90",
        "trend",
        "share",
        1,
        "purchase days of the last 180 that fall in the last 90",
        linear=True,
    ),
    _number(
        "spend_trend_90",
        "trend",
        "share",
        1,
        "amount of the last 180 days that falls in the last 90",
        linear=True,
    ),
    _number(
        "gap_mean_365",
        "interval",
        "days",
        365,
        "mean days between purchase days, last 365 days",
        missing=365,
    ),
    _number(
        "gap_deviation_365",
        "interval",
        "days",
        180,
        "standard deviation of those gaps",
        missing=180,
    ),
    _number(
        "overdue", "interval", "ratio", 20, "days since the last purchase / mean gap", missing=1
    ),
    _number("categories_180", "diversity", "categories", 500, "categories bought, last 180 days"),
    _number(
        "channels_180", "diversity", "channels", 10, "channels used, last 180 days", linear=True
    ),
    _number(
        "night_share_365",
        "hours",
        "share",
        1,
        "purchases from 22:00 to 05:59, of those with a time of day, last 365 days",
        linear=True,
        missing=0.1,
    ),
    _number(
        "weekend_share_365",
        "hours",
        "share",
        1,
        "purchases on Saturday or Sunday, last 365 days",
        linear=True,
        missing=2 / 7,
    ),
    _number("returns_365", "returns", "events", 100, "returns (lines), last 365 days"),
    _number(
        "return_share_365",
        "returns",
        "share",
        1,
        "returns among returns and purchases, last 365 days",
        linear=True,
    ),
)
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(column.group for column in EVENTS_1))


def catalogue_columns(groups: Sequence[str] = ()) -> tuple[FeatureColumn, ...]:
    """The columns of the named groups, in catalogue order; no group named means all of them.

    Raises PlanError for a group that the catalogue does not have.
    """
    unknown = sorted(set(groups) - set(GROUPS))
    if unknown:
        raise PlanError(
            f"features.groups: {CATALOGUE} has no group {', '.join(map(repr, unknown))}; "
            f"choose from {', '.join(GROUPS)}"
        )
    return tuple(column for column in EVENTS_1 if not groups or column.group in groups)


def columns_of(plan: Plan) -> tuple[FeatureColumn, ...]:
    """The feature columns of a plan: its own contract, or the catalogue's groups."""
    return plan.features.columns or catalogue_columns(plan.features.groups)


def input_width(plan: Plan) -> int:
    """The model's input width, which both sides know from the plan alone."""
    return width_of(columns_of(plan))


def feature_sql(cutoff: date, eligible_days: int, events: str = "events") -> str:
    """DuckDB SQL: one row per customer who bought in the `eligible_days` before `cutoff`.

    `events` names a relation with customer (text), time (TIMESTAMP), amount_cents (BIGINT) and
    type, category, channel (text or NULL). The result has `customer` and every column of
    `EVENTS_1`, NULL where the column's public `missing` value applies. No event at or after the
    cut-off is read. Each row depends on its customer's events only: all grouping and all windows
    are by customer, all sums are of integers.
    """
    return f"""
WITH past AS (
    SELECT customer, category, channel, amount_cents AS cents,
           date_diff('day', CAST(time AS DATE), DATE '{cutoff.isoformat()}') AS age,
           CASE WHEN CAST(time AS TIME) = TIME '00:00:00' THEN NULL
                ELSE hour(time) >= 22 OR hour(time) < 6 END AS night,
           isodow(time) >= 6 AS weekend,
           {IS_RETURN} AS returned
    FROM {events}
    WHERE time < TIMESTAMP '{cutoff.isoformat()} 00:00:00'
),
lines AS (
    SELECT customer,
           count(*) FILTER (NOT returned AND age <= 180) AS purchases_180,
           count(*) FILTER (NOT returned AND age <= 365) AS purchases_365,
           count(*) FILTER (returned AND age <= 365) AS returns_365,
           count(*) FILTER (NOT returned AND age <= 365 AND night) AS night_365,
           count(night) FILTER (NOT returned AND age <= 365) AS timed_365,
           count(*) FILTER (NOT returned AND age <= 365 AND weekend) AS weekend_365,
           count(DISTINCT category) FILTER (NOT returned AND age <= 180) AS categories_180,
           count(DISTINCT channel) FILTER (NOT returned AND age <= 180) AS channels_180
    FROM past GROUP BY customer
),
days AS (
    SELECT customer, age, sum(cents) AS cents FROM past WHERE NOT returned GROUP BY customer, age
),
gaps AS (
    SELECT customer, count(gap) AS n, sum(gap) AS total, sum(gap * gap) AS squares
    FROM (
        SELECT customer, lag(age) OVER (PARTITION BY customer ORDER BY age DESC) - age AS gap
        FROM days WHERE age <= 365
    ) GROUP BY customer
),
windows AS (
    SELECT customer, min(age) AS recency, max(age) AS tenure,
           count(*) FILTER (age <= 30) AS days_30,
           count(*) FILTER (age <= 90) AS days_90,
           count(*) FILTER (age <= 180) AS days_180,
           count(*) FILTER (age <= 365) AS days_365,
           count(DISTINCT (age - 1) // 30) FILTER (age <= 365) AS blocks_365,
           coalesce(sum(cents) FILTER (age <= 30), 0) AS cents_30,
           coalesce(sum(cents) FILTER (age <= 90), 0) AS cents_90,
           coalesce(sum(cents) FILTER (age <= 180), 0) AS cents_180,
           coalesce(sum(cents) FILTER (age <= 365), 0) AS cents_365
    FROM days GROUP BY customer
)
SELECT w.customer,
       CAST(w.recency AS DOUBLE) AS recency_days,
       CAST(w.tenure AS DOUBLE) AS tenure_days,
       CAST(w.days_30 AS DOUBLE) AS purchase_days_30,
       CAST(w.days_90 AS DOUBLE) AS purchase_days_90,
       CAST(w.days_180 AS DOUBLE) AS purchase_days_180,
       CAST(w.days_365 AS DOUBLE) AS purchase_days_365,
       CAST(l.purchases_180 AS DOUBLE) AS purchases_180,
       CAST(w.blocks_365 AS DOUBLE) AS active_months_365,
       w.cents_30 / 100.0::DOUBLE AS spend_30,
       w.cents_90 / 100.0::DOUBLE AS spend_90,
       w.cents_365 / 100.0::DOUBLE AS spend_365,
       w.cents_365 / (100.0::DOUBLE * nullif(w.days_365, 0)) AS spend_per_day_365,
       w.days_30 / nullif(w.days_90, 0)::DOUBLE AS day_trend_30,
       w.days_90 / nullif(w.days_180, 0)::DOUBLE AS day_trend_90,
       w.cents_90 / nullif(w.cents_180, 0)::DOUBLE AS spend_trend_90,
       g.total / nullif(g.n, 0)::DOUBLE AS gap_mean_365,
       sqrt((g.squares * g.n - g.total * g.total)::DOUBLE) / nullif(g.n, 0) AS gap_deviation_365,
       w.recency * g.n / nullif(g.total, 0)::DOUBLE AS overdue,
       CAST(nullif(l.categories_180, 0) AS DOUBLE) AS categories_180,
       CAST(nullif(l.channels_180, 0) AS DOUBLE) AS channels_180,
       l.night_365 / nullif(l.timed_365, 0)::DOUBLE AS night_share_365,
       l.weekend_365 / nullif(l.purchases_365, 0)::DOUBLE AS weekend_share_365,
       CAST(l.returns_365 AS DOUBLE) AS returns_365,
       l.returns_365 / nullif(l.returns_365 + l.purchases_365, 0)::DOUBLE AS return_share_365
FROM windows w JOIN lines l USING (customer) LEFT JOIN gaps g USING (customer)
WHERE w.recency <= {int(eligible_days)}
"""
