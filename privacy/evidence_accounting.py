"""A second accountant: what a run's mechanisms cost, computed by other means than what charges it.

`privacy.accounting` charges by Google's pessimistic privacy loss distributions. Here the privacy
loss random variables are composed on another grid by one Fourier transform, after Gopi, Lee and
Wutschitz 2021: rounding each loss to the grid, with its mean kept, moves the sum of k losses by
more than h * sqrt(k/2 * log(2/eta)) with probability eta at most (Hoeffding). That gives a lower
and an upper bound on epsilon, both proven up to floating point; Gaussian releases are added in
closed form (Balle and Wang 2018, theorem 8). It reads plain numbers and shares no code with what it
checks.

Unit of privacy: one customer at one party; adjacency: add or remove. Both directions are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from privacy.errors import PrivacyError

# How far rounding may move the sum, how likely further, and the most grid points that are spent.
EPSILON_ERROR = 0.005
ETA = 1e-13
MAX_POINTS = 2**20
# Losses further out than this many standard deviations together weigh less than 1e-30.
_REACH = 12.0
_LARGEST = 500.0
_LEAST_NOISE, _MOST_NOISE = 0.05, 1e7
_NOTHING = 1e-25

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """Epsilon at the asked delta lies between these."""

    lower: float
    upper: float


@dataclass(frozen=True)
class _Composed:
    """The distribution of a sum of losses: masses at `start` + i * `step`, and how far a true
    loss may be from it but for a probability of `missed`."""

    start: float
    step: float
    masses: Floats
    error: float
    missed: float


def bounds(
    delta: float,
    *,
    sample_rate: float = 0.0,
    noise_multiplier: float = 0.0,
    steps: int = 0,
    releases: Sequence[float] = (),
) -> Bounds:
    """Epsilon at `delta` of `steps` Poisson-sampled Gaussian steps and Gaussian `releases`.

    `releases`: noise multipliers. Raises PrivacyError for numbers outside their domain, and where
    no bound below 500 comes out.
    """
    numbers = (delta, sample_rate, noise_multiplier, *releases)
    sound = all(math.isfinite(one) for one in numbers) and 0 < delta < 1 and steps >= 0
    sound = sound and all(0 < one <= _MOST_NOISE for one in releases)
    sound = sound and (steps > 0 or bool(releases))
    if steps:
        sound = sound and 0 < sample_rate <= 1 and steps <= 10**7
        sound = sound and _LEAST_NOISE <= noise_multiplier <= _MOST_NOISE
    if not sound:
        raise PrivacyError("an independent epsilon was asked for numbers outside their domain")
    mean = math.fsum(one**-2 for one in releases) ** 0.5  # of the one Gaussian that all compose to
    if not steps:
        exact = _epsilon(_Composed(0.0, 1.0, np.ones(1), 0.0, 0.0), mean, delta)
        return Bounds(exact, exact)
    lower, upper = [], []
    for removes in (True, False):
        composed = _compose(sample_rate, noise_multiplier, steps, removes)
        room = delta - composed.missed
        if room <= 0:
            raise PrivacyError("delta is too small for the independent accountant's grid")
        upper.append(_epsilon(composed, mean, room) + composed.error)
        lower.append(max(0.0, _epsilon(composed, mean, delta + composed.missed) - composed.error))
    return Bounds(float(max(lower)), float(max(upper)))


@lru_cache(maxsize=16)
def _compose(q: float, sigma: float, steps: int, removes: bool) -> _Composed:
    """The loss of all steps, if a customer's row is removed (`removes`) or added."""
    cdf, survival, least, most, mean = _step(q, sigma, removes)
    spread = math.sqrt(steps / 2 * math.log(2 / ETA))
    step = min(EPSILON_ERROR / spread, (most - least) / 1000)
    # A coarse look first: how far does the sum reach?
    low, high = _reach(cdf, survival, least, most, mean, steps, (most - least) / 20_000)
    step = max(step, (high - low) / (MAX_POINTS - 8), (most - least) / MAX_POINTS)
    values, masses, shift = _grid(cdf, survival, least, most, mean, step)
    slack = steps * abs(shift) + 2 * step
    low, high = low - slack, high + slack
    length = 1 << max(4, math.ceil(math.log2((high - low) / step)))
    index = np.rint(values / step).astype(np.int64)
    wrapped = np.zeros(length)
    np.add.at(wrapped, index % length, masses)
    composed = np.fft.irfft(np.fft.rfft(wrapped) ** steps, length)
    first = math.floor((low - steps * shift) / step)
    ordered = np.roll(composed, -(first % length))
    start = first * step + steps * shift
    return _Composed(start, step, np.maximum(ordered, 0.0), step * spread, 3 * ETA)


