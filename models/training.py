"""What one party computes in a run, as plain functions of the plan, its terms and its rows.

The party service and `simulations.story` both call these, so both do the same arithmetic.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.catalogue import input_width
from models.evaluation import score_histogram
from models.families import engine, network
from models.plan import Plan
from privacy.accounting import calibrate_release, calibrate_training, run_delta
from privacy.dp_sgd import StepRule, train
from privacy.factorised import row_logits
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian, gradient_mechanism
from privacy.packing import DeltaCode
from privacy.randomness import Entropy, generator

# Chosen on the simulated market only, for all model families: docs/explanation/utility.md.
NOISE_WALK = 2.0
MAX_LEARNING_RATE = 8.0


@dataclass(frozen=True)
class Rows:
    """Training rows: one customer each. features (n, k) in [0, 1]; labels (n,) of 0 and 1."""

    features: NDArray[np.float32]
    labels: NDArray[np.float32]

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Rows:
        return Rows(self.features[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Terms:
    """What a plan means at one party: fixed by public constants before any data is touched."""

    public_size: int
    delta: float
    training: SampledGaussian
    evaluation: Gaussian
    rule: StepRule
    local_steps: int

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """All that the run will charge: what a ledger reserves."""
        return (self.training, self.evaluation)

    @property
    def round_mechanism(self) -> SampledGaussian:
        """The part of the training that one round spends."""
        return self.training.split(self.local_steps)


def party_terms(plan: Plan, public_size: int) -> Terms:
    """Calibrate the plan's epsilons at a party of public size N^ (rounding to the private side)."""
    delta = run_delta(public_size, plan.privacy.delta)
    steps = plan.training.rounds * plan.training.local_steps
    unit, batch = gradient_mechanism(plan.training.sample_rate, public_size, 1.0, steps)
    sigma = calibrate_training(plan.privacy.epsilon, delta, unit.sample_rate, steps)
    training = SampledGaussian(unit.sample_rate, sigma, steps)
    return Terms(
        public_size=public_size,
        delta=delta,
        training=training,
        evaluation=Gaussian(calibrate_release(plan.privacy.evaluation_epsilon, delta)),
        rule=_step_rule(plan, training, batch),
        local_steps=plan.training.local_steps,
    )


def _step_rule(plan: Plan, mechanism: SampledGaussian, batch: int) -> StepRule:
    chosen = plan.training
    rate = chosen.learning_rate
    if rate is None:
        parameters = network(plan.model, input_width(plan)).parameters_count
        tied = noise_tied_rate(mechanism, batch, chosen.clipping_norm, parameters)
        rate = tied * (1 - chosen.momentum)  # momentum multiplies steps by the inverse
    return StepRule(
        batch_size=batch,
        clipping_norm=chosen.clipping_norm,
        learning_rate=rate,
        momentum=chosen.momentum,
        l2=chosen.l2,
        tail=chosen.tail,
    )


def noise_tied_rate(
    mechanism: SampledGaussian, batch: int, clipping_norm: float, parameters: int
) -> float:
    """The learning rate that goes with a party's noise, from public constants alone.

    Over all T steps noise moves each of the d parameters by a random walk of standard deviation
    rate * sigma * C * sqrt(T) / B. The rate makes that NOISE_WALK / d ** (1/4), at most
    MAX_LEARNING_RATE: the smaller a party or its epsilon, the smaller its steps. The form and its
    constants are fitted, not derived.
    """
    walk = mechanism.noise_multiplier * clipping_norm * math.sqrt(mechanism.steps) / batch
    return min(MAX_LEARNING_RATE, NOISE_WALK / (walk * math.pow(parameters, 0.25)))


def public_weights(plan: Plan, public_sizes: Mapping[str, int]) -> dict[str, float]:
    """Each member's weight in the average; public constants that sum to 1."""
    if plan.aggregation.weights == "equal":
        return {party: 1 / len(public_sizes) for party in public_sizes}
    total = sum(public_sizes.values())
    return {party: size / total for party, size in public_sizes.items()}


def delta_code(plan: Plan, weights: Mapping[str, float]) -> DeltaCode:
    """How this cohort turns model deltas into integers."""
    return DeltaCode(plan.aggregation.update_bound, max(weights.values()))


def held_out(customers: Sequence[str], local_key: bytes, fraction: float) -> NDArray[np.bool_]:
    """Which customers are held out: an HMAC under the party's own key, fixed for life.

    A customer held out at one fraction is held out at every larger one.
    """
    limit = int(fraction * 2**64)
    return np.array(
        [
            int.from_bytes(
                hmac.new(local_key, b"held out 1\0" + one.encode(), hashlib.sha256).digest()[:8],
                "big",
            )
            < limit
            for one in customers
        ],
        dtype=np.bool_,
    )


def local_update(
    plan: Plan,
    plan_hash: bytes,
    terms: Terms,
    parameters: NDArray[np.float64],
    rows: Rows,
    code: DeltaCode,
    weight: float,
    round_number: int,
    entropy: Entropy,
) -> NDArray[np.int64]:
    """One round at one party: local DP-SGD, then the weighted model delta as 20-bit integers.

    The result is a post-processing of `terms.round_mechanism`'s noised gradients.
    """
    summing = engine(plan.model, plan.training.engine, rows.features, rows.labels)
    noise = generator(entropy(f"round {round_number} training"))
    trained = train(summing, parameters, terms.round_mechanism, terms.rule, noise)
    rounding = generator(entropy(f"round {round_number} rounding"))
    return code.quantise(trained - parameters, weight, rounding)


def model_logits(
    plan: Plan, parameters: NDArray[np.float64], features: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Logits of shape (n,) for features (n, k); each depends on its own row only."""
    return row_logits(network(plan.model, features.shape[1]), parameters, features)


def noised_evaluation(
    plan: Plan,
    terms: Terms,
    parameters: NDArray[np.float64],
    rows: Rows,
    entropy: Entropy,
) -> NDArray[np.int64]:
    """The held-out rows' label x score-bin counts with this party's full noise."""
    logits = model_logits(plan, parameters, rows.features)
    counts = score_histogram(logits, rows.labels, plan.evaluation.bins, plan.evaluation.logit_bound)
    return terms.evaluation.noised(counts, generator(entropy("evaluation")))
