"""Judging what ran: composition on a pinned grid, its Renyi cross-check, and calibration.

Every epsilon here is for one customer at one party under add/remove adjacency, at a stated delta.
PLD is the headline: Koskela, Jalko, Honkela 2020; Doroshenko et al. 2022 ("connect the dots",
pessimistic). It composes mechanisms as if they were fixed beforehand. RDP (Mironov 2017; Mironov,
Talwar, Zhang 2019 for sampled steps) is the cross-check, the fallback where PLD has no finite
value, and what `privacy.budget` stops at over runs that are chosen one after another.

dp_accounting, which brings in SciPy, is imported where it computes: a command that asks for no
epsilon answers at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from privacy.errors import PrivacyError
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian, Unrecorded

GRID = 1e-4
MIN_NOISE_MULTIPLIER = 0.3
_LEAST_RATIO = 1e-12
MAX_NOISE_MULTIPLIER = 1e6
# The orders of every RDP curve. Part of the ledger's format: a gap's curve is stored at them.
# Whole numbers only, where the sampled Gaussian has a closed form; dp_accounting's series for the
# orders between is an upper bound that can be ten times too high at low orders.
ORDERS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 28, 35, 45, 56, 70, 88, 110, 140, 180, 240, 320,
          512)  # fmt: skip


def run_delta(public_size: int, asked: float | None = None) -> float:
    """The delta of a run at a party: 1 / (10 * N^), or the plan's own if that is smaller."""
    if public_size < 1:
        raise PrivacyError("public_size must be at least 1")
    limit = 1.0 / (10 * public_size)
    return limit if asked is None else min(asked, limit)


def epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """The epsilon at `delta` of all `mechanisms` composed, by PLD. Empty sequence: 0.

    By RDP instead where PLD has no finite value (a very small delta) or where an `Unrecorded`
    spend is among them. Raises PrivacyError if `delta` is not in (0, 1) or if no finite epsilon
    comes out.
    """
    _check_delta(delta)
    if not mechanisms:
        return 0.0
    return _epsilon(_merged(mechanisms), delta)


def rdp(mechanisms: Sequence[Mechanism]) -> tuple[float, ...]:
    """The Renyi divergence bound of all `mechanisms` composed, at each of `ORDERS`.

    Depends on what ran only, not on its order or on how steps were grouped into rounds: exactly
    rounded sums over merged mechanisms.
    """
    curves = [_curve(one) for one in _merged(mechanisms)]
    return tuple(math.fsum(column) for column in zip(*curves, strict=True)) or (0.0,) * len(ORDERS)


def rdp_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """As `epsilon`, by RDP alone, at the best order (Canonne, Kamath, Steinke 2020, prop. 12).

    At least what PLD finds, and finite at deltas where PLD is not.
    """
    from dp_accounting.rdp import compute_epsilon

    _check_delta(delta)
    if not mechanisms:
        return 0.0
    return _finite(float(compute_epsilon(ORDERS, rdp(mechanisms), delta)[0]))


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise PrivacyError("delta must be above 0 and below 1")


def _finite(result: float) -> float:
    if not math.isfinite(result):
        raise PrivacyError("no finite epsilon at this delta; ask for a larger delta or more noise")
    return result


