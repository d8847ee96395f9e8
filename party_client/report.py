"""A party's own report of a run: exact figures, for its own eyes, in HOME/reports (mode 0600)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.evaluation import auc, histogram_auc, top_decile_lift
from party_client.ledger_words import TWO_PARTY
from party_client.node import Node
from party_client.publication import FinishedRun
from privacy.accounting import epsilon
from privacy.mechanism import Mechanism, SampledGaussian


@dataclass
class RunRecord:
    """What a run was like at this party. Nothing of it is ever sent.

    `epochs`: key agreements until now; `returned`: this service came to the run while it was under
    way; `participants`: whoever was there at the end;
    `saturated`: by round, the share of coordinates that were clamped.
    """

    epochs: int
    returned: bool
    participants: tuple[str, ...] = ()
    round_seconds: list[float] = field(default_factory=list)
    saturated: dict[int, float] = field(default_factory=dict)


def write_report(node: Node, run: FinishedRun, tags_written: int, record: RunRecord) -> Path:
    """Write HOME/reports/RUN.json. Nothing in it is ever sent: counts and AUC are exact."""
    admission = run.admission
    terms = admission.terms
    scores = run.scores(admission.held_out.features)
    labels = admission.held_out.labels
    state = node.ledger.state()
    ran = state.runs[run.run_id]

    def spent(*mechanisms: Mechanism) -> float:
        return epsilon(mechanisms, terms.delta)

    training = [one for one in run.charged if isinstance(one, SampledGaussian)]
    report: dict[str, Any] = {
        "run": run.run_id,
        "plan": admission.plan.name,
        "plan_digest": admission.digest,
        "model_digest": run.model_digest,
        "party": node.party,
        "parties": list(run.parties),
        "participants": list(record.participants),
        "two_party": TWO_PARTY if ran.two_party else None,
        "unit_of_privacy": "one customer at one party, add/remove adjacency",
        "public_size": terms.public_size,
        "customers": admission.examples.customers,
        "consented": admission.examples.consented,
        "eligible": len(admission.examples.customer_ids),
        "rejected": dict(admission.examples.rejected),
        "clamped": dict(admission.examples.clamped),
        "held_out": len(labels),
        "epsilon_run": spent(*run.charged),
        "epsilon_training": spent(*training),
        "epsilon_evaluation": spent(terms.evaluation),
        "epsilon_weights": spent(terms.weights) if terms.weights else None,
        "delta": terms.delta,
        "epsilon_spent": epsilon(state.charged(), state.cap_delta),
        "budget_used": state.cap.used(state.charged()),
        "budget_epsilon": state.cap_epsilon,
        "budget_delta": state.cap_delta,
        "joint_auc": auc(scores, labels),
        "joint_lift": top_decile_lift(scores, labels),
        "released_auc": histogram_auc(run.evaluation),
        "tags_written": tags_written,
        "round_seconds": [round(one, 4) for one in record.round_seconds],
        "saturated": {str(number): share for number, share in sorted(record.saturated.items())},
        "attempts": {str(one): last for one, last in sorted(ran.attempts.items()) if one > 0},
        "epochs": record.epochs,
        "returned": record.returned,
    }
    node.reports.mkdir(mode=0o700, exist_ok=True)
    path = node.reports / f"{run.run_id}.json"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=2)
    return path
