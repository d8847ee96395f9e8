"""Evaluation from a vector of label x score bin, and exact figures that stay at the party.

The released vector has 2 * bins cells in logit space; one held-out customer adds 1 to one cell, so
its L2 sensitivity is 1. Ten uniform bins in probability bias AUC by .06 on skewed scores; bins are
uniform in the logit, between public bounds, clamped at the ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# What `score_histogram` is called where a ledger says how an evaluation ran.
HISTOGRAM = "histogram of label and score bin"


def score_histogram(
    logits: NDArray[np.float64], labels: NDArray[np.float32], bins: int, bound: float
) -> NDArray[np.int64]:
    """Counts of shape (2 * bins,): label 0's bins, then label 1's."""
    # A logit that overflowed still belongs to one cell: refusing would tell that it is there.
    clamped = np.clip(np.nan_to_num(logits), -bound, bound)
    index = np.minimum(((clamped + bound) / (2 * bound) * bins).astype(np.int64), bins - 1)
    return np.bincount(index + bins * labels.astype(np.int64), minlength=2 * bins)


def histogram_auc(counts: NDArray[np.int64]) -> float | None:
    """AUC from a (noised) vector, ties within a bin as one half, kept within [0, 1].

    Noised cells are used as they are: noise of mean zero in independent cells leaves numerator and
    denominator unbiased, while setting negative cells to zero would pull the figure to one half.
    None if the noise left a class without customers.
    """
    negative, positive = counts.astype(np.float64).reshape(2, -1)
    if negative.sum() <= 0 or positive.sum() <= 0:
        return None
    below = np.cumsum(negative) - negative
    area = (positive * (below + negative / 2)).sum() / (negative.sum() * positive.sum())
    return float(np.clip(area, 0.0, 1.0))


def auc_standard_error(counts: NDArray[np.int64], noise_deviation: float) -> float | None:
    """How far noise of this standard deviation a cell moves `histogram_auc`: a parametric
    bootstrap around the released cells. The sampling error of the held-out customers is not in it.
    """
    rng = np.random.default_rng(0)
    draws = counts + np.rint(rng.normal(0, noise_deviation, (200, counts.size))).astype(np.int64)
    values = [one for one in map(histogram_auc, draws) if one is not None]
    return float(np.std(values)) if len(values) > 100 else None


def histogram_calibration(counts: NDArray[np.int64], bound: float) -> float | None:
    """Mean predicted minus observed rate over all held-out customers, from a (noised) vector."""
    bins = counts.size // 2
    negative, positive = counts.astype(np.float64).reshape(2, bins)
    total = negative.sum() + positive.sum()
    if total <= 0:
        return None
    centres = (np.arange(bins) + 0.5) / bins * 2 * bound - bound
    predicted = ((negative + positive) / (1 + np.exp(-centres))).sum() / total
    return float(predicted - positive.sum() / total)


def auc(scores: NDArray[np.float64], labels: NDArray[np.float32]) -> float | None:
    """Exact area under the ROC curve, ties counted half. None if a class is absent. Local only."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return None
    _, inverse, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[inverse]
    rank_sum = float(ranks[labels > 0.5].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def top_decile_lift(scores: NDArray[np.float64], labels: NDArray[np.float32]) -> float | None:
    """Positive rate among the highest-scored tenth over the overall rate. Local only."""
    if len(labels) < 10 or labels.sum() == 0:
        return None
    top = np.argsort(-scores, kind="stable")[: max(1, len(labels) // 10)]
    return float(labels[top].mean() / labels.mean())
