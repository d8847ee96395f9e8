"""A whole horizontal run, every role, in one function and without a network.

Read it top to bottom: it is the protocol. The deployed system does the same steps, with each
party in its own process and the coordinator relaying signed messages; a test holds both to the
same integers. What is left out here is only what protects the steps in transit (signatures,
transcripts, policy, ledger files): see `privacy/messages.py`, `party_client/session.py` and
`coordinator/rounds.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    party_terms,
    public_weights,
)
from privacy.accounting import epsilon
from privacy.encryption import MODULUS, SLOTS, RunKey, add, keyless_context
from privacy.errors import BudgetExceeded
from privacy.key_agreement import (
    check_confirmations,
    confirm,
    lead_of,
    open_run_key,
    pair_keys,
    seal_run_key,
    shared_keys,
)
from privacy.masking import exchange_public
from privacy.packing import pack_counts, pack_fields, unpack_counts, unpack_fields
from privacy.randomness import Entropy


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

    # 3. KEYS. Ephemeral X25519 keys, agreed pairwise; the lead draws the BFV key and seals it to
    #    each other member. The coordinator relays, and can open nothing.
    secrets = {me: parties[me].entropy("exchange key") for me in members}
    offers = {me: exchange_public(secrets[me]) for me in members}
    agreement = hashlib.sha256(b"".join(offers[me] for me in members)).digest()
    pairs = {me: pair_keys(me, secrets[me], offers, agreement) for me in members}
    lead = lead_of(members)
    run_key = RunKey.generate()
    sealed = seal_run_key(run_key, lead, pairs[lead], agreement)
    keys = {lead: shared_keys(lead, run, pairs[lead], run_key, agreement)}
    for me in members:
        if me != lead:
            mine = open_run_key(sealed, me, lead, pairs[me], agreement)
            keys[me] = shared_keys(me, run, pairs[me], mine, agreement)
    tags_of_keys = {me: confirm(keys[me].run_key, agreement, me) for me in members}
    for me in members:
        check_confirmations(keys[me].run_key, agreement, members, tags_of_keys)

    # 4. ROUNDS. Train locally under DP, quantise, mask, encrypt; the coordinator adds; all open.
    weights = public_weights(plan, {me: parties[me].public_size for me in members})
    code = delta_code(plan, weights)
    adder = keyless_context()
    width = parties[lead].training.features.shape[1]
    parameters = start_parameters(plan.model, width, plan_hash)
    sums = []
    for number in range(1, plan.training.rounds + 1):
        uploads = {}
        for me in members:
            values = local_update(
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
            uploads[me] = keys[me].protect(pack_fields(values, SLOTS), "update", number)
        total = [add(adder, chunk) for chunk in zip(*uploads.values(), strict=True)]
        opened = keys[lead].open_total(total, len(total), "update", number)
        summed = unpack_fields(opened, parameters.size)
        parameters = parameters + code.dequantise(summed, len(members))
        sums.append(tuple(int(one) for one in summed))

    # 5. EVALUATION. Label x score-bin counts of held-out customers, each party's full noise.
    uploads = {}
    for me in members:
        counts = noised_evaluation(
            plan, terms[me], parameters, parties[me].held_out, parties[me].entropy
        )
        uploads[me] = keys[me].protect(pack_counts(counts, SLOTS, MODULUS), "evaluation", 0)
    total = [add(adder, chunk) for chunk in zip(*uploads.values(), strict=True)]
    cells = 2 * plan.evaluation.bins
    evaluation = unpack_counts(
        keys[lead].open_total(total, len(total), "evaluation", 0), cells, MODULUS
    )

    # 6. PUBLICATION. Each party scores its own consenting customers and keeps the tags.
    written = {}
    for me in members:
        scores = 1 / (1 + np.exp(-model_logits(plan, parameters, parties[me].scored)))
        written[me] = {
            tag.name: tag_values(tag, scores, plan.publication.thresholds) for tag in tags
        }

    # 7. EVIDENCE. What each party's ledger says it cost.
    spent = {me: epsilon(terms[me].mechanisms, terms[me].delta) for me in members}
    return StoryEnd(
        tuple(sums),
        tuple(int(one) for one in evaluation),
        histogram_auc(evaluation),
        parameters,
        written,
        spent,
    )
