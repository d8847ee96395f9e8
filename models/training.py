"""What one party computes in a run, as plain functions of the plan, its terms and its rows.

The party service and `simulations.story` both call these, so both do the same arithmetic.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.catalogue import input_width
from models.charges import NOISED_SIZE, charges
from models.evaluation import score_histogram
from models.families import engine, network
from models.plan import Plan
from privacy.dp_sgd import StepRule, train
from privacy.errors import ProtocolError
from privacy.factorised import row_logits
from privacy.mechanism import Gaussian, Mechanism, SampledGaussian
from privacy.packing import COUNT_BOUND, DeltaCode
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
    """What a plan means at one party: fixed by public constants before any data is touched.

    `weights`: how the number of training rows is noised; None if weights are public.
    """

    public_size: int
    delta: float
    training: SampledGaussian
    evaluation: Gaussian
    rule: StepRule
    local_steps: int
    weights: Gaussian | None = None

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """All that the run will charge: what a ledger reserves."""
        always = (self.training, self.evaluation)
        return always if self.weights is None else (*always, self.weights)

    @property
    def round_mechanism(self) -> SampledGaussian:
        """The part of the training that one round spends."""
        return self.training.split(self.local_steps)


def party_terms(plan: Plan, public_size: int) -> Terms:
    """Calibrate the plan's epsilons at a party of public size N^ (rounding to the private side)."""
    charged = charges(plan, public_size)
    return Terms(
        public_size=public_size,
        delta=charged.delta,
        training=charged.training,
        evaluation=charged.evaluation,
        rule=_step_rule(plan, charged.training, charged.batch),
        local_steps=plan.training.local_steps,
        weights=charged.weights,
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
    """Each member's weight in the average; public constants that sum to 1.

    Raises ValueError for a plan whose weights are noised instead.
    """
    if plan.aggregation.weights == NOISED_SIZE:
        raise ValueError("the weights of this plan are not public")
    if plan.aggregation.weights == "equal":
        return {party: 1 / len(public_sizes) for party in public_sizes}
    total = sum(public_sizes.values())
    return {party: size / total for party, size in public_sizes.items()}


def noised_size(terms: Terms, rows: Rows, entropy: Entropy) -> int:
    """This party's number of training rows with its full noise, clamped to [1, 2**40].

    One customer changes the number by at most 1. What is returned may leave the party in a secure
    sum only. For plans with noised weights; raises ValueError for another.
    """
    if terms.weights is None:
        raise ValueError("the weights of this plan are public")
    counted = np.array([len(rows.labels)], dtype=np.int64)
    noised = terms.weights.noised(counted, generator(entropy("weights")))
    return int(np.clip(noised, 1, COUNT_BOUND)[0])


def noised_weight(own: int, total: int) -> float:
    """A party's weight from its noised size and the opened sum of all participants' ones.

    Raises ProtocolError if the sum is smaller than our own part of it: sizes are at least 1.
    """
    if not 1 <= own <= total:
        raise ProtocolError("the sum of the parties' weights is smaller than this party's own")
    return own / total


def delta_code(plan: Plan, public_sizes: Mapping[str, int]) -> DeltaCode:
    """How the members of one key agreement turn model deltas into integers.

    `public_sizes`: these members'. Noised weights have no public bound but 1.
    """
    largest = 1.0
    if plan.aggregation.weights != NOISED_SIZE:
        largest = max(public_weights(plan, public_sizes).values())
    return DeltaCode(plan.aggregation.update_bound, largest, len(public_sizes))


def opened_model_delta(
    plan: Plan,
    code: DeltaCode,
    total: NDArray[np.int64],
    participants: Sequence[str],
    public_sizes: Mapping[str, int],
) -> NDArray[np.float64]:
    """The average model delta, shape (d,), from the opened sum of `participants`' integers.

    `public_sizes`: of all members of the key agreement. If some of these take no part, the
    participants' public weights no longer sum to 1, and the sum is divided by what they sum to.
    Noised weights are known as one sum only: whoever is missing counts as no change.
    """
    weighted = code.dequantise(total, len(participants))
    if plan.aggregation.weights == NOISED_SIZE:
        return weighted
    weights = public_weights(plan, public_sizes)
    return weighted / sum(weights[party] for party in sorted(participants))


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


@dataclass(frozen=True)
class LocalUpdate:
    """One party's result of one round: a post-processing of its noised gradients.

    `values`: the weighted model delta as integers, shape (d,); `saturated`: how many of its
    coordinates were clamped, which stays at the party. `model_delta` (before clamping) and
    `rounding_key` are what a resend in a later epoch needs (`recoded`).
    """

    values: NDArray[np.int64]
    saturated: int
    model_delta: NDArray[np.float64] = field(repr=False)
    rounding_key: bytes = field(repr=False)


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
) -> LocalUpdate:
    """One round at one party: local DP-SGD, then the weighted model delta as integers."""
    summing = engine(plan.model, plan.training.engine, rows.features, rows.labels)
    noise = generator(entropy(f"round {round_number} training"))
    trained = train(summing, parameters, terms.round_mechanism, terms.rule, noise)
    rounding_key = entropy(f"round {round_number} rounding")
    return _coded(trained - parameters, rounding_key, code, weight)


def recoded(update: LocalUpdate, code: DeltaCode, weight: float) -> LocalUpdate:
    """The same noised model delta, rounded with the same randomness, under a later epoch's public
    constants: the identical values if these are the same. Touches no data and draws nothing."""
    return _coded(update.model_delta, update.rounding_key, code, weight)


def _coded(
    model_delta: NDArray[np.float64], rounding_key: bytes, code: DeltaCode, weight: float
) -> LocalUpdate:
    values = code.quantise(model_delta, weight, generator(rounding_key))
    return LocalUpdate(values, code.saturated(model_delta), model_delta, rounding_key)


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