def _step(
    q: float, sigma: float, removes: bool
) -> tuple[Callable[[Floats], Floats], Callable[[Floats], Floats], float, float, float]:
    """One step's loss: its distribution function, the survival function, its range, its mean.

    With x the noised coordinate along the customer's gradient (clipping norm 1), the loss of
    removing is log(1 - q + q exp((2x - 1) / (2 sigma^2))) with x from the mixture; of adding, its
    negative with x from N(0, sigma^2).
    """

    def loss(x: Floats) -> Floats:
        exponent = (2 * x - 1) / (2 * sigma**2)
        stay = math.log1p(-q) if q < 1 else -math.inf
        joined: Floats = np.logaddexp(stay, math.log(q) + exponent)
        return joined

    def at(t: Floats) -> Floats:
        """The x at which removing loses t; minus infinity where it always loses more."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inner = np.where(t > 30, t + np.log1p(-(1 - q) * np.exp(-t)), np.log(np.expm1(t) + q))
        found: Floats = np.where(np.isnan(inner), -np.inf, sigma**2 * (inner - math.log(q)) + 0.5)
        return found

    ends = np.array([-_REACH * sigma, 1 + _REACH * sigma])
    grid = np.linspace(ends[0], ends[1], 200_001)
    base = np.exp(-(grid**2) / (2 * sigma**2))
    raised = np.exp(-((grid - 1) ** 2) / (2 * sigma**2))
    lost = loss(grid)
    if removes:
        weights = (1 - q) * base + q * raised
        low, high = float(lost[0]), float(lost[-1])

        def cdf(t: Floats) -> Floats:
            x = at(t)
            return np.asarray((1 - q) * ndtr(x / sigma) + q * ndtr((x - 1) / sigma))

        def survival(t: Floats) -> Floats:
            x = at(t)
            return np.asarray((1 - q) * ndtr(-x / sigma) + q * ndtr((1 - x) / sigma))
    else:
        weights, lost = base, -lost
        low, high = float(lost[-1]), float(lost[0])

        def cdf(t: Floats) -> Floats:
            return np.asarray(ndtr(-at(-t) / sigma))

        def survival(t: Floats) -> Floats:
            return np.asarray(ndtr(at(-t) / sigma))

    return cdf, survival, low, high, float((weights * lost).sum() / weights.sum())


def _grid(
    cdf: Callable[[Floats], Floats],
    survival: Callable[[Floats], Floats],
    least: float,
    most: float,
    mean: float,
    step: float,
) -> tuple[Floats, Floats, float]:
    """Losses rounded to multiples of `step`, their masses, and what keeps the mean."""
    index = np.arange(math.floor(least / step) - 1, math.ceil(most / step) + 2)
    edges = (np.append(index, index[-1] + 1) - 0.5) * step
    below, above = cdf(edges), survival(edges)
    masses = np.where(below[1:] < 0.5, np.diff(below), -np.diff(above))
    masses = np.maximum(masses, 0.0)
    masses /= masses.sum()
    values: Floats = index.astype(np.float64) * step
    return values, masses, mean - float((values * masses).sum())


def _reach(
    cdf: Callable[[Floats], Floats],
    survival: Callable[[Floats], Floats],
    least: float,
    most: float,
    mean: float,
    steps: int,
    step: float,
) -> tuple[float, float]:
    """Between which values the sum of all steps' losses lies but for a probability of ETA, by
    Chernoff's bound."""
    values, masses, shift = _grid(cdf, survival, least, most, mean, step)
    values = values + shift
    kept = masses > 0
    values, logs = values[kept], np.log(masses[kept])
    best = [steps * most, -steps * least]
    for rate in np.geomspace(1e-2, 1e4, 120):
        for side, sign in enumerate((1.0, -1.0)):
            exponents = logs + sign * rate * values
            top = float(exponents.max())
            grown = top + math.log(float(np.exp(exponents - top).sum()))
            best[side] = min(best[side], (steps * grown - math.log(ETA)) / rate)
    slack = 4 * step * math.sqrt(steps)
    return -best[1] - slack, best[0] + slack


def _epsilon(composed: _Composed, mean: float, delta: float) -> float:
    """The least epsilon of the composed loss, together with a Gaussian of this mean, at `delta`."""
    kept = composed.masses > _NOTHING
    losses: Floats = composed.start + composed.step * np.flatnonzero(kept).astype(np.float64)
    masses = composed.masses[kept]

    def excess(epsilon: float) -> float:
        return math.log(max(_delta(losses, masses, mean, epsilon), _NOTHING) / delta)

    high = 1.0
    if excess(0.0) <= 0:
        return 0.0
    while excess(high) > 0:
        high *= 2
        if high > _LARGEST:
            raise PrivacyError("the independent accountant finds no epsilon below 500")
    return float(brentq(excess, high / 2 if high > 1 else 0.0, high, xtol=1e-7, rtol=1e-9))


def _delta(losses: Floats, masses: Floats, mean: float, epsilon: float) -> float:
    """Delta at `epsilon`: the expected excess of the loss, Gaussian releases included."""
    first = int(np.searchsorted(losses, epsilon - _REACH * mean - mean**2))
    losses, masses = losses[first:], masses[first:]  # those before add less than 1e-30
    over = epsilon - losses
    if mean == 0:
        return float((masses * -np.expm1(np.minimum(over, 0.0))).sum())
    # exp(over) may overflow where its factor underflows: they are joined as logarithms.
    second = np.exp(np.minimum(over + log_ndtr(-over / mean - mean / 2), 0.0))
    return float((masses * np.maximum(ndtr(-over / mean + mean / 2) - second, 0.0)).sum())
