"""What a joint model is compared with: the same model alone under the same epsilon, and no DP.

A party's node has no non-private mode and sends no exact figure. These are computed here, in
process, by whoever holds the homes of all parties: a demo or an experiment, never a service.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.evaluation import auc, top_decile_lift
from models.families import build, engine, start_parameters
from models.plan import Plan, parse_plan
from models.training import Rows, Terms, model_logits, party_terms
from privacy.dp_sgd import parameter_vector, train
from privacy.randomness import Entropy, generator, system_entropy


@dataclass(frozen=True)
class Figures:
    """AUC and top-decile lift on held-out customers; None where a class is absent there."""

    auc: float | None
    lift: float | None


def figures(plan_source: bytes, parameters: NDArray[np.float64], held_out: Rows) -> Figures:
    """Exact figures of a model on held-out rows."""
    plan = parse_plan(plan_source)
    logits = model_logits(plan, parameters, held_out.features)
    return Figures(auc(logits, held_out.labels), top_decile_lift(logits, held_out.labels))


def train_alone(
    plan_source: bytes,
    public_size: int,
    rows: Rows,
    entropy: Entropy = system_entropy,
) -> NDArray[np.float64]:
    """One party trains the plan's model by itself: same steps, noise and epsilon, no partners."""
    plan, plan_hash = parse_plan(plan_source), hashlib.sha256(plan_source).digest()
    terms: Terms = party_terms(plan, public_size)
    width = rows.features.shape[1]
    return train(
        engine(plan.model, plan.training.engine, rows.features, rows.labels),
        start_parameters(plan.model, width, plan_hash),
        terms.training,
        terms.rule,
        generator(entropy("alone")),
    )


def train_without_privacy(plan_source: bytes, rows: Rows) -> NDArray[np.float64]:
    """The same model on one party's rows without DP: L-BFGS on the mean loss plus |w|^2 / (2 n)."""
    plan: Plan = parse_plan(plan_source)
    model = build(plan.model, rows.features.shape[1], hashlib.sha256(plan_source).digest())
    features, labels = torch.from_numpy(rows.features), torch.from_numpy(rows.labels)
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-7
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(features), labels)
        penalty = torch.stack([one.square().sum() for one in model.parameters()]).sum()
        total = loss + penalty / (2 * len(labels))
        torch.autograd.backward(total)
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return parameter_vector(model)
