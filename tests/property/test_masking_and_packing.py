import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.encryption import MODULUS
from privacy.masking import MaskLabel, exchange_public, mask, pair_key, uniform_words
from privacy.packing import (
    LEVELS,
    DeltaCode,
    pack_counts,
    pack_fields,
    unpack_counts,
    unpack_fields,
)

NAMES = ["bank", "ecommerce", "grocer", "retailer", "telco"]


def pairs_of(members: list[str]) -> dict[str, dict[str, bytes]]:
    secrets = {me: bytes([index + 1]) * 32 for index, me in enumerate(members)}
    return {
        me: {
            peer: pair_key(secrets[me], exchange_public(secrets[peer]), b"agreement", (me, peer))
            for peer in members
            if peer != me
        }
        for me in members
    }


def test_both_ends_of_a_pair_hold_one_key() -> None:
    pairs = pairs_of(NAMES)
    for me in NAMES:
        for peer, key in pairs[me].items():
            assert pairs[peer][me] == key


@given(st.integers(2, 5), st.integers(0, 200), st.integers(1, 64))
@settings(max_examples=25, deadline=None)
def test_masks_cancel_over_exactly_the_members(parties: int, number: int, count: int) -> None:
    members = NAMES[:parties]
    pairs, label = pairs_of(members), MaskLabel("run", number, 1, "update", 0)
    masks = {me: mask(me, pairs[me], label, count, MODULUS) for me in members}
    assert not (sum(masks.values()) % MODULUS).any()
    without_one = sum(masks[me] for me in members[1:]) % MODULUS
    assert without_one.any()


def test_a_mask_is_bound_to_every_part_of_its_label() -> None:
    pairs = pairs_of(NAMES[:2])["bank"]
    labels = [
        MaskLabel("run", 1, 1, "update", 0),
        MaskLabel("other", 1, 1, "update", 0),
        MaskLabel("run", 2, 1, "update", 0),
        MaskLabel("run", 1, 2, "update", 0),
        MaskLabel("run", 1, 1, "evaluation", 0),
        MaskLabel("run", 1, 1, "update", 1),
    ]
    drawn = {tuple(mask("bank", pairs, label, 8, MODULUS).tolist()) for label in labels}
    assert len(drawn) == len(labels)


def test_words_are_uniform_below_the_modulus() -> None:
    words = uniform_words(b"u" * 32, 64_000, MODULUS)
    assert words.min() >= 0
    assert words.max() < MODULUS
    cells = np.bincount(words * 64 // MODULUS, minlength=64)
    chi_square = float(((cells - 1000) ** 2 / 1000).sum())
    assert chi_square < 63 + 6 * math.sqrt(2 * 63)


def test_rejection_keeps_words_uniform_where_the_modulus_is_small() -> None:
    words = uniform_words(b"r" * 32, 30_000, 3)
    assert np.all(np.abs(np.bincount(words) - 10_000) < 6 * math.sqrt(30_000 * 2 / 9))


@given(
    st.integers(2, 15),
    st.lists(st.integers(0, LEVELS), min_size=1, max_size=40),
)
@settings(max_examples=50, deadline=None)
def test_fields_never_overflow_for_fifteen_parties(parties: int, values: list[int]) -> None:
    fields = np.array(values, dtype=np.int64)
    chunks = pack_fields(fields, 8)
    summed = [(chunk * parties) % MODULUS for chunk in chunks]
    assert np.array_equal(unpack_fields(summed, fields.size), fields * parties)


@given(st.lists(st.integers(-(2**39), 2**39), min_size=1, max_size=30), st.integers(1, 15))
@settings(max_examples=50, deadline=None)
def test_signed_counts_add_exactly(values: list[int], parties: int) -> None:
    counts = np.array(values, dtype=np.int64)
    summed = [(chunk * parties) % MODULUS for chunk in pack_counts(counts, 8, MODULUS)]
    assert np.array_equal(unpack_counts(summed, counts.size, MODULUS), counts * parties)


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=30),
    st.floats(0.01, 5),
    st.lists(st.floats(0.05, 1), min_size=2, max_size=15),
)
@settings(max_examples=50, deadline=None)
def test_deltas_clamp_and_add_within_one_step(
    values: list[float], bound: float, shares: list[float]
) -> None:
    weights = [share / sum(shares) for share in shares]
    code = DeltaCode(bound, max(weights))
    rng = np.random.default_rng(0)
    delta = np.array(values)
    total = sum(code.quantise(delta, weight, rng) for weight in weights)
    decoded = code.dequantise(np.asarray(total), len(weights))
    step = 2 * code.limit / LEVELS
    assert np.all(np.abs(decoded - np.clip(delta, -bound, bound)) <= len(weights) * step * 1.001)


def test_rounding_is_unbiased() -> None:
    code = DeltaCode(1.0, 1.0)
    value = 0.3 * 2 / LEVELS  # three tenths of a step above a level
    drawn = code.quantise(np.full(100_000, value), 1.0, np.random.default_rng(1))
    decoded = code.dequantise(drawn, 1)
    assert abs(decoded.mean() - value) < 6 * (2 / LEVELS) * 0.5 / math.sqrt(100_000)