def _merged(mechanisms: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    """Equal mechanisms joined and sorted: composition does not depend on the order."""
    sampled: dict[tuple[float, float], int] = {}
    released: list[Gaussian] = []
    unrecorded: list[Unrecorded] = []
    for mechanism in mechanisms:
        if isinstance(mechanism, SampledGaussian):
            key = (mechanism.sample_rate, mechanism.noise_multiplier)
            sampled[key] = sampled.get(key, 0) + mechanism.steps
        elif isinstance(mechanism, Gaussian):
            released.append(mechanism)
        else:
            unrecorded.append(mechanism)
    joined = [SampledGaussian(q, sigma, steps) for (q, sigma), steps in sorted(sampled.items())]
    released.sort(key=lambda one: one.noise_multiplier)
    return (*joined, *released, *sorted(unrecorded, key=lambda one: one.rdp))


@lru_cache(maxsize=256)
def _epsilon(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    from dp_accounting.pld import pld_privacy_accountant

    if not any(isinstance(one, Unrecorded) for one in mechanisms):
        accountant = pld_privacy_accountant.PLDAccountant(value_discretization_interval=GRID)
        for one in _with_one_release(mechanisms):
            accountant.compose(one.event())
        result = float(accountant.get_epsilon(delta))
        if math.isfinite(result):
            return result
    return rdp_epsilon(mechanisms, delta)


def _with_one_release(mechanisms: tuple[Mechanism, ...]) -> list[Mechanism]:
    """All Gaussian releases as the one that they compose to (Dong, Roth, Su 2022, section 3)."""
    precisions = [one.noise_multiplier**-2 for one in mechanisms if isinstance(one, Gaussian)]
    rest: list[Mechanism] = [one for one in mechanisms if not isinstance(one, Gaussian)]
    return [*rest, Gaussian(math.fsum(precisions) ** -0.5)] if precisions else rest


def _curve(mechanism: Mechanism) -> tuple[float, ...]:
    """The RDP of one merged mechanism at `ORDERS`."""
    if isinstance(mechanism, Unrecorded):
        if len(mechanism.rdp) != len(ORDERS):
            raise PrivacyError(f"an RDP curve has {len(ORDERS)} values, one for each order")
        return mechanism.rdp
    if isinstance(mechanism, Gaussian):
        return tuple(order / (2 * mechanism.noise_multiplier**2) for order in ORDERS)
    step = _step_curve(mechanism.sample_rate, mechanism.noise_multiplier)
    return tuple(mechanism.steps * one for one in step)


@lru_cache(maxsize=4096)
def _step_curve(sample_rate: float, noise_multiplier: float) -> tuple[float, ...]:
    from dp_accounting.rdp import rdp_privacy_accountant

    accountant = rdp_privacy_accountant.RdpAccountant(ORDERS)
    accountant.compose(SampledGaussian(sample_rate, noise_multiplier, 1).event())
    return tuple(float(one) for one in accountant.rdp)


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
    """Epsilon is mostly close to inversely proportional to sigma: step along that, end on the
    safe side.

    Whatever is returned had its epsilon computed and found within `target`.
    """
    if not (math.isfinite(target) and target > 0):
        raise PrivacyError("epsilon must be a finite number above 0")
    sigma = max(MIN_NOISE_MULTIPLIER, scale * math.sqrt(2 * math.log(1.25 / delta)) / target)
    # Epsilon falls as sigma ** -power, and where there is little noise much faster than 1 / sigma:
    # once a sigma on either side of the target is seen, the two show the power.
    power, seen = 1.0, dict[bool, tuple[float, float]]()
    for _ in range(40):
        if sigma > MAX_NOISE_MULTIPLIER:
            break
        # A large delta covers everything by itself: epsilon 0, whose logarithm there is not.
        ratio = max(epsilon([make(sigma)], delta) / target, _LEAST_RATIO)
        if 0.998 <= ratio <= 1:
            return sigma
        if ratio < 1 and sigma <= MIN_NOISE_MULTIPLIER:
            return sigma
        # The aim is 0.1 % inside the target, so that a step from either side lands in the window.
        seen[ratio > 1] = (math.log(sigma), math.log(ratio))
        if len(seen) == 2:
            (s0, r0), (s1, r1) = seen.values()
            power = max(1.0, (r0 - r1) / (s1 - s0))
        step = min(max((ratio * 1.001) ** (1 / power), 0.25), 4.0)
        sigma = max(sigma * step, MIN_NOISE_MULTIPLIER)
    raise PrivacyError("no noise multiplier reaches this epsilon; ask for another epsilon")
