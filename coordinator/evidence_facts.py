"""What follows from a plan and from what the parties signed, and what the plan's mechanisms cost.

`signed_facts` is computed alike by who makes a pack and by who verifies it. `charged` is the
maker's: the mechanisms that this software draws from the plan, with the epsilon that a ledger
charges; `recomputed` judges them by the second accountant, and `check_charged` holds both to the
plan without the code that chose them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.charges import charges
from models.evaluation import auc_standard_error, histogram_auc, histogram_calibration
from models.plan import Plan, plan_digest
from privacy.accounting import epsilon
from privacy.errors import EvidenceError
from privacy.evidence import FACTS
from privacy.evidence_accounting import Bounds, bounds
from privacy.evidence_chain import Context, Signed, grew, heads_of, known_heads
from privacy.identity import fingerprint
from privacy.ledger_heads import SignedHead
from privacy.messages import Decision, EvaluationOpened, EvaluationUpdate, Receipt, Update

# How far a figure may be from the verifier's own: another processor, another numpy.
TOLERANCE = 1e-6
# The standard error is of random draws, which a later numpy may draw otherwise.
ERROR_TOLERANCE = 0.3
# Calibration ends at most so far below what was asked, and the bounds are so wide.
ASKED_TOLERANCE = 0.01
_MECHANISM_FIELDS = {
    *("delta", "sample_rate", "steps", "noise_multiplier", "epsilon_training", "epsilon"),
    *("evaluation_noise_multiplier", "weights_noise_multiplier"),
}


def signed_facts(
    plan: Plan, source: bytes, requester: bytes, context: Context, signed: Sequence[Signed]
) -> dict[str, Any]:
    """Plain data for facts.json. `signed`: verified lines. Raises EvidenceError."""
    heads = heads_of(signed, context)
    names = sorted({one.line.party for one in signed})
    decisions = _decisions(signed)
    return {
        "federation": context.federation,
        "run": context.run,
        "plan": _plan(plan, source),
        "requester": fingerprint(requester),
        "cohorts": _cohorts(signed),
        "parties": [
            {
                "name": name,
                "fingerprint": fingerprint(context.members[name]),
                **_party(name, decisions.get(name), signed),
                "ledger": _ledger(heads.get(name, ())),
            }
            for name in names
        ],
        "earlier_runs": _earlier(signed, context),
        "two_party": any(
            one.line.kind in (Update.kind, EvaluationUpdate.kind) and len(one.line.cohort) == 2
            for one in signed
        ),
        "evaluation": _evaluation(plan, decisions, signed),
    }


def charged(plan: Plan, facts: Mapping[str, Any]) -> dict[str, Any]:
    """For each party that accepted: its mechanisms, and their epsilon as its ledger charges it."""
    found = {}
    for name, size in _accepted(facts).items():
        cost = charges(plan, size)
        found[name] = {
            "delta": cost.delta,
            "sample_rate": cost.training.sample_rate,
            "steps": cost.training.steps,
            "noise_multiplier": cost.training.noise_multiplier,
            "evaluation_noise_multiplier": cost.evaluation.noise_multiplier,
            "weights_noise_multiplier": cost.weights and cost.weights.noise_multiplier,
            "epsilon_training": epsilon([cost.training], cost.delta),
            "epsilon": epsilon(cost.mechanisms, cost.delta),
        }
    return found


def recomputed(mechanisms: Mapping[str, Any]) -> dict[str, Any]:
    """Of `charged`, for each party, bounds on epsilon by the second accountant."""
    return {name: _bounds(one) for name, one in mechanisms.items()}


def everywhere(mechanisms: Mapping[str, Any]) -> dict[str, float] | None:
    """What holds for one person who is a customer of every party: the sums, an upper bound."""
    if not mechanisms:
        return None
    return {
        "epsilon": math.fsum(one["epsilon"] for one in mechanisms.values()),
        "delta": math.fsum(one["delta"] for one in mechanisms.values()),
    }


def check_charged(plan: Plan, facts: Mapping[str, Any]) -> None:
    """Hold the mechanisms in `facts` to the plan and to the second accountant.

    Raises EvidenceError naming the party and the figure.
    """
    found, told = facts["mechanisms"], facts["recomputed"]
    accepted = _accepted(facts)
    if set(found) != set(accepted) or set(told) != set(accepted):
        raise EvidenceError(FACTS, "mechanisms are told of others than the parties that accepted")
    for name, size in accepted.items():
        _check_mechanisms(plan, name, size, found[name])
        again = _bounds(found[name])
        if not _alike(told[name], again, TOLERANCE):
            raise EvidenceError(FACTS, f"{name}: the recomputed epsilon is another one")
        for figure, least in (("epsilon_training", "training"), ("epsilon", "whole")):
            lower, upper = again[least]
            if not lower - TOLERANCE <= found[name][figure] <= upper + ASKED_TOLERANCE:
                raise EvidenceError(
                    FACTS, f"{name}: {figure} is outside what the second accountant finds"
                )
    if not _alike(facts["everywhere"], everywhere(found), TOLERANCE):
        raise EvidenceError(FACTS, "the sum over all parties is another one")


def check_same(told: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise EvidenceError, naming the field, unless the facts told are those found again, and no
    more of them."""
    if not set(told) <= set(own):
        raise EvidenceError(FACTS, "it tells more than follows from the plan and the statements")
    for field, value in own.items():
        tolerance = TOLERANCE if field == "evaluation" else 0.0
        if field not in told or not _alike(told[field], value, tolerance):
            raise EvidenceError(
                FACTS, f"{field} is not what follows from the plan and the signed statements"
            )


