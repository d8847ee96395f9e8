"""A plan as a form: the values that most plans differ in, written as a plan file's TOML.

The form knows no more than a plan's usual keys; whatever else a plan may say is written by hand on
the next page, where the text stands as it will be signed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import tomli_w

from models.catalogue import GROUPS
from models.plan import MAX_PLAN_BYTES, Plan
from models.tags import JOINT_TAGS
from privacy.errors import PlanError
from privacy.hosting.pages.forms import Fields
from privacy.hosting.pages.languages import N_

_NUMBER = N_("Use a number within the range.")
_DATE = N_("Use a date such as 2026-01-31.")
TASKS = ("churn", "propensity")
FAMILIES = ("logistic", "mlp")


@dataclass(frozen=True)
class Number:
    """A number of the form: its default and its range in a plan, both ends included."""

    default: float
    least: float
    most: float
    whole: bool = False


NUMBERS: Mapping[str, Number] = {
    "horizon_days": Number(60, 1, 3650, whole=True),
    "eligible_days": Number(180, 1, 3650, whole=True),
    "rounds": Number(6, 1, 200, whole=True),
    "local_steps": Number(40, 1, 1000, whole=True),
    "epsilon": Number(1.0, 0.01, 8),
    "evaluation_epsilon": Number(1.0, 0.01, 8),
    "minimum": Number(3, 2, 16, whole=True),
    "valid_days": Number(90, 1, 3650, whole=True),
}


def empty_form(today: date) -> dict[str, str]:
    """What a fresh form shows. The horizon after the cut-off is just over: labels need it."""
    cutoff = today - timedelta(days=int(NUMBERS["horizon_days"].default))
    numbers = {name: f"{one.default:g}" for name, one in NUMBERS.items()}
    texts = {"name": "", "purpose": "marketing", "description": "", "task": "churn"}
    return numbers | texts | {"family": "logistic", "cutoff": cutoff.isoformat(), "parties": ""}


def form_of(source: str) -> dict[str, str]:
    """The form filled in from a plan's text, such as an earlier run's. Raises PlanError."""
    try:
        raw = tomllib.loads(source)
        plan = Plan.model_validate(raw)
    except ValueError as error:  # both libraries' errors are
        raise PlanError("this plan cannot be shown as a form; edit its text") from error
    if plan.task.kind not in TASKS or plan.features.columns or plan.task.cutoff_by_party:
        raise PlanError("this plan says more than the form can show; edit its text")
    return {
        "name": plan.name,
        "purpose": plan.purpose,
        "description": plan.description,
        "task": plan.task.kind,
        "family": plan.model.family,
        "cutoff": "" if plan.task.cutoff is None else plan.task.cutoff.isoformat(),
        "parties": " ".join(plan.cohort.parties),
        "horizon_days": str(plan.task.horizon_days),
        "eligible_days": str(plan.task.eligible_days),
        "rounds": str(plan.training.rounds),
        "local_steps": str(plan.training.local_steps),
        "epsilon": f"{plan.privacy.epsilon:g}",
        "evaluation_epsilon": f"{plan.privacy.evaluation_epsilon:g}",
        "minimum": str(plan.cohort.minimum),
        "valid_days": str(plan.publication.valid_days),
    }


def written(fields: Fields) -> str:
    """The plan's TOML from the form's fields; what is wrong is in `fields.wrong` then."""
    number = {name: _number(fields, name, one) for name, one in NUMBERS.items()}
    task = fields.one_of("task", TASKS)
    cutoff = _date(fields, "cutoff")
    family = fields.one_of("family", FAMILIES)
    model: dict[str, Any] = {"family": family}
    if family == "mlp":
        model["hidden"] = [32]
    cohort: dict[str, Any] = {"minimum": number["minimum"]}
    if named := fields.given.get("parties", "").replace(",", " ").split():
        cohort["parties"] = named
    if number["minimum"] == 2:
        cohort["accept_two_party"] = True
    plan: dict[str, Any] = {
        "format": 1,
        "name": fields.line("name", most=63),
        "purpose": fields.line("purpose", most=63),
        "description": fields.given.get("description", "").strip()[:500],
        "task": {
            "kind": task,
            "horizon_days": number["horizon_days"],
            "eligible_days": number["eligible_days"],
            "cutoff": cutoff,
        },
        "features": {"catalogue": "events-1", "groups": list(GROUPS)},
        "model": model,
        "training": {"rounds": number["rounds"], "local_steps": number["local_steps"]},
        "privacy": {
            "epsilon": number["epsilon"],
            "evaluation_epsilon": number["evaluation_epsilon"],
        },
        "cohort": cohort,
        "publication": {
            "tags": [name for name, tag in JOINT_TAGS.items() if tag.task == task],
            "valid_days": number["valid_days"],
        },
    }
    return "" if fields.wrong else tomli_w.dumps(plan)


def varied(source: str, epsilon: float, rounds: int) -> bytes:
    """A plan's text with another epsilon and number of rounds, for a look at what it would cost."""
    raw = tomllib.loads(source)
    raw.setdefault("privacy", {})["epsilon"] = epsilon
    raw.setdefault("training", {})["rounds"] = rounds
    return tomli_w.dumps(raw).encode()[:MAX_PLAN_BYTES]


def _number(fields: Fields, name: str, rule: Number) -> int | float:
    text = fields.given.get(name, "").strip()
    try:
        value = int(text) if rule.whole else float(text)
    except ValueError:
        value = float("nan")
    if not rule.least <= value <= rule.most:
        fields.wrong[name] = _NUMBER
        return int(rule.default) if rule.whole else rule.default
    return value


def _date(fields: Fields, name: str) -> date:
    try:
        return date.fromisoformat(fields.given.get(name, "").strip())
    except ValueError:
        fields.wrong[name] = _DATE
        return date(2000, 1, 1)
