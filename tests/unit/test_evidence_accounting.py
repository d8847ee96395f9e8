"""The second accountant against closed forms, and against the accountant that charges."""

import math

import pytest
from scipy.optimize import brentq
from scipy.special import ndtr

from privacy import accounting
from privacy.errors import PrivacyError
from privacy.evidence_accounting import bounds
from privacy.mechanism import Gaussian, SampledGaussian


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8: the Gaussian mechanism of sensitivity 1, exactly."""
    mean = 1 / noise_multiplier

    def excess(epsilon: float) -> float:
        first = ndtr(mean / 2 - epsilon / mean)
        return float(first - math.exp(epsilon) * ndtr(-mean / 2 - epsilon / mean) - delta)

    return float(brentq(excess, 0, 200, xtol=1e-10))


@pytest.mark.parametrize("noise", [0.7, 2.0, 11.5])
@pytest.mark.parametrize("delta", [1e-3, 1e-6, 1e-9])
def test_releases_alone_have_the_closed_form(noise: float, delta: float) -> None:
    found = bounds(delta, releases=[noise])
    assert found.lower == pytest.approx(gaussian_epsilon(noise, delta), abs=1e-5)
    assert found.lower == found.upper


def test_several_releases_compose_to_one() -> None:
    found = bounds(1e-6, releases=[3.0, 4.0])
    assert found.upper == pytest.approx(gaussian_epsilon(2.4, 1e-6), abs=1e-5)


@pytest.mark.parametrize(("noise", "steps"), [(4.0, 9), (20.0, 100), (1.0, 1)])
def test_steps_that_take_every_row_are_releases(noise: float, steps: int) -> None:
    exact = gaussian_epsilon(noise / math.sqrt(steps), 1e-5)
    found = bounds(1e-5, sample_rate=1.0, noise_multiplier=noise, steps=steps)
    assert found.lower <= exact <= found.upper
    assert found.upper - found.lower <= 0.0101


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "delta"),
    [
        (0.4, 19.3, 240, 1e-4),
        (0.01, 1.03, 1000, 1e-6),
        (0.4, 4.8, 240, 1e-8),
        (0.9, 17.6, 3, 1e-5),
        (0.001, 0.82, 50, 1e-5),
        (0.4, 38.7, 240, 1e-11),
    ],
)
def test_the_charged_epsilon_lies_within_the_bounds(
    rate: float, noise: float, steps: int, delta: float
) -> None:
    training, release = SampledGaussian(rate, noise, steps), Gaussian(9.0)
    alone = bounds(delta, sample_rate=rate, noise_multiplier=noise, steps=steps)
    both = bounds(delta, sample_rate=rate, noise_multiplier=noise, steps=steps, releases=[9.0])
    for found, mechanisms in ((alone, [training]), (both, [training, release])):
        assert found.lower < accounting.epsilon(mechanisms, delta) < found.upper
        assert found.upper - found.lower <= 0.02
        assert found.upper < accounting.rdp_epsilon(mechanisms, delta)


def test_one_step_has_its_direct_integral() -> None:
    """Delta of one sampled step at epsilon, integrated without any grid of losses."""
    rate, noise = 0.2, 1.5

    def density(x: float, mean: float) -> float:
        return math.exp(-((x - mean) ** 2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))

    def delta_at(epsilon: float) -> float:
        width = 1e-3
        total = {True: 0.0, False: 0.0}
        for index in range(-15_000, 16_000):
            x = index * width
            other = density(x, 0)
            mixed = (1 - rate) * other + rate * density(x, 1)
            total[True] += max(0.0, mixed - math.exp(epsilon) * other) * width
            total[False] += max(0.0, other - math.exp(epsilon) * mixed) * width
        return max(total.values())

    for epsilon in (0.1, 0.4):
        found = bounds(delta_at(epsilon), sample_rate=rate, noise_multiplier=noise, steps=1)
        assert found.lower <= epsilon <= found.upper


def test_less_noise_or_more_steps_cost_more() -> None:
    base = {"sample_rate": 0.1, "noise_multiplier": 2.0, "steps": 100}
    cost = bounds(1e-6, **base)
    assert bounds(1e-6, **(base | {"noise_multiplier": 1.9})).lower > cost.upper
    assert bounds(1e-6, **(base | {"steps": 120})).lower > cost.upper
    assert bounds(1e-7, **base).lower > cost.upper


@pytest.mark.parametrize(
    "wrong",
    [
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": math.nan},
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"steps": -1},
        {"steps": 10**9},
        {"releases": [0.0]},
        {"releases": [-1.0]},
        {"steps": 0, "releases": []},
        {"noise_multiplier": 0.02},
        {"delta": 1e-14},
    ],
)
def test_numbers_outside_the_domain_are_refused(wrong: dict[str, float]) -> None:
    asked = {"delta": 1e-6, "sample_rate": 0.5, "noise_multiplier": 2.0, "steps": 10} | wrong
    with pytest.raises(PrivacyError):
        bounds(asked.pop("delta"), **asked)
