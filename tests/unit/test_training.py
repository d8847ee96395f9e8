"""The learning rate tied to a party's noise, a party's result of a round, and how parties weigh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.families import start_parameters
from models.plan import Plan, Training, parse_plan, read_plan
from models.training import (
    MAX_LEARNING_RATE,
    LocalUpdate,
    Rows,
    delta_code,
    local_update,
    noise_tied_rate,
    noised_size,
    noised_weight,
    opened_model_delta,
    party_terms,
    public_weights,
    recoded,
)
from privacy.accounting import epsilon
from privacy.errors import PlanError, ProtocolError
from privacy.mechanism import Gaussian, SampledGaussian
from privacy.packing import COUNT_BOUND
from privacy.randomness import generator

PLANS = sorted((Path(__file__).resolve().parents[2] / "docs" / "tutorials").glob("*.toml"))


def plan(training: str = "", model: str = "", more: str = "") -> Plan:
    return parse_plan(
        f"""
format = 1
name = "rate"
purpose = "marketing"
[task]
kind = "churn"
cutoff = 2025-01-01
[training]
{training}
[model]
{model}
[privacy]
epsilon = 1.0
{more}
""".encode()
    )


def rate(training: str = "", model: str = "", public_size: int = 2000) -> float:
    return party_terms(plan(training, model), public_size).rule.learning_rate


def test_noise_alone_moves_a_parameter_by_two_over_the_fourth_root_of_d() -> None:
    mechanism = SampledGaussian(0.5, noise_multiplier=10.0, steps=100)
    found = noise_tied_rate(mechanism, batch=1000, clipping_norm=1.5, parameters=16)
    walk = found * mechanism.noise_multiplier * 1.5 * mechanism.steps**0.5 / 1000
    assert walk == pytest.approx(2 / 16**0.25)


def test_a_smaller_party_takes_smaller_steps_and_a_large_one_no_larger_than_the_limit() -> None:
    assert rate(public_size=500) < rate(public_size=2000) < rate(public_size=60_000)
    assert rate(public_size=60_000) == MAX_LEARNING_RATE


def test_a_larger_model_takes_smaller_steps() -> None:
    assert rate(model='family = "mlp"\nhidden = [16]') < rate()


def test_momentum_does_not_lengthen_the_steps() -> None:
    assert rate("momentum = 0.5") == pytest.approx(rate() / 2)


def test_a_plan_may_set_the_rate_itself() -> None:
    assert rate("learning_rate = 0.25\nmomentum = 0.5") == 0.25


def test_a_plan_may_average_the_last_steps() -> None:
    assert party_terms(plan("tail = 0.25"), 2000).rule.tail == 0.25


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_shipped_plans_train_with_the_defaults(path: Path) -> None:
    assert read_plan(path)[0].training == Training()


# A party's result of a round ----------------------------------------------------------------------

SIZES = {"bank": 600, "ecommerce": 300, "retailer": 100}
ROWS = Rows(
    np.random.default_rng(0).random((40, 5), dtype=np.float32), np.ones(40, dtype=np.float32)
)


def updated(chosen: Plan, weight: float = 0.6, label: str = "") -> LocalUpdate:
    code, start = delta_code(chosen, SIZES), start_parameters(chosen.model, 5, bytes(32))
    return local_update(
        chosen,
        bytes(32),
        party_terms(chosen, 600),
        start,
        ROWS,
        code,
        weight,
        1,
        lambda said: (label + said).encode().ljust(32, b"\0")[:32],
    )


def test_a_resend_under_the_same_constants_is_identical() -> None:
    chosen = plan("local_steps = 2")
    held = updated(chosen)
    again = recoded(held, delta_code(chosen, SIZES), 0.6)
    assert np.array_equal(again.values, held.values)
    assert not np.array_equal(updated(chosen, label="other").values, held.values)


def test_a_resend_in_another_epoch_carries_the_same_model_delta() -> None:
    """Other members: other weights, other bits, one model delta, and nothing drawn again."""
    chosen = plan("local_steps = 2\nlearning_rate = 0.01")
    held = updated(chosen)
    many = {**SIZES, **{f"shop-{number}": 100 for number in range(20)}}
    code, weight = delta_code(chosen, many), public_weights(chosen, many)["bank"]
    assert code.levels < delta_code(chosen, SIZES).levels
    again = recoded(held, code, weight)
    assert again.model_delta is held.model_delta
    decoded = code.dequantise(again.values, 1) / weight
    assert np.all(np.abs(decoded - held.model_delta) <= 2 * code.limit / code.levels / weight)


def test_saturated_coordinates_are_counted_and_clamped() -> None:
    calm = updated(plan("local_steps = 2\nlearning_rate = 0.01"))
    wild = updated(plan("local_steps = 2\nlearning_rate = 100.0"))
    assert calm.saturated == 0
    assert wild.saturated == int((np.abs(wild.model_delta) > 4.0).sum()) > 0
    levels = delta_code(plan(), SIZES).levels
    clamped = np.abs(wild.model_delta) > 4.0
    assert set(wild.values[clamped].tolist()) <= {0, levels}


def test_a_held_update_prints_no_values_drawn_from_data() -> None:
    assert "model_delta" not in repr(updated(plan("local_steps = 2")))


# Weights ------------------------------------------------------------------------------------------

NOISED = "[aggregation]\nweights = 'noised_size'"


@pytest.mark.parametrize("kind", ["public_size", "equal"])
@pytest.mark.parametrize(
    "participants", [["bank", "retailer"], ["ecommerce", "retailer"], [*SIZES]]
)
def test_a_sum_without_everyone_is_the_participants_weighted_mean(
    kind: str, participants: list[str]
) -> None:
    chosen = plan(more=f"[aggregation]\nweights = '{kind}'")
    code, weights = delta_code(chosen, SIZES), public_weights(chosen, SIZES)
    deltas = {one: np.array([at - 1.0, 0.5, -1.5 * at]) for at, one in enumerate(SIZES)}
    total = np.zeros(3, dtype=np.int64)
    for one in participants:
        total += code.quantise(deltas[one], weights[one], generator(one.encode().ljust(32)))
    mean = sum(weights[one] * deltas[one] for one in participants)
    mean = mean / sum(weights[one] for one in participants)
    found = opened_model_delta(chosen, code, total, participants, SIZES)
    assert np.allclose(found, mean, atol=1e-4)


def test_a_noised_size_is_reserved_at_its_own_epsilon() -> None:
    terms = party_terms(plan(more=NOISED), 2000)
    assert terms.weights in terms.mechanisms
    assert isinstance(terms.weights, Gaussian)
    assert terms.weights.sensitivity == 1
    assert 0.09 < epsilon([terms.weights], terms.delta) <= 0.1
    larger = party_terms(plan(more="weights_epsilon = 2.0\n" + NOISED), 2000).weights
    assert larger is not None
    assert larger.noise_multiplier < terms.weights.noise_multiplier
    public = party_terms(plan(), 2000)
    assert public.weights is None
    assert len(public.mechanisms) == 2


def test_a_noised_size_is_the_count_and_full_noise_within_bounds() -> None:
    terms = party_terms(plan(more=NOISED), 2000)
    assert terms.weights is not None
    sigma = terms.weights.noise_multiplier
    rows = Rows(np.zeros((5000, 1), np.float32), np.zeros(5000, np.float32))
    drawn = [
        noised_size(terms, rows, lambda label, n=n: f"{label} {n}".encode().ljust(32))
        for n in range(400)
    ]
    assert abs(np.mean(drawn) - 5000) < 6 * sigma / 20
    assert abs(np.std(drawn) / sigma - 1) < 6 / np.sqrt(2 * 400)
    none = Rows(rows.features[:0], rows.labels[:0])
    least = [
        noised_size(terms, none, lambda label, n=n: f"{label} {n}".encode().ljust(32))
        for n in range(20)
    ]
    assert min(least) == 1
    assert max(least) <= COUNT_BOUND


def test_a_weight_is_the_own_share_of_the_sum_and_no_more() -> None:
    assert noised_weight(30, 120) == 0.25
    for own, total in ((30, 29), (30, -5), (0, 10)):
        with pytest.raises(ProtocolError, match="weights"):
            noised_weight(own, total)


def test_noised_weights_have_no_public_bound_and_are_not_divided_again() -> None:
    chosen = plan(more=NOISED)
    code = delta_code(chosen, SIZES)
    assert code.largest_weight == 1
    total = code.quantise(np.array([1.0, -1.0]), 0.25, generator(bytes(32)))
    found = opened_model_delta(chosen, code, total, ["bank"], SIZES)
    assert np.allclose(found, [0.25, -0.25], atol=1e-4)


def test_weights_of_one_kind_are_not_asked_of_the_other() -> None:
    with pytest.raises(ValueError, match="not public"):
        public_weights(plan(more=NOISED), SIZES)
    with pytest.raises(ValueError, match="are public"):
        noised_size(party_terms(plan(), 2000), ROWS, lambda label: bytes(32))


@pytest.mark.parametrize(
    "wrong",
    [
        "weights_epsilon = 0.0",
        "weights_epsilon = 9.0",
        "[aggregation]\nweights = 'true_size'",
        "[aggregation]\nsingle_opening = 3",
        "[cohort]\npause_minutes = -1",
        "[cohort]\npause_minutes = 1441",
        "[cohort]\nminimum = 33",
    ],
)
def test_a_plan_outside_the_bounds_is_refused(wrong: str) -> None:
    with pytest.raises(PlanError, match=wrong.split("\n")[-1].split(" =")[0]):
        plan(more=wrong)


def test_what_a_plan_starts_from() -> None:
    chosen = plan()
    assert chosen.aggregation.single_opening is False
    assert chosen.aggregation.weights == "public_size"
    assert (chosen.privacy.weights_epsilon, chosen.cohort.pause_minutes) == (0.1, 60)
    assert plan(more="[cohort]\npause_minutes = 0").cohort.pause_minutes == 0
