"""What mechanisms cost: google dp_accounting's PLD at a pinned grid, and calibration.

Every epsilon here is for one customer at one party under add/remove adjacency, at a stated delta.
PLD: Koskela, Jalko, Honkela 2020; Doroshenko et al. 2022 ("connect the dots", pessimistic).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant

from privacy.errors import PrivacyError
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian

GRID = 1e-4
MIN_NOISE_MULTIPLIER = 0.3
MAX_NOISE_MULTIPLIER = 1e6


def run_delta(public_size: int, asked: float | None = None) -> float:
    """The delta of a run at a party: 1 / (10 * N^), or the plan's own if that is smaller."""
    if public_size < 1:
        raise PrivacyError("public_size must be at least 1")
    limit = 1.0 / (10 * public_size)
    return limit if asked is None else min(asked, limit)


def epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """The epsilon at `delta` of all `mechanisms` composed. Empty sequence: 0.

    Raises PrivacyError if `delta` is not in (0, 1) or if no finite epsilon comes out.
    """
    if not 0 < delta < 1:
        raise PrivacyError("delta must be above 0 and below 1")
    if not mechanisms:
        return 0.0
    return _epsilon(_merged(mechanisms), delta)


def _merged(mechanisms: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    """Equal mechanisms joined and sorted: composition does not depend on the order."""
    sampled: dict[tuple[float, float], int] = {}
    released: list[Gaussian] = []
    for mechanism in mechanisms:
        if isinstance(mechanism, SampledGaussian):
            key = (mechanism.sample_rate, mechanism.noise_multiplier)
            sampled[key] = sampled.get(key, 0) + mechanism.steps
        else:
            released.append(mechanism)
    joined = [SampledGaussian(q, sigma, steps) for (q, sigma), steps in sorted(sampled.items())]
    return (*joined, *sorted(released, key=lambda one: one.noise_multiplier))


@lru_cache(maxsize=256)
def _epsilon(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=GRID)
    accountant.compose(dp_event.ComposedDpEvent([one.event() for one in mechanisms]))
    result = float(accountant.get_epsilon(delta))
    if not math.isfinite(result):
        raise PrivacyError("no finite epsilon at this delta; ask for a larger delta or more noise")
    return result


@lru_cache(maxsize=256)
def calibrate_training(
    target_epsilon: float, delta: float, sample_rate: float, steps: int
) -> float:
    """A noise multiplier that keeps `steps` steps within the target, at most 0.2 % above the least.

    Raises PrivacyError if the target is not a finite number above 0 or cannot be reached.
    """
    guess = sample_rate * math.sqrt(steps)
    return _calibrate(
        lambda sigma: SampledGaussian(sample_rate, sigma, steps), target_epsilon, delta, guess
    )


@lru_cache(maxsize=256)
def calibrate_release(target_epsilon: float, delta: float) -> float:
    """A noise multiplier of one Gaussian release in the target, at most 0.2 % above the least."""
    return _calibrate(Gaussian, target_epsilon, delta, 1.0)


def _calibrate(
    make: Callable[[float], Mechanism], target: float, delta: float, scale: float
) -> float:
    """Epsilon is close to inversely proportional to sigma: step along that, end on the safe side.

    Whatever is returned had its epsilon computed and found within `target`.
    """
    if not (math.isfinite(target) and target > 0):
        raise PrivacyError("epsilon must be a finite number above 0")
    sigma = max(MIN_NOISE_MULTIPLIER, scale * math.sqrt(2 * math.log(1.25 / delta)) / target)
    for _ in range(40):
        if sigma > MAX_NOISE_MULTIPLIER:
            break
        ratio = epsilon([make(sigma)], delta) / target
        if 0.998 <= ratio <= 1:
            return sigma
        if ratio < 1 and sigma <= MIN_NOISE_MULTIPLIER:
            return sigma
        # The aim is 0.1 % inside the target, so that a step from either side lands in the window.
        sigma = max(sigma * min(max(ratio * 1.001, 0.25), 4.0), MIN_NOISE_MULTIPLIER)
    raise PrivacyError("no noise multiplier reaches this epsilon; ask for another epsilon")