def _bounds(one: Mapping[str, Any]) -> dict[str, list[float]]:
    weights = one["weights_noise_multiplier"]
    releases = [one["evaluation_noise_multiplier"], *([] if weights is None else [weights])]

    def found(of: Sequence[float]) -> list[float]:
        both: Bounds = bounds(
            one["delta"],
            sample_rate=one["sample_rate"],
            noise_multiplier=one["noise_multiplier"],
            steps=one["steps"],
            releases=of,
        )
        return [both.lower, both.upper]

    return {"training": found(()), "whole": found(releases)}


def _check_mechanisms(plan: Plan, name: str, size: int, one: Mapping[str, Any]) -> None:
    asked, training = plan.privacy, plan.training
    if set(one) != _MECHANISM_FIELDS:
        raise EvidenceError(FACTS, f"{name}: its mechanisms do not have the fields of their format")
    limit = 1 / (10 * size)
    expected = {
        "delta": limit if asked.delta is None else min(limit, asked.delta),
        "sample_rate": max(1, round(training.sample_rate * size)) / size,
        "steps": training.rounds * training.local_steps,
    }
    for field, value in expected.items():
        if not math.isclose(one[field], value, rel_tol=TOLERANCE):
            raise EvidenceError(FACTS, f"{name}: {field} is not the one of the plan")
    noised = plan.aggregation.weights == "noised_size"
    if noised != (one["weights_noise_multiplier"] is not None):
        raise EvidenceError(FACTS, f"{name}: the plan says otherwise about noised weights")
    releases = {"evaluation_noise_multiplier": asked.evaluation_epsilon}
    if noised:
        releases["weights_noise_multiplier"] = asked.weights_epsilon
    for field, most in releases.items():
        if bounds(one["delta"], releases=[one[field]]).upper > most * (1 + TOLERANCE):
            raise EvidenceError(FACTS, f"{name}: {field} is less noise than the plan asks for")
    if _bounds(one)["training"][0] > asked.epsilon:
        raise EvidenceError(FACTS, f"{name}: noise_multiplier is less noise than the plan asks for")


def _plan(plan: Plan, source: bytes) -> dict[str, Any]:
    data = plan.model_dump(mode="json", exclude={"features": {"columns"}})
    data["features"]["columns"] = [column.name for column in plan.features.columns]
    return {"digest": plan_digest(source), **data}


def _decisions(signed: Sequence[Signed]) -> dict[str, Decision]:
    """Each party's newest decision."""
    return {
        one.line.party: one.received.body
        for one in signed
        if one.received is not None and isinstance(one.received.body, Decision)
    }


