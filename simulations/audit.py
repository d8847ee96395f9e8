"""A white-box audit of an engine in one training run: canaries, scores, a lower bound on epsilon.

Steinke, Nasr, Jagielski 2023, section 5 and appendix D; the arithmetic is `privacy.audit`'s. The
training is the real one (`privacy.dp_sgd.train` over a real engine and mechanism), one step at a
time. The auditor sees every parameter vector, chose the rows and the start, and knows all but the
canaries' coins, the samples and the noise: more than anyone in service, as the claim allows.

A canary is a row with one large feature of its own, so its gradient is far beyond the clipping norm
and nearly orthogonal to every other canary's. That is the worst row for a DP-SGD that clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import binary_cross_entropy_with_logits

from models import families
from models.plan import Model
from privacy.accounting import calibrate_training, epsilon
from privacy.audit import audit_scores
from privacy.dp_sgd import StepRule, load_parameters, parameter_vector, train
from privacy.engine import Engine
from privacy.errors import AuditFailed
from privacy.factorised import one_thread
from privacy.mechanism import SampledGaussian, gradient_mechanism
from privacy.network import Network
from privacy.randomness import Entropy, generator, system_entropy

MakeEngine = Callable[[Model, NDArray[np.float32], NDArray[np.float32]], Engine]

ENGINES: dict[str, MakeEngine] = {
    "factorised": lambda model, x, y: families.engine(model, "factorised", x, y),
    "opacus": lambda model, x, y: families.engine(model, "opacus", x, y),
}
FAMILIES = {
    "logistic": Model(family="logistic"),
    "mlp": Model(family="mlp", hidden=(8, 8)),
    "residual": Model(family="residual", hidden=(8, 8)),
}

SAMPLE_RATE = 0.25
STEPS = 20
DELTA = 1e-6
CLIPPING_NORM = 1.0
# A canary's feature. Its gradient is hundreds of times the clipping norm.
AMPLITUDE = 1000.0
# How far noise may move a canary's logit in the whole run: more, and its gradient could vanish.
LOGIT_DRIFT = 0.03
# A first hidden unit's activation on a canary, about: small, so that logits start near 0.
FIRST_ACTIVATION = 0.1
# Shares of the canaries that are guessed: few for a small leak, many for a missing clip.
GUESSED = (0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Audited:
    """One audit: what was claimed at `delta`, and what is refuted below at `confidence`."""

    engine: str
    family: str
    claimed_epsilon: float
    lower_bound: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int

    @property
    def violated(self) -> bool:
        """Whether the claim is refuted. False means nothing: the audit certifies nothing."""
        return self.lower_bound > self.claimed_epsilon

    @property
    def verdict(self) -> str:
        """For people."""
        return "VIOLATED" if self.violated else "consistent: a lower bound certifies nothing"


@dataclass(frozen=True)
class Canaries:
    """m rows of m features (m, m), labels (m,), the model and its start (d,): auditor's choices."""

    shape: Network
    start: NDArray[np.float64]
    features: NDArray[np.float32]
    labels: NDArray[np.float32]


def make_canaries(family: str, count: int, rng: np.random.Generator) -> Canaries:
    """Canary i has AMPLITUDE in feature i, 0 elsewhere, and a label by a fair coin."""
    shape = families.network(FAMILIES[family], count)
    features = np.eye(count, dtype=np.float32) * np.float32(AMPLITUDE)
    labels = rng.integers(0, 2, count).astype(np.float32)
    return Canaries(shape, _start(shape, rng), features, labels)


def audit(
    engine: str,
    family: str,
    mechanism: SampledGaussian,
    *,
    canaries: int,
    delta: float = DELTA,
    confidence: float = 0.95,
    make_engine: MakeEngine | None = None,
    entropy: Entropy = system_entropy,
) -> Audited:
    """Audit `mechanism` on one engine and family; `canaries` is the public size N^ as well.

    `make_engine` puts another engine in the place of the named one. The claim is the one of the
    ledger: `privacy.accounting.epsilon` of the mechanism. Of a sound engine `violated` is True with
    probability at most 1 - confidence.
    """
    rows = make_canaries(family, canaries, generator(entropy("canaries")))
    included = generator(entropy("coins")).random(canaries) < 0.5
    make = make_engine or ENGINES[engine]
    with one_thread():
        made = make(FAMILIES[family], rows.features[included], rows.labels[included])
        scores = _scores(rows, made, mechanism, generator(entropy("training")))
    guesses = [2 * max(1, int(share * canaries / 2)) for share in GUESSED]
    bound = audit_scores(scores, included, guesses, delta, confidence)
    return Audited(
        engine=engine,
        family=family,
        claimed_epsilon=epsilon([mechanism], delta),
        lower_bound=bound.epsilon,
        delta=delta,
        confidence=confidence,
        canaries=canaries,
        guesses=bound.guesses,
        correct=bound.correct,
    )


def audit_mechanism(target_epsilon: float, canaries: int) -> SampledGaussian:
    """STEPS steps at SAMPLE_RATE, calibrated to the target at DELTA as a plan's training is."""
    unit, _ = gradient_mechanism(SAMPLE_RATE, canaries, 1.0, STEPS)
    sigma = calibrate_training(target_epsilon, DELTA, unit.sample_rate, STEPS)
    return SampledGaussian(unit.sample_rate, sigma, STEPS)


