"""Models as a party keeps them after a run, for tests: random parameters of a plan's network."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import numpy as np

from models.catalogue import input_width
from models.families import start_parameters
from models.plan import parse_plan, plan_digest
from party_client.model_shelf import KeptModel, ModelFacts

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def source(model: str = "", extra: str = "") -> bytes:
    return f"""
format = 1
name = "churn-180"
purpose = "retention"
description = "Who leaves <script>alert(1)</script> [x](http://y)"
[task]
kind = "churn"
horizon_days = 180
cutoff = 2024-01-01
[privacy]
epsilon = 1.0
{model}
{extra}
""".encode()


def kept(plan_source: bytes, run: str = "run-1", parties: int = 3, seed: int = 3) -> KeptModel:
    plan, digest = parse_plan(plan_source), plan_digest(plan_source)
    start = start_parameters(plan.model, input_width(plan), bytes.fromhex(digest))
    parameters = start + np.random.default_rng(seed).normal(0, 0.7, start.size)
    model = hashlib.sha256(bytes.fromhex(digest) + parameters.astype("<f8").tobytes()).hexdigest()
    facts = ModelFacts(
        run=run,
        party="bank",
        plan=plan,
        plan_digest=digest,
        model_digest=model,
        parties=("bank", "retailer", "shop")[:parties],
        epsilon=1.75,
        delta=1e-5,
        public_size=6000,
        evaluation=tuple(range(2 * plan.evaluation.bins)),
        code_version="0.1.0",
        published_at=NOW,
    )
    return KeptModel(facts, parameters)
