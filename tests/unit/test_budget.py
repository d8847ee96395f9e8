"""The lifetime filter and the limits beneath it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from dp_accounting.rdp import compute_epsilon
from hypothesis import given
from hypothesis import strategies as st

from privacy import accounting
from privacy.budget import Cap, Limit, Window
from privacy.errors import PrivacyError
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian

EPSILONS = st.floats(0.2, 50)
DELTAS = st.floats(-12, -3).map(lambda power: 10.0**power)


@given(epsilon=EPSILONS, delta=DELTAS)
def test_the_allowance_is_what_converts_to_the_budget(epsilon: float, delta: float) -> None:
    cap = Cap.of(epsilon, delta)
    told, _ = compute_epsilon([cap.order], [cap.allowance], delta)
    assert told == pytest.approx(epsilon, rel=1e-12)


@given(epsilon=EPSILONS, delta=DELTAS)
def test_the_order_lets_the_most_gaussian_releases_pass(epsilon: float, delta: float) -> None:
    def releases(order: int) -> float:
        try:
            return Cap(epsilon, delta, order).allowance / order
        except PrivacyError:
            return 0.0

    chosen = Cap.of(epsilon, delta)
    assert chosen.allowance / chosen.order == max(releases(one) for one in accounting.ORDERS)


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0, 1e-5), (-1, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (1, 0), (1, 1), (1e-3, 1e-9)],
)
def test_a_budget_that_is_none_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(PrivacyError, match="budget"):
        Cap.of(epsilon, delta)


def run_of(
    epsilon: float, evaluation: float, delta: float, rate: float, steps: int
) -> list[Mechanism]:
    return [
        SampledGaussian(rate, accounting.calibrate_training(epsilon, delta, rate, steps), steps),
        Gaussian(accounting.calibrate_release(evaluation, delta)),
    ]


@pytest.mark.parametrize(
    ("public_size", "epsilon", "evaluation", "rate", "steps", "cap_epsilon"),
    [
        (5_000, 1.0, 1.0, 0.4, 120, 8.0),
        (5_000, 0.5, 0.2, 0.05, 500, 2.0),
        (100_000, 0.5, 0.5, 0.15, 120, 4.0),
        (1_000_000, 0.3, 0.1, 0.01, 1000, 8.0),
    ],
)
def test_the_filter_is_dearer_than_pld_by_at_most_a_tenth(
    public_size: int, epsilon: float, evaluation: float, rate: float, steps: int, cap_epsilon: float
) -> None:
    """The price of choosing plans one after another: a full filter against PLD of what is in it."""
    delta = accounting.run_delta(public_size)
    cap = Cap.of(cap_epsilon, delta)
    run = run_of(epsilon, evaluation, delta, rate, steps)
    count = math.floor(1 / cap.used(run))
    assert count >= 5
    assert cap.admits(run * count)
    assert not cap.admits(run * (count + 1))
    reached = accounting.epsilon(run * count, delta)
    at_the_order = accounting.rdp(run * count)[accounting.ORDERS.index(cap.order)]
    filtered, _ = compute_epsilon([cap.order], [at_the_order], delta)
    assert reached < filtered <= cap_epsilon
    assert filtered <= 1.1 * reached


def test_what_is_used_is_a_share_of_the_allowance() -> None:
    cap = Cap.of(4.0, 1e-6)
    half = Gaussian((cap.order / cap.allowance) ** 0.5)
    assert cap.used([]) == 0
    assert cap.used([half]) == pytest.approx(0.5)
    assert cap.used([half] * 3) == pytest.approx(1.5)
    assert not cap.admits([half] * 3)


# Limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_a_limit_without_a_finite_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(PrivacyError, match="limit marketing"):
        Limit("marketing", epsilon)


def test_a_limit_covers_what_it_names_and_all_if_it_names_nothing() -> None:
    assert Limit("all", 1.0).covers("marketing", "churn")
    marketing = Limit("m", 1.0, purpose="marketing")
    assert marketing.covers("marketing", "any")
    assert not marketing.covers("retention", "any")
    both = Limit("b", 1.0, purpose="marketing", plan="churn")
    assert both.covers("marketing", "churn")
    assert not both.covers("marketing", "propensity")
    assert not both.covers("retention", "churn")


@pytest.mark.parametrize(
    ("window", "before", "first", "last", "after"),
    [
        ("month", "2023-12-31T23:59:59", "2024-01-01", "2024-01-31T23:59:59", "2024-02-01"),
        ("quarter", "2024-03-31T23:59:59", "2024-04-01", "2024-06-30T23:59:59", "2024-07-01"),
        ("year", "2023-12-31T23:59:59", "2024-01-01", "2024-12-31T23:59:59", "2025-01-01"),
        ("year", "2022-05-01", "2023-05-01", "2023-05-02", "2024-05-01"),
        ("month", "2022-05-01", "2023-05-01", "2023-05-02", "2024-05-01"),
    ],
)
def test_windows_are_those_of_the_calendar_in_utc(
    window: Window, before: str, first: str, last: str, after: str
) -> None:
    limit = Limit("w", 1.0, window=window)
    told = [datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (before, first, last, after)]
    assert limit.same_window(told[1], told[2])
    assert not limit.same_window(told[0], told[1])
    assert not limit.same_window(told[2], told[3])
    east = told[1].astimezone(timezone(timedelta(hours=9)))
    west = told[1].astimezone(timezone(timedelta(hours=-9)))
    assert limit.same_window(east, west)
    assert Limit("w", 1.0).same_window(told[0], told[3])


def test_a_limit_admits_what_composes_to_its_epsilon() -> None:
    releases = [Gaussian(4.0)] * 5
    exactly = accounting.epsilon(releases, 1e-5)
    assert Limit("l", exactly).admits(releases, 1e-5)
    assert not Limit("l", 0.999 * exactly).admits(releases, 1e-5)
