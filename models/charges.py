"""What a plan charges one party: its mechanisms, from public constants alone. Nothing learns here,
so a program that only judges plans needs no learning library.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.plan import Plan
from privacy.accounting import calibrate_release, calibrate_training, run_delta
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian, gradient_mechanism

NOISED_SIZE = "noised_size"


@dataclass(frozen=True)
class Charges:
    """The mechanisms of one run at a party of public size N^, at the run's `delta`.

    `batch`: of a training step. `weights`: how the number of training rows is noised; None if
    weights are public.
    """

    delta: float
    batch: int
    training: SampledGaussian
    evaluation: Gaussian
    weights: Gaussian | None

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """All that the run will charge: what a ledger reserves."""
        always = (self.training, self.evaluation)
        return always if self.weights is None else (*always, self.weights)


def charges(plan: Plan, public_size: int) -> Charges:
    """Calibrate the plan's epsilons at a party of public size N^ (rounding to the private side).

    Raises PrivacyError for an epsilon that no noise reaches.
    """
    delta = run_delta(public_size, plan.privacy.delta)
    steps = plan.training.rounds * plan.training.local_steps
    unit, batch = gradient_mechanism(plan.training.sample_rate, public_size, 1.0, steps)
    sigma = calibrate_training(plan.privacy.epsilon, delta, unit.sample_rate, steps)
    weights = None
    if plan.aggregation.weights == NOISED_SIZE:
        weights = Gaussian(calibrate_release(plan.privacy.weights_epsilon, delta))
    return Charges(
        delta=delta,
        batch=batch,
        training=SampledGaussian(unit.sample_rate, sigma, steps),
        evaluation=Gaussian(calibrate_release(plan.privacy.evaluation_epsilon, delta)),
        weights=weights,
    )
