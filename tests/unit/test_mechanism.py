import json
import math

import numpy as np
import pytest

from privacy.errors import PrivacyError
from privacy.mechanism import (
    GRID_BITS,
    Gaussian,
    Mechanism,
    SampledGaussian,
    Unrecorded,
    gradient_mechanism,
    mechanism_from_data,
    sensitivity_slack,
)
from privacy.randomness import generator, system_entropy


def fresh() -> np.random.Generator:
    return generator(system_entropy("test"))


def test_sample_rate_is_batch_over_public_size_without_rounding_to_rows() -> None:
    mechanism, batch = gradient_mechanism(0.15, 1003, 1.0, 10)
    assert batch == 150
    assert mechanism.sample_rate == 150 / 1003


def test_a_tiny_party_still_samples() -> None:
    mechanism, batch = gradient_mechanism(0.001, 10, 1.0, 1)
    assert (batch, mechanism.sample_rate) == (1, 0.1)


def test_a_batch_larger_than_the_public_size_is_refused() -> None:
    with pytest.raises(PrivacyError, match="sample_rate"):
        gradient_mechanism(1.01, 1000, 1.0, 10)
    with pytest.raises(PrivacyError, match="public_size"):
        gradient_mechanism(0.5, 0, 1.0, 10)


def test_samples_have_binomial_size_and_no_repeats() -> None:
    mechanism = SampledGaussian(0.3, 1.0, 1)
    rng = fresh()
    sizes = []
    for _ in range(400):
        rows = mechanism.sample(200, rng)
        assert len(set(rows.tolist())) == len(rows)
        assert rows.size == 0 or (rows.min() >= 0 and rows.max() < 200)
        sizes.append(len(rows))
    # Mean 60, variance 42; six standard errors of the mean.
    assert abs(np.mean(sizes) - 60) < 6 * math.sqrt(42 / 400)
    assert 25 < np.var(sizes) < 62


def test_an_empty_table_gives_an_empty_sample() -> None:
    assert SampledGaussian(0.5, 1.0, 1).sample(0, fresh()).size == 0


def test_released_sums_lie_on_the_grid_and_carry_the_stated_noise() -> None:
    mechanism, norm = SampledGaussian(0.1, 2.0, 1), 0.5
    released = mechanism.noised(np.zeros(40_000), norm, fresh())
    grid = norm * 2.0**-GRID_BITS
    assert np.array_equal(np.rint(released / grid) * grid, released)
    expected = 2.0 * norm * (1 + sensitivity_slack(40_000))
    assert abs(released.std() / expected - 1) < 0.03
    assert abs(released.mean()) < 6 * expected / 200


def test_rounded_gaussian_gives_integers_with_the_stated_noise() -> None:
    noised = Gaussian(5.0).noised(np.full(40_000, 7, dtype=np.int64), fresh())
    assert noised.dtype == np.int64
    assert abs(noised.mean() - 7) < 6 * 5 / 200
    assert abs(noised.std() - 5.0) < 0.15


def test_generators_differ_by_key_and_repeat_for_one_key() -> None:
    one, same, other = (generator(bytes([n]) * 32).normal(size=4) for n in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, generator(bytes([1]) * 16 + bytes([3]) * 16).normal(size=4))


def test_service_entropy_never_repeats() -> None:
    assert len({system_entropy("same label") for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "mechanism",
    [SampledGaussian(0.1, 1.5, 7), Gaussian(3.0, 1.0), Unrecorded((0.1, 0.25, 1e-17))],
)
def test_mechanisms_survive_the_ledger(mechanism: Mechanism) -> None:
    data = json.loads(json.dumps(mechanism.as_data()))
    assert mechanism_from_data(data) == mechanism
    assert hash(mechanism_from_data(data)) == hash(mechanism)


def test_what_a_ledger_lost_is_no_event() -> None:
    with pytest.raises(PrivacyError, match="curve only"):
        Unrecorded((0.1,)).event()


@pytest.mark.parametrize(
    "data",
    [
        {"mechanism": "laplace", "scale": 1.0},
        {"mechanism": "gaussian", "noise": 1.0},
        {"mechanism": "gaussian", "noise_multiplier": 0.0},
        {"mechanism": "gaussian", "noise_multiplier": 1.0, "rdp": [0.1]},
        {"mechanism": "unrecorded", "rdp": []},
        {"mechanism": "unrecorded", "rdp": [0.1, -0.1]},
        {"mechanism": "unrecorded", "rdp": [float("inf")]},
        {"mechanism": "unrecorded", "rdp": ["0.1"]},
        {"mechanism": "unrecorded", "rdp": 0.1},
        {"mechanism": "sampled_gaussian", "sample_rate": 2.0, "noise_multiplier": 1, "steps": 1},
        {"mechanism": "sampled_gaussian", "sample_rate": 0.1, "noise_multiplier": 1, "steps": 0},
        {},
    ],
)
def test_unknown_or_impossible_mechanisms_are_refused(data: dict[str, object]) -> None:
    with pytest.raises(PrivacyError):
        mechanism_from_data(data)
