"""Reason codes: the features that push a score hardest, and their plain words."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.catalogue import EVENTS_1, columns_of, input_width
from models.families import start_parameters
from models.plan import Plan, parse_plan
from models.reasons import contributions, reason_codes, reason_text, reference_point
from models.training import model_logits
from privacy.errors import DataError


def plan(family: str = 'family = "logistic"', features: str = "") -> Plan:
    kind = 'kind = "label", label = "churned"' if features else 'kind = "churn"'
    tags = "" if features else 'tags = ["churn_risk"], '
    return parse_plan(
        f"""
format = 1
name = "p"
purpose = "retention"
task = {{{kind}, cutoff = 2024-01-01}}
model = {{{family}}}
privacy = {{epsilon = 1.0}}
publication = {{{tags}thresholds = [0.4, 0.6]}}
{features}
""".encode()
    )


CONTRACT = """
[[features.columns]]
name = "income"
[[features.columns]]
name = "colour"
kind = "category"
categories = ["red", "blue"]
[[features.columns]]
name = "visits"
"""


def linear(one: Plan, **weights: float) -> NDArray[np.float64]:
    """Parameters of a logistic model: weights by column, bias so that the reference scores 1/2."""
    columns = columns_of(one)
    found = [weights.get(column.name, 0.0) for column in columns]
    bias = -float(np.dot(found, reference_point(columns)))
    return np.array([*found, bias])


def rows(one: Plan, *changes: dict[str, float]) -> NDArray[np.float32]:
    """Rows at the reference point, but for these columns."""
    columns = columns_of(one)
    names = [column.name for column in columns]
    found = np.tile(reference_point(columns), (len(changes), 1))
    for row, change in enumerate(changes):
        for name, value in change.items():
            found[row, names.index(name)] = value
    return found


def test_the_three_hardest_pushes_towards_the_value_come_in_order() -> None:
    one = plan()
    weights = linear(one, recency_days=6, overdue=3, spend_90=-4, night_share_365=1, tenure_days=5)
    churning = {"recency_days": 1, "overdue": 1, "spend_90": 0, "tenure_days": 0}
    staying = {"recency_days": 0, "overdue": 0, "spend_90": 1, "night_share_365": 1}
    codes = reason_codes(one, weights, rows(one, churning, staying))
    assert codes == ["recency_days+,overdue+,spend_90-", "recency_days-,spend_90+,overdue-"]


def test_a_value_between_has_reasons_of_either_direction() -> None:
    one = plan()
    weights = linear(one, recency_days=2, spend_90=2, tenure_days=1)
    reference = dict(zip((c.name for c in EVENTS_1), reference_point(EVENTS_1), strict=True))
    row = {name: reference[name] + step for name, step in
           [("recency_days", 0.2), ("spend_90", -0.3), ("tenure_days", 0.1)]}  # fmt: skip
    assert reason_codes(one, weights, rows(one, row)) == ["spend_90-,recency_days+,tenure_days+"]


def test_a_feature_that_pushes_the_other_way_is_no_reason() -> None:
    one = plan()
    weights = linear(one, recency_days=9, spend_90=5)
    row = {"recency_days": 1, "spend_90": 0}
    assert reason_codes(one, weights, rows(one, row)) == ["recency_days+"]
    assert reason_codes(one, weights, rows(one, {})) == [""]


def test_pushes_of_a_linear_model_add_up_to_the_logit() -> None:
    one = plan()
    draw = np.random.default_rng(1)
    features = draw.random((200, input_width(one)), dtype=np.float32)
    weights = draw.standard_normal(input_width(one) + 1)
    reference = reference_point(EVENTS_1)
    pushes = contributions(one, weights, features, EVENTS_1, reference)
    gained = model_logits(one, weights, features) - model_logits(one, weights, reference[None])
    np.testing.assert_allclose(pushes.sum(axis=1), gained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "family", ['family = "mlp", hidden = [8]', 'family = "residual", hidden = [6, 4]']
)
def test_pushes_of_a_network_are_what_one_feature_at_its_reference_takes_away(family: str) -> None:
    one = plan(family)
    width = input_width(one)
    draw = np.random.default_rng(2)
    size = start_parameters(one.model, width, bytes(32)).size
    weights = draw.standard_normal(size)
    features = draw.random((7, width), dtype=np.float32)
    reference = reference_point(EVENTS_1)
    pushes = contributions(one, weights, features, EVENTS_1, reference)
    for row in range(7):
        for place in range(width):
            without = features[row].copy()
            without[place] = reference[place]
            pair = model_logits(one, weights, np.stack([features[row], without]))
            assert pushes[row, place] == pytest.approx(pair[0] - pair[1], abs=1e-4)
    codes = reason_codes(one, weights, features)
    scores = 1 / (1 + np.exp(-model_logits(one, weights, features)))
    for row in range(7):
        towards = pushes[row] if scores[row] >= 0.6 else -pushes[row]
        if 0.4 <= scores[row] < 0.6:
            towards = np.abs(pushes[row])
        best = [place for place in np.argsort(-towards)[:3] if towards[place] > 0]
        signs = ["+" if features[row, at] > reference[at] else "-" for at in best]
        wanted = [EVENTS_1[at].name + sign for at, sign in zip(best, signs, strict=True)]
        assert codes[row] == ",".join(wanted)


def test_each_customers_reasons_are_their_own() -> None:
    one = plan()
    draw = np.random.default_rng(3)
    features = draw.random((120_000, input_width(one)), dtype=np.float32)
    weights = draw.standard_normal(input_width(one) + 1)
    codes = reason_codes(one, weights, features)
    assert len(codes) == len(features)
    for row in (0, 49_999, 50_000, 119_999):  # on both sides of where the rows are cut
        assert reason_codes(one, weights, features[row : row + 1]) == [codes[row]]


def test_a_category_is_one_reason_and_a_contracts_column_has_its_middle() -> None:
    one = plan(features=CONTRACT)
    columns = columns_of(one)
    assert reference_point(columns).tolist() == [0.5, 0.0, 0.0, 0.5]
    weights = np.array([1.0, 5.0, -5.0, 2.0, 0.0])
    features = np.array([[1, 1, 0, 1], [0, 0, 1, 0.5]], dtype=np.float32)
    assert reason_codes(one, weights, features) == ["colour+,visits+,income+", "colour+,income-"]


def test_no_customers_have_no_reasons() -> None:
    one = plan()
    empty = np.empty((0, input_width(one)), dtype=np.float32)
    assert reason_codes(one, linear(one), empty) == []


def test_every_column_of_the_catalogue_has_a_text_each_way_in_both_languages() -> None:
    seen = set()
    for column in EVENTS_1:
        for sign in "+-":
            english = reason_text(column.name + sign, "en")
            chinese = reason_text(column.name + sign, "zh")
            assert english.isascii()
            assert column.name not in english, "a text is plain words"
            assert any("\u4e00" <= one <= "\u9fff" for one in chinese)
            assert column.name not in chinese
            seen |= {english, chinese}
    assert len(seen) == 4 * len(EVENTS_1), "no text is used twice"


def test_a_contracts_column_has_a_general_text() -> None:
    assert reason_text("income+", "en") == "income is high"
    assert reason_text("income-", "zh") == "“income”偏低"


@pytest.mark.parametrize("code", ["", "+", "recency_days", "recency_days*"])
def test_what_is_no_code_is_refused(code: str) -> None:
    with pytest.raises(DataError, match="reason code"):
        reason_text(code, "en")


def test_the_reference_is_inside_every_public_range() -> None:
    reference = reference_point(EVENTS_1)
    assert reference.shape == (len(EVENTS_1),)
    assert bool(np.all((reference > 0) & (reference < 1)))
