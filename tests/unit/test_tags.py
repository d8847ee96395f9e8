"""Joint model tags: which a plan may publish, and what a score becomes."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from models.plan import Plan, parse_plan
from models.tags import JOINT_TAGS, check_tags, tag_values
from privacy.errors import DataError, PlanError

CHURN_RISK = JOINT_TAGS["churn_risk"]
PURCHASE_PROPENSITY = JOINT_TAGS["purchase_propensity"]


def plan(kind: str, *tags: str) -> Plan:
    target = 'label = "churned"' if kind == "label" else "cutoff = 2024-01-01"
    names = ", ".join(f'"{tag}"' for tag in tags)
    source = f"""
format = 1
name = "p"
purpose = "retention"
task = {{kind = "{kind}", {target}}}
privacy = {{epsilon = 1.0}}
publication = {{tags = [{names}]}}
"""
    return parse_plan(source.encode())


@pytest.mark.parametrize(
    ("kind", "tag"), [("churn", CHURN_RISK), ("propensity", PURCHASE_PROPENSITY)]
)
def test_a_tag_that_fits_the_task_is_accepted(kind: str, tag: object) -> None:
    assert check_tags(plan(kind, getattr(tag, "name", ""))) == (tag,)


def test_a_plan_may_publish_nothing() -> None:
    assert check_tags(plan("churn")) == ()


@pytest.mark.parametrize(
    ("kind", "names", "words"),
    [
        ("churn", ("loyalty",), "not a known tag"),
        ("churn", ("purchase_propensity",), "kind propensity, not churn"),
        ("propensity", ("churn_risk",), "kind churn, not propensity"),
        ("label", ("churn_risk",), "kind churn, not label"),
        ("churn", ("churn_risk", "churn_risk"), "once"),
    ],
)
def test_a_tag_that_does_not_fit_is_refused(kind: str, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        check_tags(plan(kind, *names))


def test_a_score_on_a_threshold_takes_the_higher_value() -> None:
    scores = np.array([0.0, 0.29999, 0.3, 0.5, 0.7, 1.0], dtype=np.float32)
    limits = (float(scores[2]), float(scores[4]))
    assert tag_values(CHURN_RISK, scores, limits) == [
        "low",
        "low",
        "medium",
        "medium",
        "high",
        "high",
    ]


def test_no_scores_give_no_values() -> None:
    assert tag_values(CHURN_RISK, np.array([]), (0.3, 0.7)) == []


@pytest.mark.parametrize("bad", [[float("nan")], [-0.01], [1.01], [[0.5]]])
def test_a_score_that_is_no_probability_is_refused(bad: list[float]) -> None:
    with pytest.raises(DataError, match="from 0 to 1"):
        tag_values(PURCHASE_PROPENSITY, np.array(bad), (0.3, 0.7))


def test_every_tag_is_complete_and_frozen() -> None:
    for name, tag in JOINT_TAGS.items():
        assert tag.name == name
        assert tag.dimension == "prediction"
        assert tag.values == ("low", "medium", "high")
        assert tag.rule.kind == "joint"
        assert any("\u4e00" <= character <= "\u9fff" for character in tag.display_name_zh)
        assert tag.description
    with pytest.raises(ValidationError, match="frozen"):
        CHURN_RISK.name = "other"
