"""The one-run audit's bound: the paper's figures, exact coverage, and what moves it which way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from privacy.audit import audit_scores, epsilon_lower_bound, p_value
from privacy.errors import PrivacyError

EPSILONS = st.floats(0, 10)
DELTAS = st.sampled_from([0.0, 1e-9, 1e-5, 1e-2])


def right_chance(epsilon: float) -> float:
    return 1 / (1 + math.exp(-epsilon))


@pytest.mark.parametrize(
    ("counts", "delta", "printed"),
    [
        # Steinke, Nasr, Jagielski 2023: appendix D's example; section 7, figure 11.
        ((1000, 100, 75), 1e-4, 0.673),
        ((100_000, 1510, 1439), 1e-5, 2.675),
    ],
)
def test_the_bound_is_the_one_that_the_paper_prints(
    counts: tuple[int, int, int], delta: float, printed: float
) -> None:
    # The paper rounds the one figure and cuts the other: within one unit of the last digit.
    assert abs(epsilon_lower_bound(*counts, delta, 0.95) - printed) < 1e-3


@given(st.integers(1, 400), st.data(), EPSILONS)
@settings(deadline=None)
def test_without_delta_it_is_the_binomial_tail(
    guesses: int, data: st.DataObject, epsilon: float
) -> None:
    correct = data.draw(st.integers(0, guesses))
    exact = binom.sf(correct - 1, guesses, right_chance(epsilon))
    assert p_value(guesses, guesses, correct, epsilon, 0.0) == pytest.approx(exact, rel=1e-8)


def test_all_right_has_a_closed_form() -> None:
    bound = epsilon_lower_bound(500, 300, 300, 0.0, 0.95)
    chance = 0.05 ** (1 / 300)
    assert bound == pytest.approx(math.log(chance / (1 - chance)), abs=1e-9)


def test_a_small_case_by_hand() -> None:
    # epsilon 0: Binomial(4, 1/2) is 1, 4, 6, 4, 1 sixteenths. Three or more right: 5/16. Below:
    # 6/16 over 1, 10/16 over 2, 11/16 over 3; the first is the largest.
    assert p_value(10, 4, 3, 0.0, 0.01) == pytest.approx(5 / 16 + 2 * 10 * 0.01 * 6 / 16)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("confidence", [0.95, 0.999])
def test_randomised_response_is_refuted_as_rarely_as_the_confidence_says(
    epsilon: float, confidence: float
) -> None:
    """Exact: every canary's coin comes back right with chance e^eps / (1 + e^eps), so the number
    of right guesses is binomial and the probability that the bound exceeds epsilon is a sum."""
    rows = 400
    chances = binom.pmf(np.arange(rows + 1), rows, right_chance(epsilon))
    over = [
        epsilon_lower_bound(rows, rows, correct, 0.0, confidence) > epsilon
        for correct in range(rows + 1)
    ]
    wrong = float(chances[over].sum())
    assert wrong <= 1 - confidence
    assert wrong > (1 - confidence) / 5, "the bound is so careful that it finds nothing"


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_many_canaries_of_randomised_response_come_close_to_its_epsilon(epsilon: float) -> None:
    rows = 100_000
    bound = epsilon_lower_bound(rows, rows, int(rows * right_chance(epsilon)), 0.0, 0.95)
    assert epsilon - 0.05 < bound < epsilon


@given(st.integers(1, 300), st.data(), DELTAS, st.sampled_from([0.5, 0.95, 1 - 1e-9]))
@settings(deadline=None, max_examples=60)
def test_more_right_guesses_never_lower_the_bound(
    guesses: int, data: st.DataObject, delta: float, confidence: float
) -> None:
    canaries = guesses + data.draw(st.integers(0, 500))
    correct = data.draw(st.integers(0, guesses - 1))
    fewer = epsilon_lower_bound(canaries, guesses, correct, delta, confidence)
    more = epsilon_lower_bound(canaries, guesses, correct + 1, delta, confidence)
    assert 0 <= fewer <= more + 1e-9


@given(st.integers(1, 300), st.data(), EPSILONS, DELTAS)
@settings(deadline=None)
def test_delta_and_more_canaries_make_the_guesses_less_surprising(
    guesses: int, data: st.DataObject, epsilon: float, delta: float
) -> None:
    correct = data.draw(st.integers(0, guesses))
    exact = p_value(guesses, guesses, correct, epsilon, 0.0)
    few = p_value(guesses, guesses, correct, epsilon, delta)
    many = p_value(guesses + 100, guesses, correct, epsilon, delta)
    assert 0 <= exact <= few <= many <= 1


def test_the_bound_is_refuted_and_what_lies_above_is_not() -> None:
    bound = epsilon_lower_bound(1000, 300, 260, 1e-6, 0.99)
    assert p_value(1000, 300, 260, bound, 1e-6) < 0.01
    assert p_value(1000, 300, 260, bound + 1e-6, 1e-6) >= 0.01


def test_guessing_by_coins_refutes_nothing() -> None:
    assert epsilon_lower_bound(1000, 1000, 500, 0.0, 0.95) == 0
    assert epsilon_lower_bound(1000, 0, 0, 0.0, 0.95) == 0


@pytest.mark.parametrize(
    ("counts", "epsilon", "delta"),
    [
        ((0, 0, 0), 1.0, 0.0),
        ((10, 11, 0), 1.0, 0.0),
        ((10, 5, 6), 1.0, 0.0),
        ((10, 5, -1), 1.0, 0.0),
        ((10, 5, 5), -1.0, 0.0),
        ((10, 5, 5), math.nan, 0.0),
        ((10, 5, 5), math.inf, 0.0),
        ((10, 5, 5), 1.0, -1e-9),
        ((10, 5, 5), 1.0, 1.0),
        ((10, 5, 5), 1.0, math.nan),
    ],
)
def test_values_outside_the_domain_are_refused(
    counts: tuple[int, int, int], epsilon: float, delta: float
) -> None:
    with pytest.raises(PrivacyError):
        p_value(*counts, epsilon, delta)


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_a_confidence_outside_its_range_is_refused(confidence: float) -> None:
    with pytest.raises(PrivacyError, match="confidence"):
        epsilon_lower_bound(10, 5, 5, 0.0, confidence)


def test_the_highest_scores_are_guessed_in_and_the_lowest_out() -> None:
    included = np.array([False, True] * 50)
    scores = np.where(included, 1.0, -1.0) + np.arange(100) / 1000
    found = audit_scores(scores, included, [40], 0.0, 0.95)
    assert (found.guesses, found.correct) == (40, 40)
    assert audit_scores(-scores, included, [40], 0.0, 0.95).correct == 0


def test_several_numbers_of_guesses_share_the_error() -> None:
    included = np.arange(100) < 50
    scores = np.where(included, 1.0, -1.0)
    found = audit_scores(scores, included, [10, 80], 1e-9, 0.95)
    assert found.guesses == 80
    assert found.epsilon == epsilon_lower_bound(100, 80, 80, 1e-9, 1 - 0.05 / 2)


def test_scores_that_ignore_the_coins_are_flagged_as_rarely_as_the_confidence_says() -> None:
    # With epsilon 0 true, each of 400 trials may exceed 0 with probability at most 0.05; 50 or
    # more of 400 do so with probability below 1e-8.
    rng = np.random.default_rng(0)
    flagged = sum(
        audit_scores(rng.random(200), rng.random(200) < 0.5, [20, 50, 100], 0.0, 0.95).epsilon > 0
        for _ in range(400)
    )
    assert 0 < flagged < 50


@pytest.mark.parametrize("guesses", [[], [0], [3], [102], [10, 7]])
def test_numbers_of_guesses_that_cannot_be_halved_or_are_too_many_are_refused(
    guesses: list[int],
) -> None:
    with pytest.raises(PrivacyError, match="even"):
        audit_scores(np.zeros(100), np.zeros(100, dtype=bool), guesses, 0.0, 0.95)


def test_scores_that_are_not_finite_are_refused() -> None:
    scores = np.zeros(10)
    scores[3] = np.nan
    with pytest.raises(PrivacyError, match="finite"):
        audit_scores(scores, np.zeros(10, dtype=bool), [4], 0.0, 0.95)