def as_data(audits: Sequence[Audited], mechanism: SampledGaussian) -> dict[str, Any]:
    """What ran and what came out, as plain data."""
    return {
        "unit_of_privacy": "one customer at one party",
        "adjacency": "add or remove",
        "mechanism": mechanism.as_data(),
        "audits": [
            {**asdict(one), "violated": one.violated, "verdict": one.verdict} for one in audits
        ],
    }


def as_text(audits: Sequence[Audited], mechanism: SampledGaussian) -> str:
    """A line for each audit, under what all have in common."""
    first = audits[0]
    lines = [
        "epsilon for adding or removing one customer at one party, at delta "
        f"{first.delta:g}; each bound holds with confidence {first.confidence:g}",
        f"{first.canaries} canaries, {mechanism.steps} steps at sample rate "
        f"{mechanism.sample_rate:g}, noise multiplier {mechanism.noise_multiplier:.3f}",
    ]
    lines += [
        f"{one.engine:10}  {one.family:8}  claimed {one.claimed_epsilon:.3f}  "
        f"at least {one.lower_bound:.3f}  ({one.correct} of {one.guesses} guesses right)  "
        f"{one.verdict}"
        for one in audits
    ]
    return "\n".join(lines)


def refuse_violations(audits: Sequence[Audited]) -> None:
    """Raise AuditFailed if one of the claims is refuted."""
    refuted = ", ".join(f"{one.engine}/{one.family}" for one in audits if one.violated)
    if refuted:
        raise AuditFailed(
            f"the claimed epsilon is refuted for {refuted}; run the audit again with more canaries "
            "and, if it stays, train with neither this engine nor this version"
        )


def _scores(
    rows: Canaries, engine: Engine, mechanism: SampledGaussian, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Evidence for each canary's inclusion (m,), from the parameters of every step alone.

    A step releases r = sum of sampled clipped gradients + noise of deviation s = sigma * C. For a
    canary of clipped gradient c, orthogonal to all others, the log-likelihood ratio of "included"
    is log(1 - q + q exp((<r, c> - |c|^2 / 2) / s^2)); its sum over steps is the strongest test
    (Neyman, Pearson 1933). The others' expected part of <r, c> is taken off first.
    """
    canaries, q = len(rows.labels), mechanism.sample_rate
    deviation = mechanism.noise_multiplier * CLIPPING_NORM
    batch = max(1, round(q * canaries))
    rate = LOGIT_DRIFT * batch / (AMPLITUDE * deviation * math.sqrt(mechanism.steps))
    rule = StepRule(batch_size=batch, clipping_norm=CLIPPING_NORM, learning_rate=rate)
    gradients = _ClippedGradients(rows)
    parameters, scores = rows.start, np.zeros(canaries)
    for _ in range(mechanism.steps):
        own = gradients.at(parameters)
        after = train(engine, parameters, mechanism.split(1), rule, rng)
        released = (parameters - after) * (batch / rate)
        squares = np.einsum("ij,ij->i", own, own, dtype=np.float64)
        others = 0.5 * q * (own @ own.sum(axis=0) - squares)
        seen = own @ released.astype(np.float32) - others
        with np.errstate(divide="ignore"):  # log 0 at q = 1 is meant
            absent, present = np.log(1 - q), np.log(q)
        scores += np.logaddexp(absent, present + (seen - squares / 2) / deviation**2)
        parameters = after
    return scores


class _ClippedGradients:
    """Each canary's clipped gradient by torch.func, without the audited engine's help."""

    def __init__(self, rows: Canaries) -> None:
        self._model = rows.shape.module()
        self._rows = torch.from_numpy(rows.features), torch.from_numpy(rows.labels)

        def loss(
            parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor
        ) -> torch.Tensor:
            logit = functional_call(self._model, parameters, (x[None],))[0]
            return binary_cross_entropy_with_logits(logit, y)

        self._gradient = vmap(grad(loss), in_dims=(None, 0, 0))

    def at(self, parameters: NDArray[np.float64]) -> NDArray[np.float32]:
        """Shape (m, d), rows of norm at most CLIPPING_NORM."""
        load_parameters(self._model, parameters)
        named = {name: one.detach() for name, one in self._model.named_parameters()}
        parts = self._gradient(named, *self._rows)
        flat = torch.cat([parts[name].flatten(1) for name in named], dim=1)
        factors = (CLIPPING_NORM / flat.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)
        clipped: NDArray[np.float32] = flat.mul_(factors[:, None]).numpy()
        return clipped


def _start(shape: Network, rng: np.random.Generator) -> NDArray[np.float64]:
    """Weights under which the canaries' gradients lie in the first layer, each in its own column.

    Hidden weights are positive, so every unit is active for every canary; the first layer's are
    small, so that activations are, and with them the gradients of all later layers, which canaries
    share. A model of one layer starts at zero.
    """
    model: nn.Module = shape.module()
    weights = [one for one in model.parameters() if one.dim() == 2]
    if len(weights) > 1:
        with torch.no_grad():
            for one in weights:
                draw = rng.standard_normal(tuple(one.shape)) / math.sqrt(one.shape[1])
                drawn = torch.from_numpy(draw.astype(np.float32))
                one.copy_(drawn if one is weights[-1] else drawn.abs_())
            weights[0].mul_(FIRST_ACTIVATION * math.sqrt(shape.inputs) / AMPLITUDE)
    return parameter_vector(model)
