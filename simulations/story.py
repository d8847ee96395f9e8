"""A whole horizontal run, every role, in one place and without a network.

Read `federated_run` top to bottom: it is the protocol when nobody fails. The deployed system does
the same steps, with each party in its own process and the coordinator relaying signed messages; a
test holds both to the same integers. What is left out here is only what protects the steps in
transit and against loss (signatures, transcripts, policy, ledger files; attempts, pauses, returns):
see `privacy/framing.py`, `party_client/session.py` and `coordinator/rounds.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.charges import NOISED_SIZE
from models.evaluation import histogram_auc
from models.families import start_parameters
from models.plan import parse_plan
from models.tags import check_tags, tag_values
from models.training import (
    Rows,
    delta_code,
    local_update,
    model_logits,
    noised_evaluation,
    noised_size,
    noised_weight,
    opened_model_delta,
    party_terms,
    public_weights,
)
from privacy.accounting import epsilon
from privacy.encryption import Adder
from privacy.errors import BudgetExceeded
from privacy.key_agreement import ExchangeKeys, KeyAgreement, agreement_hash, lead_of
from privacy.masking import SumLabel
from privacy.packing import pack_counts, pack_fields, unpack_counts, unpack_fields
from privacy.randomness import Entropy
from privacy.shared_keys import SEED_BYTES, SharedKeys


@dataclass(frozen=True)
class StoryParty:
    """What one party brings: its rows (never leave it), its public size N^ and its budget."""

    public_size: int
    training: Rows
    held_out: Rows
    scored: NDArray[np.float32]
    budget_epsilon: float
    budget_delta: float
    entropy: Entropy


@dataclass(frozen=True)
class StoryEnd:
    """What came out. `sums`: each round's opened integer aggregate; `tags` stay at their party."""

    sums: tuple[tuple[int, ...], ...]
    evaluation: tuple[int, ...]
    auc: float | None
    parameters: NDArray[np.float64]
    tags: Mapping[str, Mapping[str, list[str]]]
    epsilon: Mapping[str, float]


def secure_sum(
    keys: Mapping[str, SharedKeys],
    round_number: int,
    tensor: str,
    payloads: Mapping[str, NDArray[np.int64]],
    single_opening: bool,
) -> NDArray[np.int64]:
    """The sum of all members' `payloads` (k, DATA_SLOTS), which the coordinator cannot open.

    Each member tags its chunks, masks them with pairwise masks that cancel in the sum of exactly
    these members, and encrypts under the run key; the coordinator adds. With `single_opening` each
    adds a mask of its own as well, and reveals that once all have uploaded. Each opens the sum,
    checks its tag, and shows a tag of what it opened: all must have opened the same.
    """
    label = SumLabel(round_number, 1, tensor, tuple(sorted(payloads)))
    seeds = {me: os.urandom(SEED_BYTES) for me in label.members if single_opening}
    uploads = {me: keys[me].protect(payloads[me], label, seeds.get(me)) for me in label.members}
    with Adder() as coordinator:
        total = coordinator.add(list(uploads.values()))
    revealed = {me: keys[me].seal_seed(label, seed) for me, seed in seeds.items()}
    opened, shown = {}, {}
    for me in label.members:
        known = {peer: keys[me].open_seed(label, peer, one) for peer, one in revealed.items()}
        opened[me] = keys[me].open_total(total, len(payloads[me]), label, known)
        shown[me] = keys[me].opening_tag(label, opened[me])
    for me in label.members:
        keys[me].check_openings(shown[me], shown, label)
    return opened[label.members[0]]


