"""The one-run privacy audit's arithmetic: an epsilon that the guesses refute, at a confidence.

Steinke, Nasr, Jagielski 2023 ("Privacy Auditing with One (1) Training Run"). Each of m canaries
(rows made for the audit) enters the data by a fair coin of its own. From all that was released, an
auditor guesses the coins of r canaries, abstains on the others, and has v right. Were the release
(epsilon, delta)-DP for adding or removing a row, so many right guesses would be as unlikely as
`p_value` says (Theorem 5.2; in closed form, appendix D). The result is a lower bound: a large one
refutes a claim, a small one proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PrivacyError

BISECTIONS = 40


@dataclass(frozen=True)
class LowerBound:
    """`epsilon` is refuted at the confidence asked for, by `correct` of `guesses` coins guessed."""

    epsilon: float
    guesses: int
    correct: int


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """At most so likely are `correct` or more right guesses, if the release is (epsilon, delta)-DP.

    canaries m >= guesses r >= correct v >= 0. With delta 0 it is the binomial tail of randomised
    response, P[Binomial(r, e^epsilon / (1 + e^epsilon)) >= v]. Raises PrivacyError outside the
    domain.
    """
    _check_counts(canaries, guesses, correct)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise PrivacyError("epsilon must be a finite number, at least 0")
    if not 0 <= delta < 1:
        raise PrivacyError("delta must be at least 0 and below 1")
    chances = _binomial(guesses, epsilon)
    tail = float(chances[correct:].sum())
    if correct == 0 or delta == 0:
        return min(tail, 1.0)
    # The largest, over i, of P[v > Binomial >= v - i] / i.
    below = np.cumsum(chances[:correct][::-1]) / np.arange(1, correct + 1)
    return min(tail + 2 * canaries * delta * float(below.max()), 1.0)


def epsilon_lower_bound(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> float:
    """The largest epsilon >= 0 found that `correct` right guesses refute at `confidence` (0..1).

    0 where they refute nothing. Of a release that is (epsilon, delta)-DP the result exceeds epsilon
    with probability at most 1 - confidence, if `guesses` was fixed before looking.
    """
    if not 0 < confidence < 1:
        raise PrivacyError("confidence must be above 0 and below 1")
    level = 1 - confidence

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, correct, epsilon, delta) < level

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def audit_scores(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    guesses: Sequence[int],
    delta: float,
    confidence: float,
) -> LowerBound:
    """The best lower bound over several numbers of guesses, which share the error among them.

    scores (m,): higher speaks for inclusion; made without a look at `included` (m,), the coins. For
    each even r of `guesses`, fixed beforehand, the r/2 highest are guessed in and the r/2 lowest
    out. Each bound has confidence 1 - (1 - confidence) / len(guesses), so all hold together (union
    bound).
    """
    canaries = len(scores)
    if not guesses or any(one % 2 or not 0 < one <= canaries for one in guesses):
        raise PrivacyError("guesses must be even numbers, above 0 and at most that of the canaries")
    if included.shape != scores.shape or not np.isfinite(scores).all():
        raise PrivacyError("scores must be finite, one for each canary's coin")
    ranked = included[np.argsort(scores, kind="stable")]
    shared = 1 - (1 - confidence) / len(guesses)
    bounds = []
    for count in guesses:
        half = count // 2
        correct = int((~ranked[:half]).sum() + ranked[canaries - half :].sum())
        bound = epsilon_lower_bound(canaries, count, correct, delta, shared)
        bounds.append(LowerBound(bound, count, correct))
    return max(bounds, key=lambda one: one.epsilon)


def _check_counts(canaries: int, guesses: int, correct: int) -> None:
    if not 0 <= correct <= guesses <= canaries or canaries < 1:
        raise PrivacyError("need 0 <= correct <= guesses <= canaries, and at least one canary")


def _binomial(guesses: int, epsilon: float) -> NDArray[np.float64]:
    """P[Binomial(r, e^epsilon / (1 + e^epsilon)) = k] for k = 0..r, shape (r + 1,)."""
    right = np.arange(guesses + 1)
    # log of e^eps / (1 + e^eps), and of 1 / (1 + e^eps): no overflow, whatever epsilon.
    log_right = -math.log1p(math.exp(-epsilon))
    chances: NDArray[np.float64] = np.exp(
        _log_choose(guesses) + right * log_right + (guesses - right) * (log_right - epsilon)
    )
    return chances


@lru_cache(maxsize=16)
def _log_choose(guesses: int) -> NDArray[np.float64]:
    """log of r over k for k = 0..r."""
    logs = np.array([math.lgamma(k + 1) for k in range(guesses + 1)])
    chosen: NDArray[np.float64] = logs[-1] - logs - logs[::-1]
    chosen.setflags(write=False)
    return chosen
