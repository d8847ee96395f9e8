"""The joint model tags that a run may publish, and how a score becomes a tag's value.

A tag speaks about one customer inside that customer's own party; it never crosses the border.
Thresholds are public constants of the plan, so a value depends on that customer's score alone.
The definitions are entries of the shipped tag catalogue, which no party changes: both sides of a
plan rely on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from models.plan import Plan
from models.tag_catalogue import CatalogueTag, shipped_catalogue
from privacy.errors import DataError, PlanError

JOINT_TAGS: Mapping[str, CatalogueTag] = MappingProxyType(
    {tag.name: tag for tag in shipped_catalogue().tags if tag.task is not None}
)


def check_tags(plan: Plan) -> tuple[CatalogueTag, ...]:
    """The tags that `plan` publishes, in its order.

    Raises PlanError for an unknown tag, one named twice, or one that another kind of task makes.
    """
    names = plan.publication.tags
    if len(set(names)) != len(names):
        raise PlanError("publication.tags: name every tag once")
    return tuple(_fitting(name, plan.task.kind) for name in names)


def _fitting(name: str, kind: str) -> CatalogueTag:
    tag = JOINT_TAGS.get(name)
    if tag is None:
        raise PlanError(
            f"publication.tags: {name} is not a known tag; known are {', '.join(JOINT_TAGS)}"
        )
    if tag.task != kind:
        raise PlanError(
            f"publication.tags: {name} is made by a task of kind {tag.task}, "
            f"not {kind}; remove it or change task.kind"
        )
    return tag


def tag_values(
    tag: CatalogueTag, scores: NDArray[np.floating], thresholds: tuple[float, float]
) -> list[str]:
    """One value per score (shape (n,), each in [0, 1]).

    For churn_risk a score is P(churn), for purchase_propensity P(purchase). A score equal to a
    threshold takes the higher value. Raises DataError for a score that is no probability.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not bool(np.all((values >= 0.0) & (values <= 1.0))):
        raise DataError(f"scores of tag {tag.name}: a vector of numbers from 0 to 1 is needed")
    positions = np.searchsorted(np.asarray(thresholds), values, side="right")
    chosen: list[str] = np.asarray(tag.values)[positions].tolist()
    return chosen
