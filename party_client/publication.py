"""Publication: score this party's own customers with the joint model, write their tags, keep it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from models.reasons import reason_codes
from models.tags import check_tags, tag_values
from models.training import model_logits
from party_client.admission import Admission
from party_client.model_shelf import ModelFacts
from party_client.node import Node
from party_client.profile_store import Publication, TagBatch
from party_client.provenance import code_version
from privacy.accounting import epsilon
from privacy.errors import FedtagsError
from privacy.mechanism import Mechanism

LOG = logging.getLogger(__name__)


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

    The source's state of consent is taken over first: customers without consent lose their stored
    tags, whatever becomes of this run. Each tag has its reasons (`models.reasons`). A tag that this
    party's catalogue does not list is not written. The number stays at the party: its receipt does
    not hold it.
    """
    plan = run.admission.plan
    tags = [tag for tag in check_tags(plan) if node.store.catalogue[tag.name].state == "listed"]
    node.store.set_consents(node.source.consent_rows())
    scored = node.source.scoring_examples(plan, node.party)
    scores = run.scores(scored.features)
    reasons = reason_codes(plan, run.parameters, scored.features) if tags else []
    now = datetime.now(UTC)
    publication = Publication(
        run_id=run.run_id,
        kind="joint",
        plan_digest=run.admission.digest,
        model_digest=run.model_digest,
        parties=run.parties,
        epsilon=epsilon(run.charged, run.admission.terms.delta),
        delta=run.admission.terms.delta,
        published_at=now,
        as_of=plan.as_of(node.party) or now.date(),
        valid_until=now.date() + timedelta(days=plan.publication.valid_days),
    )
    batches = (
        TagBatch(
            tag.name,
            scored.customer_ids,
            tag_values(tag, scores, plan.publication.thresholds),
            scores.tolist(),
            reasons,
        )
        for tag in tags
    )
    done = node.store.publish(publication, batches)
    node.store.name_model(run.run_id, run.model_digest)
    return done.written


def keep_model(node: Node, run: FinishedRun) -> None:
    """Keep the model for `fedtags-party model export`. That it cannot be kept ends no run."""
    terms = run.admission.terms
    facts = ModelFacts(
        run=run.run_id,
        party=node.party,
        plan=run.admission.plan,
        plan_digest=run.admission.digest,
        model_digest=run.model_digest,
        parties=run.parties,
        epsilon=epsilon(run.charged, terms.delta),
        delta=terms.delta,
        public_size=terms.public_size,
        evaluation=tuple(int(one) for one in run.evaluation),
        code_version=code_version(),
        published_at=datetime.now(UTC),
    )
    try:
        node.shelf.put(facts, run.parameters)
    except (OSError, FedtagsError) as error:
        LOG.error("the model of run %s is not kept: %s", run.run_id, str(error))