def federated_run(plan_source: bytes, run: str, parties: Mapping[str, StoryParty]) -> StoryEnd:
    """Play the coordinator and all `parties` through one run. Raises BudgetExceeded as they do."""
    members = sorted(parties)

    # 1. PLAN. A requester's TOML; its hash is its identity.
    plan = parse_plan(plan_source)
    tags = check_tags(plan)
    plan_hash = hashlib.sha256(plan_source).digest()

    # 2. PREFLIGHT. Each party turns the plan into its own terms and reserves what they cost.
    terms = {me: party_terms(plan, parties[me].public_size) for me in members}
    for me, party in parties.items():
        if epsilon(terms[me].mechanisms, party.budget_delta) > party.budget_epsilon:
            raise BudgetExceeded(f"{me}: the plan costs more than the budget allows")

    with ExitStack() as erasing:
        # 3. KEYS. Ephemeral X25519 and ML-KEM keys, agreed pairwise; the lead draws the BFV key
        #    and seals it to each other member. The coordinator relays, and can open nothing. All
        #    confirm that they hold the same key and the same model.
        exchange = {me: ExchangeKeys.generate() for me in members}
        offers = {me: exchange[me].offer for me in members}
        agreement = agreement_hash(bytes(32), plan_hash, run, 1, offers)
        lead = lead_of(dict.fromkeys(members, 0))
        sides = {me: KeyAgreement(me, exchange[me], lead, offers, agreement) for me in members}
        seals = {me: sides[me].seal() for me in members}
        keys = {me: sides[me].complete(seals) for me in members}
        for me in members:
            erasing.callback(keys[me].erase)
        width = parties[lead].training.features.shape[1]
        parameters = start_parameters(plan.model, width, plan_hash)
        model_digest = hashlib.sha256(parameters.tobytes()).digest()
        confirmations = {me: keys[me].confirmation(me, model_digest) for me in members}
        for me in members:
            keys[me].check_confirmations(confirmations, model_digest)

        # 4. WEIGHTS. Public constants; or each party's noised size over the sum of all.
        once = plan.aggregation.single_opening
        sizes = {me: parties[me].public_size for me in members}
        code = delta_code(plan, sizes)
        if plan.aggregation.weights == NOISED_SIZE:
            counted = {
                me: noised_size(terms[me], parties[me].training, parties[me].entropy)
                for me in members
            }
            payloads = {me: pack_counts(np.array([counted[me]])) for me in members}
            total = int(unpack_counts(secure_sum(keys, 0, "weights", payloads, once), 1)[0])
            weights = {me: noised_weight(counted[me], total) for me in members}
        else:
            weights = public_weights(plan, sizes)

        # 5. ROUNDS. Train locally under DP, quantise, sum securely; all add the average delta.
        sums = []
        for number in range(1, plan.training.rounds + 1):
            payloads = {}
            for me in members:
                update = local_update(
                    plan,
                    plan_hash,
                    terms[me],
                    parameters,
                    parties[me].training,
                    code,
                    weights[me],
                    number,
                    parties[me].entropy,
                )
                payloads[me] = pack_fields(update.values)
            opened = secure_sum(keys, number, "update", payloads, once)
            summed = unpack_fields(opened, parameters.size)
            parameters = parameters + opened_model_delta(plan, code, summed, members, sizes)
            sums.append(tuple(int(one) for one in summed))

        # 6. EVALUATION. Label x score-bin counts of held-out customers, each party's full noise.
        payloads = {}
        for me in members:
            counts = noised_evaluation(
                plan, terms[me], parameters, parties[me].held_out, parties[me].entropy
            )
            payloads[me] = pack_counts(counts)
        opened = secure_sum(keys, plan.training.rounds + 1, "evaluation", payloads, once)
        evaluation = unpack_counts(opened, 2 * plan.evaluation.bins)

    # 7. PUBLICATION. Each party scores its own consenting customers and keeps the tags.
    written = {}
    for me in members:
        scores = 1 / (1 + np.exp(-model_logits(plan, parameters, parties[me].scored)))
        written[me] = {
            tag.name: tag_values(tag, scores, plan.publication.thresholds) for tag in tags
        }

    # 8. EVIDENCE. What each party's ledger says it cost.
    spent = {me: epsilon(terms[me].mechanisms, terms[me].delta) for me in members}
    return StoryEnd(
        tuple(sums),
        tuple(int(one) for one in evaluation),
        histogram_auc(evaluation),
        parameters,
        written,
        spent,
    )
