"""Mechanisms: what ran, as data. Sampling, noise and their accounting event live in one object.

Unit of privacy: one customer at one party, exactly one row a customer. Adjacency: add or remove
that row. `event()` gives google dp_accounting's description of the mechanism; what it costs is
judged in `privacy.accounting`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PrivacyError

# Brings in SciPy, more than a second: imported by what accounts, not by what only reads a ledger.
if TYPE_CHECKING:
    from dp_accounting import dp_event

# Clipped sums are rounded to this fraction of the clipping norm before noise is added, and the
# noise to the same grid: for integer x, x + round(g) = round(x + g), so the release is a
# post-processing of the ideal Gaussian mechanism on the rounded sum (see `sensitivity_slack`).
GRID_BITS = 20


@dataclass(frozen=True)
class SampledGaussian:
    """`steps` steps of the Poisson-subsampled Gaussian mechanism (Abadi et al. 2016, section 3).

    Each row enters a step's batch independently with probability `sample_rate`; the sum of
    clipped gradients (norm at most C a row) gets Gaussian noise of standard deviation
    `noise_multiplier` * C * (1 + slack), where the slack covers the rounding grid.
    """

    # How `sample` draws, as a ledger names it.
    sampler: ClassVar[str] = "Poisson: binomial size, then a uniform subset"
    sample_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate <= 1:
            raise PrivacyError("sample_rate must be above 0 and at most 1")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise PrivacyError("noise_multiplier must be a finite number above 0")
        if self.steps < 1:
            raise PrivacyError("steps must be at least 1")

    def event(self) -> dp_event.DpEvent:
        """The dp_accounting event of all steps."""
        from dp_accounting import dp_event

        step = dp_event.PoissonSampledDpEvent(
            self.sample_rate, dp_event.GaussianDpEvent(self.noise_multiplier)
        )
        return dp_event.SelfComposedDpEvent(step, self.steps)

    def split(self, steps: int) -> SampledGaussian:
        """The same mechanism over `steps` of its steps (one round of a run)."""
        return SampledGaussian(self.sample_rate, self.noise_multiplier, steps)

    def as_data(self) -> dict[str, Any]:
        """Plain data for a ledger entry; `mechanism_from_data` reads it back."""
        return {"mechanism": "sampled_gaussian", **asdict(self)}

    def sample(self, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Row indices of one Poisson sample: a binomial size, then a uniform subset of that size.

        Exactly the distribution of one coin a row, in time that grows with the batch only. May be
        empty.
        """
        size = int(rng.binomial(rows, self.sample_rate)) if rows else 0
        return rng.choice(rows, size=size, replace=False, shuffle=False).astype(np.int64)

    def noised(
        self, clipped_sum: NDArray[np.float64], clipping_norm: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """`clipped_sum` (shape (d,)) on the grid plus grid-rounded Gaussian noise."""
        grid = clipping_norm * 2.0**-GRID_BITS
        sensitivity = clipping_norm * (1 + sensitivity_slack(clipped_sum.size))
        noise = rng.normal(0.0, self.noise_multiplier * sensitivity, clipped_sum.size)
        released: NDArray[np.float64] = (np.rint(clipped_sum / grid) + np.rint(noise / grid)) * grid
        return released


def sensitivity_slack(dimensions: int) -> float:
    """Relative growth of the L2 sensitivity by rounding to the grid and by summing in float64.

    Rounding two neighbouring sums moves their difference by at most grid * sqrt(d). Every engine
    (`privacy.engine`) takes norms and sums in float64 and adds at most 1152 rows at once, then
    these chunks in pairs: by Higham 1993, n rows of norm at most C sum up with an error below
    2**-42.7 * n * C in L2. For two sums of fewer than 2**22 rows that is below 2**-19.7 * C, which
    doubling the rounding term covers from d = 2 on. Stated residuals: the normal sampler's own
    precision, and what kernels let one row change in another's gradient (each engine says).
    """
    return 2.0 * 2.0**-GRID_BITS * math.sqrt(dimensions)


@dataclass(frozen=True)
class Gaussian:
    """One rounded Gaussian release of an integer vector of L2 sensitivity `sensitivity`."""

    sampler: ClassVar[str] = "none: every row"
    noise_multiplier: float
    sensitivity: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise PrivacyError("noise_multiplier must be a finite number above 0")
        if not (math.isfinite(self.sensitivity) and self.sensitivity > 0):
            raise PrivacyError("sensitivity must be a finite number above 0")

    def event(self) -> dp_event.DpEvent:
        """The dp_accounting event of one release."""
        from dp_accounting import dp_event

        return dp_event.GaussianDpEvent(self.noise_multiplier)

    def as_data(self) -> dict[str, Any]:
        """Plain data for a ledger entry; `mechanism_from_data` reads it back."""
        return {"mechanism": "gaussian", **asdict(self)}

    def noised(self, counts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """`counts` plus Gaussian noise rounded to integers: a post-processing of the ideal one."""
        noise = rng.normal(0.0, self.noise_multiplier * self.sensitivity, counts.shape)
        return counts + np.rint(noise).astype(np.int64)


@dataclass(frozen=True)
class Unrecorded:
    """A spend of which only the RDP curve is known: what a lost part of a ledger had charged.

    `rdp`: Renyi divergence bounds at `privacy.accounting.ORDERS`. It samples and adds nothing.
    """

    rdp: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rdp or not all(math.isfinite(one) and one >= 0 for one in self.rdp):
            raise PrivacyError("an RDP curve is a list of finite numbers of at least 0")

    def event(self) -> dp_event.DpEvent:
        """There is none: raises PrivacyError."""
        raise PrivacyError("what a ledger lost is known as an RDP curve only, not as an event")

    def as_data(self) -> dict[str, Any]:
        """Plain data for a ledger entry; `mechanism_from_data` reads it back."""
        return {"mechanism": "unrecorded", "rdp": list(self.rdp)}


Mechanism = SampledGaussian | Gaussian | Unrecorded


def mechanism_from_data(data: Mapping[str, Any]) -> Mechanism:
    """Read back `as_data`. Raises PrivacyError on an unknown mechanism or a wrong field."""
    fields = {key: value for key, value in data.items() if key != "mechanism"}
    kinds: dict[str, type[Mechanism]] = {
        "sampled_gaussian": SampledGaussian,
        "gaussian": Gaussian,
        "unrecorded": Unrecorded,
    }
    kind = kinds.get(str(data.get("mechanism")))
    if kind is None:
        raise PrivacyError(f"unknown mechanism; this version knows {', '.join(kinds)}")
    try:
        if kind is Unrecorded:
            return Unrecorded(tuple(fields.pop("rdp")), **fields)
        return kind(**fields)
    except (KeyError, TypeError) as error:
        raise PrivacyError("a mechanism's fields are not those this version knows") from error


def gradient_mechanism(
    sample_rate: float, public_size: int, noise_multiplier: float, steps: int
) -> tuple[SampledGaussian, int]:
    """The mechanism and the batch size B of a party: q = B / N^ with B = round(rate * N^) >= 1.

    B is also the denominator of the mean gradient. Both rest on the public size N^, never on N.
    """
    if public_size < 1:
        raise PrivacyError("public_size must be at least 1")
    batch = max(1, round(sample_rate * public_size))
    return SampledGaussian(batch / public_size, noise_multiplier, steps), batch
