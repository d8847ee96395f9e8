"""A model card: what a model is, what it may be used for, and what it promises to whom.

After Mitchell et al. 2019 ("Model cards for model reporting"). Everything in it is a public
constant of the plan or a released, charged figure, but what the run was charged at this party,
which is the party's own to show. It counts nobody.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from models.catalogue import columns_of, input_width
from models.evaluation import histogram_auc, histogram_calibration
from models.families import network
from models.features import FeatureColumn
from models.plan import Plan

NOT_FOR = (
    "deciding alone about a single person with legal or similarly significant effect: credit, "
    "insurance, employment, prices, access to a service",
    "customers of other markets, or another horizon, other features or other ranges than these",
    "inferring health, religion, political opinion, ethnicity, sexual life, union membership, "
    "precise location, or whether someone is a minor",
    "telling whether a given person took part in training",
)
LIMITS = (
    "Differential privacy bounds what the model tells about one customer of a party; it does not "
    "make a score anonymous. A score is personal data of whoever is scored.",
    "A customer who has opted out since stays in what the model learned: opting out does not "
    "unlearn, and neither does deleting this file.",
    "The released figures are noised. They were measured once, on customers held out of training.",
    "Every party added its own noise: with few customers the model may be little better than "
    "chance.",
)
TWO_PARTY = (
    "Two parties made this model: each can take its own part off and knows the other's noised "
    "update. Only differential privacy protects the other's customers from whoever has both."
)


def model_card(
    plan: Plan,
    *,
    run: str,
    plan_digest: str,
    model_digest: str,
    party: str,
    parties: Sequence[str],
    epsilon: float,
    delta: float,
    evaluation: Sequence[int],
    published_at: datetime,
    code_version: str,
) -> dict[str, Any]:
    """The card as plain data for JSON. `epsilon` at `delta`: what the run was charged at `party`.

    `evaluation`: the opened, noised counts of label and score bin.
    """
    columns, counts = columns_of(plan), np.array(evaluation, dtype=np.int64)
    bound = plan.evaluation.logit_bound
    shape = network(plan.model, input_width(plan))
    return {
        "format": 1,
        "name": plan.name,
        "description": plan.description,
        "run": run,
        "plan_digest": plan_digest,
        "model_digest": model_digest,
        "published_at": published_at.isoformat(timespec="seconds"),
        "software": f"fedtags {code_version}",
        "task": {
            "kind": plan.task.kind,
            "predicts": _predicts(plan),
            "purpose": plan.purpose,
            "horizon_days": plan.task.horizon_days,
            "eligible_days": plan.task.eligible_days,
            "category": plan.task.category,
            "label": plan.task.label,
        },
        "architecture": {
            "family": plan.model.family,
            "hidden": list(plan.model.hidden),
            "inputs": shape.inputs,
            "parameters": shape.parameters_count,
        },
        "features": [_feature(one) for one in columns],
        "output": {
            "logit": "the model's output",
            "probability": "1 / (1 + exp(-logit)), from 0 to 1",
            "thresholds": list(plan.publication.thresholds),
            "tags": list(plan.publication.tags),
        },
        "training": {
            "parties": list(parties),
            "rounds": plan.training.rounds,
            "local_steps": plan.training.local_steps,
            "engine": plan.training.engine,
            "clipping_norm": plan.training.clipping_norm,
            "weights": plan.aggregation.weights,
        },
        "privacy": {
            "unit": "one customer at one party, added or removed",
            "party": party,
            "epsilon": epsilon,
            "delta": delta,
            "mechanism": "DP-SGD with each party's own full noise, and one noised evaluation; "
            "composed by privacy loss distributions",
            "others": "Every other party added its own noise and counts its own epsilon.",
            "two_party": TWO_PARTY if len(parties) == 2 else None,
        },
        "released_figures": {
            "auc": histogram_auc(counts),
            "calibration": histogram_calibration(counts, bound),
            "noised": True,
        },
        "not_for": list(NOT_FOR),
        "limits": list(LIMITS),
    }


def card_markdown(card: Mapping[str, Any]) -> str:
    """The card for people. Free text of the plan is shown as it is written, never as markup."""
    task, shape, privacy = card["task"], card["architecture"], card["privacy"]
    training, figures = card["training"], card["released_figures"]
    lines = [
        f"# Model card: {_plain(card['name'])}",
        "",
        *([_plain(card["description"]), ""] if card["description"] else []),
        f"- Predicts {_plain(task['predicts'])}; purpose: {_plain(task['purpose'])}.",
        f"- Run {_plain(card['run'])}, published {card['published_at']}, by "
        f"{_plain(card['software'])}.",
        f"- Plan `{card['plan_digest']}`",
        f"- Model `{card['model_digest']}`",
        f"- Family {shape['family']}, hidden units {shape['hidden'] or 'none'}, "
        f"{shape['inputs']} inputs, {shape['parameters']} parameters.",
        f"- Trained by {_plain(', '.join(training['parties']))} in {training['rounds']} rounds of "
        f"{training['local_steps']} local steps.",
        "",
        "## What it promises",
        "",
        f"For {privacy['unit']}: ε = {privacy['epsilon']:.4g} at δ = {privacy['delta']:.3g} for "
        f"customers of {_plain(privacy['party'])}. {privacy['others']}",
        f"Mechanism: {privacy['mechanism']}.",
        *(["", privacy["two_party"]] if privacy["two_party"] else []),
        "",
        "## Released figures (noised)",
        "",
        f"AUC {_figure(figures['auc'])}; mean prediction minus mean outcome "
        f"{_figure(figures['calibration'])}.",
        "",
        "## Not for",
        "",
        *(f"- {one}" for one in card["not_for"]),
        "",
        "## Limits",
        "",
        *(f"- {one}" for one in card["limits"]),
        "",
        "## Inputs, in this order",
        "",
        "A number is clamped to its range, transformed, and mapped linearly to [0, 1]; a missing "
        "one is replaced first. A category is one input of 0 or 1 for each of its values.",
        "",
        "| name | unit | range or values | transform | if missing | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(one) for one in card["features"]),
        "",
    ]
    return "\n".join(lines)


def _predicts(plan: Plan) -> str:
    task = plan.task
    if task.kind == "churn":
        return f"that a customer buys nothing in {task.horizon_days} days"
    if task.kind == "propensity":
        what = "anything" if task.category is None else f"category {task.category}"
        return f"that a customer buys {what} within {task.horizon_days} days"
    return f"the column {task.label} of a party's own table"


def _feature(column: FeatureColumn) -> dict[str, Any]:
    number = column.kind == "number"
    return {
        "name": column.name,
        "kind": column.kind,
        "unit": column.unit,
        "low": column.low if number else None,
        "high": column.high if number else None,
        "transform": column.transform if number else None,
        "missing": (column.low if column.missing is None else column.missing) if number else None,
        "categories": list(column.categories),
        "description": column.description,
    }


def _row(feature: Mapping[str, Any]) -> str:
    number = feature["kind"] == "number"
    values = (
        f"{feature['low']:g} to {feature['high']:g}"
        if number
        else _plain(", ".join(feature["categories"]))
    )
    missing = f"{feature['missing']:g}" if number else "all 0"
    texts = (_plain(feature["name"]), _plain(feature["unit"]), values)
    rest = (feature["transform"] or "0 or 1", missing, _plain(feature["description"]))
    return f"| {' | '.join((*texts, *rest))} |"


def _figure(value: float | None) -> str:
    return (
        "not known (the noise left a class without customers)" if value is None else f"{value:.3f}"
    )


def _plain(text: str) -> str:
    """Free text on one line, in which nothing is Markdown or HTML."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return re.sub(r"([\\`*_{}\[\]()#|~!])", r"\\\1", html.escape(line, quote=False))
