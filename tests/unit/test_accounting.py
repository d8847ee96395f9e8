"""Accounting against independent ones, and calibration from the private side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from dp_accounting.pld import pld_privacy_accountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from privacy.accounting import (
    GRID,
    MIN_NOISE_MULTIPLIER,
    ORDERS,
    calibrate_release,
    calibrate_training,
    epsilon,
    rdp,
    rdp_epsilon,
    run_delta,
)
from privacy.errors import PrivacyError
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian, Unrecorded

# Noise multiplier, sample rate, steps: from one release of everything to many small batches.
SHAPES = [(1.5, 1.0, 1), (5.0, 0.4, 120), (4.0, 0.15, 300), (2.0, 0.1, 100), (1.0, 0.01, 1000)]


def exact_gaussian_epsilon(sigma: float, delta: float) -> float:
    """Balle & Wang 2018, theorem 8: the exact curve of the Gaussian mechanism."""

    def excess(eps: float) -> float:
        a, b = 1 / (2 * sigma), eps * sigma
        return float(norm.cdf(a - b) - math.exp(eps) * norm.cdf(-a - b)) - delta

    return float(brentq(excess, 0, 50))


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("sigma", [0.8, 2.0, 6.0, 20.0])
def test_gaussian_epsilon_agrees_with_the_closed_form_from_above(
    sigma: float, delta: float
) -> None:
    exact = exact_gaussian_epsilon(sigma, delta)
    assert exact <= epsilon([Gaussian(sigma)], delta) <= exact * 1.01 + 1e-3


@pytest.mark.parametrize("count", [2, 9, 52])
def test_composition_of_gaussians_is_one_gaussian(count: int) -> None:
    exact = exact_gaussian_epsilon(6 / math.sqrt(count), 1e-5)
    assert exact <= epsilon([Gaussian(6.0)] * count, 1e-5) <= exact * 1.01 + 1e-3


def test_gaussians_of_any_noise_compose_to_one_gaussian() -> None:
    sigmas = [3.0, 5.0, 8.0, 13.0]
    exact = exact_gaussian_epsilon(sum(one**-2 for one in sigmas) ** -0.5, 1e-6)
    assert exact <= epsilon([Gaussian(one) for one in sigmas], 1e-6) <= exact * 1.01 + 1e-3


def test_rounds_compose_to_the_run() -> None:
    whole = SampledGaussian(0.1, 3.0, 80)
    assert epsilon([whole.split(10)] * 8, 1e-6) == epsilon([whole], 1e-6)
    assert rdp([whole.split(10)] * 8) == rdp([whole])


def test_order_does_not_matter() -> None:
    parts = [SampledGaussian(0.1, 3.0, 10), Gaussian(4.0), SampledGaussian(0.2, 5.0, 3)]
    assert epsilon(parts, 1e-6) == epsilon(parts[::-1], 1e-6)
    assert rdp(parts) == rdp(parts[::-1])


@pytest.mark.parametrize(("sigma", "rate", "steps"), SHAPES[1:])
def test_epsilon_agrees_with_opacus_prv(sigma: float, rate: float, steps: int) -> None:
    from opacus.accountants import PRVAccountant

    other = PRVAccountant()
    other.history = [(sigma, rate, steps)]
    ours = epsilon([SampledGaussian(rate, sigma, steps)], 1e-5)
    # PRV states an upper bound that is its estimate plus an error of 0.01.
    assert other.get_epsilon(1e-5) - 0.02 <= ours <= other.get_epsilon(1e-5)


def test_epsilon_of_a_whole_run_agrees_with_opacus_prv() -> None:
    from opacus.accountants import PRVAccountant

    other = PRVAccountant()
    other.history = [(5.0, 0.4, 120), (2.0, 0.1, 100), (4.0, 1.0, 1)]
    run = [SampledGaussian(0.4, 5.0, 120), SampledGaussian(0.1, 2.0, 100), Gaussian(4.0)]
    assert epsilon(run, 1e-6) == pytest.approx(other.get_epsilon(1e-6), abs=0.02)


# The Renyi cross-check ---------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "rate", "steps"), SHAPES)
def test_the_rdp_curve_agrees_with_that_of_opacus(sigma: float, rate: float, steps: int) -> None:
    from opacus.accountants.analysis.rdp import compute_rdp

    theirs = compute_rdp(q=rate, noise_multiplier=sigma, steps=steps, orders=list(ORDERS))
    assert rdp([SampledGaussian(rate, sigma, steps)]) == pytest.approx(list(theirs), rel=1e-9)


def test_the_rdp_curve_of_a_gaussian_is_a_line() -> None:
    curve = rdp([Gaussian(3.0), Gaussian(3.0)])
    assert curve == pytest.approx([order / 9 for order in ORDERS], rel=1e-12)
    assert rdp([]) == (0.0,) * len(ORDERS)


SIGMAS = st.floats(1, 20)
MECHANISMS: st.SearchStrategy[Mechanism] = st.one_of(
    st.builds(SampledGaussian, st.floats(0.01, 1), SIGMAS, st.integers(1, 200)),
    st.builds(Gaussian, SIGMAS),
)


@given(mechanisms=st.lists(MECHANISMS, min_size=1, max_size=3), delta=st.sampled_from([1e-4, 1e-7]))
@settings(max_examples=8, deadline=None)
def test_rdp_is_never_below_pld(mechanisms: Sequence[Mechanism], delta: float) -> None:
    assert rdp_epsilon(mechanisms, delta) >= epsilon(mechanisms, delta) - 1e-3


@pytest.mark.parametrize(("sigma", "rate", "steps"), SHAPES[:3])
def test_where_pld_has_no_value_rdp_answers(sigma: float, rate: float, steps: int) -> None:
    mechanism = SampledGaussian(rate, sigma, steps)
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=GRID)
    accountant.compose(mechanism.event())
    assert accountant.get_epsilon(1e-18) == math.inf
    told = epsilon([mechanism], 1e-18)
    assert told == rdp_epsilon([mechanism], 1e-18)
    assert epsilon([mechanism], 1e-9) < told < math.inf


def test_what_a_ledger_lost_is_composed_by_its_curve() -> None:
    run: list[Mechanism] = [SampledGaussian(0.4, 5.0, 120), Gaussian(5.0)]
    lost = Unrecorded(rdp(run))
    assert epsilon([lost], 1e-6) == rdp_epsilon(run, 1e-6) > epsilon(run, 1e-6)
    assert epsilon([lost, *run], 1e-6) == pytest.approx(rdp_epsilon([*run, *run], 1e-6), rel=1e-12)
    with pytest.raises(PrivacyError, match="one for each order"):
        epsilon([Unrecorded((0.1, 0.2))], 1e-6)


def test_nothing_costs_nothing() -> None:
    assert epsilon([], 1e-5) == rdp_epsilon([], 1e-5) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_impossible_delta_is_refused(delta: float) -> None:
    for judge in (epsilon, rdp_epsilon):
        with pytest.raises(PrivacyError, match="delta"):
            judge([Gaussian(1.0)], delta)


# Calibration -------------------------------------------------------------------------------------


@given(
    target=st.floats(0.05, 3),
    delta=st.sampled_from([1e-4, 1e-6, 1e-8]),
    rate=st.floats(0.01, 1),
    steps=st.integers(1, 300),
)
@settings(max_examples=6, deadline=None)
def test_calibration_rounds_to_the_private_side(
    target: float, delta: float, rate: float, steps: int
) -> None:
    sigma = calibrate_training(target, delta, rate, steps)
    spent = epsilon([SampledGaussian(rate, sigma, steps)], delta)
    assert spent <= target
    assert spent >= 0.998 * target or sigma == MIN_NOISE_MULTIPLIER


@pytest.mark.parametrize("target", [0.05, 1.0, 3.0])
def test_a_calibrated_release_has_the_noise_of_the_closed_form(target: float) -> None:
    sigma = calibrate_release(target, 1e-5)
    assert 0.998 * target <= epsilon([Gaussian(sigma)], 1e-5) <= target
    assert exact_gaussian_epsilon(sigma, 1e-5) <= target
    assert exact_gaussian_epsilon(0.98 * sigma, 1e-5) > target


def test_calibration_works_at_a_delta_where_pld_has_no_value() -> None:
    sigma = calibrate_training(1.0, 1e-20, 0.1, 100)
    assert 0.998 <= rdp_epsilon([SampledGaussian(0.1, sigma, 100)], 1e-20) <= 1.0


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_impossible_epsilon_is_refused(target: float) -> None:
    with pytest.raises(PrivacyError):
        calibrate_release(target, 1e-5)
    with pytest.raises(PrivacyError):
        calibrate_training(target, 1e-5, 0.1, 10)


def test_delta_never_exceeds_a_tenth_of_one_over_the_public_size() -> None:
    assert run_delta(1000) == 1e-4
    assert run_delta(1000, 1e-3) == 1e-4
    assert run_delta(1000, 1e-7) == 1e-7


@pytest.mark.parametrize(("target", "delta"), [(0.01, 0.1), (0.1, 0.05), (0.05, 0.009)])
def test_a_delta_that_covers_the_first_guess_by_itself_does_not_end_the_search(
    target: float, delta: float
) -> None:
    sigma = calibrate_release(target, delta)
    assert target * 0.998 <= epsilon([Gaussian(sigma)], delta) <= target


def test_an_epsilon_that_no_noise_reaches_is_refused_by_name() -> None:
    with pytest.raises(PrivacyError, match="no noise multiplier"):
        calibrate_release(0.001, 0.1)
