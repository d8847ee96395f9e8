import numpy as np
import pytest

from models.evaluation import (
    auc,
    auc_standard_error,
    histogram_auc,
    histogram_calibration,
    score_histogram,
    top_decile_lift,
)
from privacy.mechanism import Gaussian
from privacy.randomness import generator


def scored(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.2, count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return logits, labels


def pairwise_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative[None]).mean()
    return float(wins + (positive[:, None] == negative[None]).mean() / 2)


def test_exact_auc_counts_pairs_and_halves_ties() -> None:
    scores, labels = scored(300)
    assert auc(scores, labels) == pytest.approx(pairwise_auc(scores, labels))
    rough = np.round(scores)
    assert auc(rough, labels) == pytest.approx(pairwise_auc(rough, labels))


def test_auc_of_one_class_is_none() -> None:
    assert auc(np.array([0.1, 0.2]), np.array([1.0, 1.0], dtype=np.float32)) is None


def test_the_histogram_keeps_auc_and_calibration() -> None:
    logits, labels = scored(20_000)
    counts = score_histogram(logits, labels, 40, 6.0)
    assert counts.sum() == 20_000
    assert histogram_auc(counts) == pytest.approx(auc(logits, labels), abs=0.005)
    assert histogram_calibration(counts, 6.0) == pytest.approx(0.0, abs=0.02)


def test_one_customer_changes_one_cell_by_one() -> None:
    logits, labels = scored(500)
    whole = score_histogram(logits, labels, 40, 6.0)
    for row in range(0, 500, 50):
        rest = np.arange(500) != row
        change = whole - score_histogram(logits[rest], labels[rest], 40, 6.0)
        assert np.linalg.norm(change) == 1.0


def test_scores_beyond_the_bound_fall_into_the_end_bins() -> None:
    counts = score_histogram(
        np.array([-99.0, 99.0]), np.array([0.0, 1.0], dtype=np.float32), 20, 6.0
    )
    assert counts[0] == 1
    assert counts[39] == 1


def test_noise_does_not_bias_the_released_auc() -> None:
    logits, labels = scored(3000)
    counts = score_histogram(logits, labels, 40, 6.0)
    rng = generator(b"a" * 32)
    noised = [histogram_auc(Gaussian(6.0).noised(counts, rng)) for _ in range(300)]
    values = np.array([one for one in noised if one is not None])
    standard_error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - (auc(logits, labels) or 0)) < 5 * standard_error + 0.003


def test_the_stated_error_is_the_noise_of_the_released_auc() -> None:
    logits, labels = scored(3000)
    counts = score_histogram(logits, labels, 20, 4.0)
    rng = generator(b"e" * 32)
    noised = [Gaussian(6.0).noised(counts, rng) for _ in range(300)]
    truth = np.std([histogram_auc(one) for one in noised])
    stated = np.median([auc_standard_error(one, 6.0) or 0.0 for one in noised[:20]])
    assert 0.7 < stated / truth < 1.4
    assert auc_standard_error(counts * 0, 1e-9) is None


def test_no_figure_where_noise_left_no_customers() -> None:
    counts = np.zeros(40, dtype=np.int64)
    assert histogram_auc(counts) is None
    assert histogram_calibration(counts, 6.0) is None


def test_lift_is_the_top_tenth_over_all() -> None:
    scores = np.arange(100.0)
    labels = np.zeros(100, dtype=np.float32)
    labels[90:95] = labels[:5] = 1
    assert top_decile_lift(scores, labels) == pytest.approx(5.0)
    assert top_decile_lift(scores, np.zeros(100, dtype=np.float32)) is None
