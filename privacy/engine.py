"""What a DP-SGD engine is: it sums clipped per-example gradients over one party's rows, exactly.

An engine is built over the party's rows once and keeps them as they are, without a copy. It knows
nothing of sampling, noise or accounting, which are `privacy.mechanism`'s; `privacy.dp_sgd.train`
joins the two. `tests/contract/engine_contract.py` is what each engine must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PrivacyError

# Rows summed at once, at most: `mechanism.sensitivity_slack` counts on it.
MAX_CHUNK_ROWS = 1152
# Rows looked at at once, so that a check needs no second table.
CHECKED_ROWS = 4096


class Engine(Protocol):
    """Per-example exact clipping (Abadi et al. 2016, section 3.1) over one party's rows."""

    @property
    def rows(self) -> int:
        """How many rows the engine holds: the N that never leaves."""

    def clipped_sum(
        self, parameters: NDArray[np.float64], chosen: NDArray[np.int64], clipping_norm: float
    ) -> NDArray[np.float64]:
        """Sum over the chosen rows of each gradient scaled to norm at most `clipping_norm`.

        parameters (d,); chosen (b,): row numbers, each once, in any order; b may be 0. Returns
        (d,). A row whose gradient is not finite counts as zero. Adding or taking away any one row
        moves the result by at most `clipping_norm` in L2, up to `mechanism.sensitivity_slack`.
        """


def check_rows(features: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
    """Raise PrivacyError unless features are finite float32 (n, k) and labels (n,) of 0 and 1."""
    if features.dtype != np.float32 or labels.dtype != np.float32:
        raise PrivacyError("features and labels must be float32")
    if features.ndim != 2 or labels.shape != (len(features),):
        raise PrivacyError("features must be (n, k) and labels (n,)")
    for start in range(0, len(features), CHECKED_ROWS):
        if not np.isfinite(features[start : start + CHECKED_ROWS]).all():
            raise PrivacyError("features hold values that are not finite; check the source")
    if not np.isin(labels, (0.0, 1.0)).all():
        raise PrivacyError("labels must be 0 or 1")


def checked_batch(chosen: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """The chosen row numbers in ascending order. Raises PrivacyError unless each is there once.

    A row that counted twice would move the sum by twice the clipping norm. Memory is also read
    faster in ascending order.
    """
    ordered = np.sort(chosen)
    if len(ordered) and (ordered[0] < 0 or ordered[-1] >= rows):
        raise PrivacyError("a batch names rows of the table, from 0 on")
    if (ordered[1:] == ordered[:-1]).any():
        raise PrivacyError("a batch names each row at most once")
    return ordered


def pairwise_sum(
    chunk_sum: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    chosen: NDArray[np.int64],
    rows: int,
) -> NDArray[np.float64]:
    """`chunk_sum` added up over chunks of at most `rows` rows, pairwise (Higham 1993).

    The rounding error then grows with the chunk and the logarithm of their number only.
    """
    if len(chosen) <= rows:
        return chunk_sum(chosen)
    middle = rows * (-(-len(chosen) // rows) // 2)
    total = pairwise_sum(chunk_sum, chosen[:middle], rows)
    total += pairwise_sum(chunk_sum, chosen[middle:], rows)
    return total
