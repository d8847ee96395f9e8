"""Ledgers for tests: a clock that the test turns, and short ways to write entries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from privacy import accounting
from privacy.budget import Cap, Limit
from privacy.ledger import Ledger, Provenance
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian

DELTA = 1e-5
TRAINING = SampledGaussian(sample_rate=0.15, noise_multiplier=4.0, steps=80)
ROUND = TRAINING.split(10)
RELEASE = Gaussian(noise_multiplier=5.0)
BOTH = (TRAINING, RELEASE)
START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FROM = Provenance(
    family="mlp",
    engine="factorised",
    dataset="ab" * 32,
    sampler="poisson",
    rng="aes",
    code_version="0.1.0",
    recipients=("bank", "shop"),
)


class Clock:
    """Goes on by a second at each look, and otherwise as the test says."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def make(path: Path, cap: float = 8.0, clock: Clock | None = None) -> Ledger:
    """A new ledger of party bank."""
    return Ledger.create(
        path,
        party="bank",
        cap_epsilon=cap,
        cap_delta=DELTA,
        code_version="0.1.0",
        clock=clock or Clock(),
    )


def reopened(path: Path) -> Ledger:
    """The file as another process would find it, an hour after `START`."""
    return Ledger(path, Clock(START + timedelta(hours=1)))


def reserve(
    ledger: Ledger,
    run: str,
    mechanisms: Sequence[Mechanism] = BOTH,
    *,
    plan: str = "churn",
    purpose: str = "retention",
    limits: Sequence[Limit] = (),
    valid_for: timedelta = DAY,
) -> None:
    """`Ledger.reserve`, of a run of plan churn for retention unless said otherwise."""
    ledger.reserve(
        run,
        plan_digest="0" * 64,
        plan=plan,
        purpose=purpose,
        mechanisms=mechanisms,
        valid_for=valid_for,
        limits=limits,
    )


def intend(
    ledger: Ledger, run: str = "run-1", number: int = 1, mechanism: Mechanism = ROUND
) -> None:
    """`Ledger.intent` with some provenance."""
    ledger.intent(run, number, mechanism, FROM)


def commit(ledger: Ledger, run: str, number: int, attempt: int = 1) -> None:
    """`Ledger.commit` for three parties."""
    ledger.commit(run, number, attempt, ("airline", "bank", "shop"))


def epsilon_of(*mechanisms: Mechanism) -> float:
    """What a ledger at `DELTA` says of them."""
    return accounting.epsilon(mechanisms, DELTA)


def release_that_fits(times: int, cap: Cap) -> Gaussian:
    """A Gaussian release of which exactly so many are within `cap`."""
    return Gaussian(((times + 0.5) * cap.order / (2 * cap.allowance)) ** 0.5)
