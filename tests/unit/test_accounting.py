import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from privacy.accounting import calibrate_release, calibrate_training, epsilon, run_delta
from privacy.errors import PrivacyError
from privacy.mechanism import Gaussian, SampledGaussian


def exact_gaussian_epsilon(sigma: float, delta: float) -> float:
    """Balle & Wang 2018, theorem 8: the exact curve of the Gaussian mechanism."""

    def excess(eps: float) -> float:
        a, b = 1 / (2 * sigma), eps * sigma
        return float(norm.cdf(a - b) - math.exp(eps) * norm.cdf(-a - b)) - delta

    return float(brentq(excess, 0, 50))


@pytest.mark.parametrize("sigma", [0.8, 2.0, 6.0])
def test_gaussian_epsilon_agrees_with_the_closed_form_from_above(sigma: float) -> None:
    exact = exact_gaussian_epsilon(sigma, 1e-5)
    assert exact <= epsilon([Gaussian(sigma)], 1e-5) <= exact * 1.01 + 1e-3


def test_composition_of_gaussians_is_one_gaussian() -> None:
    exact = exact_gaussian_epsilon(3 / math.sqrt(9), 1e-5)
    assert epsilon([Gaussian(3.0)] * 9, 1e-5) == pytest.approx(exact, rel=0.01)


def test_rounds_compose_to_the_run() -> None:
    whole = SampledGaussian(0.1, 3.0, 80)
    assert epsilon([whole.split(10)] * 8, 1e-6) == epsilon([whole], 1e-6)


def test_order_does_not_matter() -> None:
    parts = [SampledGaussian(0.1, 3.0, 10), Gaussian(4.0), SampledGaussian(0.2, 5.0, 3)]
    assert epsilon(parts, 1e-6) == epsilon(parts[::-1], 1e-6)


def test_epsilon_agrees_with_opacus_prv() -> None:
    from opacus.accountants import PRVAccountant

    other = PRVAccountant()
    other.history = [(2.0, 0.1, 100)]
    ours = epsilon([SampledGaussian(0.1, 2.0, 100)], 1e-5)
    assert ours == pytest.approx(other.get_epsilon(1e-5), rel=0.03)


def test_nothing_costs_nothing() -> None:
    assert epsilon([], 1e-5) == 0.0


@pytest.mark.parametrize("target", [0.1, 1.0, 3.0])
def test_calibration_rounds_to_the_private_side(target: float) -> None:
    sigma = calibrate_training(target, 1e-5, 0.15, 60)
    spent = epsilon([SampledGaussian(0.15, sigma, 60)], 1e-5)
    assert 0.99 * target <= spent <= target
    release = epsilon([Gaussian(calibrate_release(target, 1e-5))], 1e-5)
    assert 0.99 * target <= release <= target


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_impossible_epsilon_is_refused(target: float) -> None:
    with pytest.raises(PrivacyError):
        calibrate_release(target, 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5])
def test_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError):
        epsilon([Gaussian(1.0)], delta)


def test_delta_never_exceeds_a_tenth_of_one_over_the_public_size() -> None:
    assert run_delta(1000) == 1e-4
    assert run_delta(1000, 1e-3) == 1e-4
    assert run_delta(1000, 1e-7) == 1e-7
