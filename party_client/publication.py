"""Publication: score this party's own customers with the joint model, write their tags."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from models.tags import check_tags, tag_values
from models.training import model_logits
from party_client.admission import Admission
from party_client.node import Node
from party_client.profile_store import Publication
from privacy.accounting import epsilon
from privacy.mechanism import Mechanism


@dataclass(frozen=True)
class FinishedRun:
    """A run whose model is final. `parameters` (d,); `evaluation`: the opened noised counts;
    `parties`: whoever this party knows to have contributed; `charged`: what the run has cost here.
    """

    run_id: str
    admission: Admission
    parties: tuple[str, ...]
    parameters: NDArray[np.float64]
    evaluation: NDArray[np.int64]
    charged: tuple[Mechanism, ...]

    @property
    def plan_hash(self) -> bytes:
        """SHA-256 of the plan."""
        return bytes.fromhex(self.admission.digest)

    @property
    def model_digest(self) -> str:
        """SHA-256 of plan hash and parameters: names the model in a tag's provenance."""
        little_endian = self.parameters.astype("<f8").tobytes()
        return hashlib.sha256(self.plan_hash + little_endian).hexdigest()

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities of shape (n,) for features (n, k)."""
        plan = self.admission.plan
        logits = model_logits(plan, self.parameters, features)
        probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        return probabilities


def publish(node: Node, run: FinishedRun) -> int:
    """Write the plan's tags for every consenting customer who can be scored; returns how many.

    Stored tags of customers without consent are removed in the same transaction. The number stays
    at the party: its receipt does not hold it.
    """
    plan = run.admission.plan
    tags = check_tags(plan)
    scored = node.source.scoring_examples(plan, node.party)
    consented = node.source.consented_customers()
    scores = run.scores(scored.features)
    now = datetime.now(UTC)
    as_of = plan.as_of(node.party) or now.date()
    publication = Publication(
        run_id=run.run_id,
        plan_digest=run.admission.digest,
        model_digest=run.model_digest,
        parties=run.parties,
        epsilon=epsilon(run.charged, run.admission.terms.delta),
        delta=run.admission.terms.delta,
        published_at=now,
        as_of=as_of,
        valid_until=now.date() + timedelta(days=plan.publication.valid_days),
    )

    def rows() -> Iterator[tuple[str, str, str, float]]:
        for tag in tags:
            values = tag_values(tag, scores, plan.publication.thresholds)
            for customer, value, score in zip(scored.customer_ids, values, scores, strict=True):
                yield customer, tag.name, value, float(score)

    node.store.publish(publication, rows(), consented=consented)
    return len(tags) * len(scored.customer_ids)