def _cohorts(signed: Sequence[Signed]) -> list[dict[str, Any]]:
    """Who agreed on keys in each epoch, as all of them signed it; and every smaller set after."""
    found: dict[tuple[int, tuple[str, ...]], None] = {}
    for one in signed:
        if one.line.kind != Decision.kind:
            found[(one.line.epoch, tuple(sorted(one.line.cohort)))] = None
    return [{"epoch": epoch, "parties": list(parties)} for epoch, parties in found]


def _party(name: str, decision: Decision | None, signed: Sequence[Signed]) -> dict[str, Any]:
    own = [one for one in signed if one.line.party == name]
    kinds: dict[str, list[int]] = {}
    for one in own:
        kinds.setdefault(one.line.kind, []).append(one.line.bytes)
    rounds = {
        one.received.envelope.round
        for one in own
        if one.received is not None and isinstance(one.received.body, Update)
    }
    return {
        "decision": None
        if decision is None
        else {
            "accepted": decision.accepted,
            "reason": decision.reason,
            "public_size": decision.public_size,
        },
        "key_agreements": len({one.line.epoch for one in own if one.line.kind != Decision.kind}),
        "rounds": len(rounds),
        "evaluated": EvaluationUpdate.kind in kinds,
        "opened": EvaluationOpened.kind in kinds,
        "receipt": Receipt.kind in kinds,
        "sent": [
            {"type": kind, "messages": len(sizes), "bytes": sum(sizes)}
            for kind, sizes in kinds.items()
        ],
    }


def _ledger(heads: Sequence[SignedHead]) -> dict[str, Any] | None:
    if not heads:
        return None
    first, last = ({"position": one.position, "hash": one.hash} for one in (heads[0], heads[-1]))
    return {"first": first, "last": last, "shown": len(heads), "grew": grew(heads)}


def _earlier(signed: Sequence[Signed], context: Context) -> list[dict[str, Any]]:
    """Other runs that members' known heads name: packs that a reader may ask for."""
    found: dict[tuple[str, str, int, str], set[str]] = {}
    for shown_by, head in known_heads(signed, context):
        if head.run != context.run:
            key = (head.party, head.run, head.position, head.hash)
            found.setdefault(key, set()).add(shown_by)
    return [
        {"party": party, "run": run, "position": position, "hash": digest, "shown_by": sorted(by)}
        for (party, run, position, digest), by in sorted(found.items())
    ]


def _evaluation(
    plan: Plan, decisions: Mapping[str, Decision], signed: Sequence[Signed]
) -> dict[str, Any] | None:
    """The opened, noised evaluation that the receipts tell, and its figures; None without any."""
    copies = {
        one.line.party: one.received.body.evaluation
        for one in signed
        if one.received is not None and isinstance(one.received.body, Receipt)
    }
    sums = [one for one in signed if one.line.kind == EvaluationUpdate.kind]
    if not copies or not sums:
        return None
    parties = sorted(sums[-1].line.cohort)
    if len(set(copies.values())) != 1:
        return {"agreed": False, "parties": parties}
    cells = next(iter(copies.values()))
    if len(cells) != 2 * plan.evaluation.bins or not set(parties) <= set(decisions):
        return {"agreed": False, "parties": parties}
    counts = np.array(cells, dtype=np.int64)
    deviation = math.sqrt(
        sum(
            charges(plan, decisions[name].public_size).evaluation.noise_multiplier ** 2
            for name in parties
        )
    )
    return {
        "agreed": True,
        "parties": parties,
        "told_by": sorted(copies),
        "noise_deviation": deviation,
        "cells": list(cells),
        "auc": histogram_auc(counts),
        "auc_standard_error": auc_standard_error(counts, deviation),
        "calibration": histogram_calibration(counts, plan.evaluation.logit_bound),
    }


def _accepted(facts: Mapping[str, Any]) -> dict[str, int]:
    """Parties whose newest decision accepted, with their public sizes."""
    decided = {one["name"]: one["decision"] for one in facts["parties"]}
    return {name: one["public_size"] for name, one in decided.items() if one and one["accepted"]}


def _alike(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two plain values are the same, numbers up to `tolerance`."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(
            _alike(
                value,
                other[name],
                ERROR_TOLERANCE if name == "auc_standard_error" and tolerance else tolerance,
            )
            for name, value in one.items()
        )
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(
            _alike(left, right, tolerance) for left, right in zip(one, other, strict=True)
        )
    return bool(one == other)
