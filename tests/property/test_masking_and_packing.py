import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.ciphertexts import MAX_PARTIES, MODULUS, SLOTS
from privacy.errors import ProtocolError
from privacy.masking import SumLabel, pairwise_mask, self_mask, uniform_words
from privacy.packing import (
    COUNT_BOUND,
    DATA_SLOTS,
    DeltaCode,
    count_chunks,
    field_chunks,
    pack_counts,
    pack_fields,
    unpack_counts,
    unpack_fields,
    value_bits,
)

NAMES = ("bank", "ecommerce", "grocer", "retailer", "telco")
PAIRS = {
    me: {
        peer: bytes([sum(1 << NAMES.index(one) for one in (me, peer))]) * 32
        for peer in NAMES
        if peer != me
    }
    for me in NAMES
}
COHORTS = st.integers(2, MAX_PARTIES)


def label(round_number: int = 1, members: tuple[str, ...] = NAMES) -> SumLabel:
    return SumLabel(round_number, 1, "update", members)


@given(st.integers(0, 200), st.integers(0, 700))
@settings(max_examples=10, deadline=None)
def test_masks_cancel_over_every_subset_of_the_members_and_over_nothing_less(
    number: int, chunk: int
) -> None:
    for size in range(2, len(NAMES) + 1):
        for members in combinations(NAMES, size):
            one = label(number, members)
            masks = {me: pairwise_mask(me, PAIRS[me], one, chunk) for me in members}
            assert not (sum(masks.values()) % MODULUS).any()
            for left_out in members:
                rest = [masks[me] for me in members if me != left_out]
                assert np.count_nonzero(sum(rest) % MODULUS) > SLOTS - 10


def test_a_mask_is_bound_to_every_part_of_its_label() -> None:
    drawn = {
        tuple(pairwise_mask("bank", PAIRS["bank"], SumLabel(*parts), chunk)[:8].tolist())
        for *parts, chunk in (
            (1, 1, "update", NAMES[:2], 0),
            (2, 1, "update", NAMES[:2], 0),
            (1, 2, "update", NAMES[:2], 0),
            (1, 1, "evaluation", NAMES[:2], 0),
            (1, 1, "update", ("bank", "grocer"), 0),
            (1, 1, "update", NAMES[:3], 0),
            (1, 1, "update", NAMES[:2], 1),
        )
    }
    assert len(drawn) == 7


def test_no_two_purposes_or_parties_share_an_info_string() -> None:
    one = label()
    infos = {
        one.info("mask", 0),
        one.info("mask", 1),
        one.info("self-mask", 0),
        one.info("mac pad", 0, "bank"),
        one.info("mac pad", 0, "grocer"),
    }
    assert len(infos) == 5


def test_a_label_names_two_or_more_members_in_order() -> None:
    for members in ((), ("bank",), ("grocer", "bank"), ("bank", "bank")):
        with pytest.raises(ProtocolError, match="sorted, each once"):
            label(members=members)


def test_a_mask_towards_a_stranger_is_refused() -> None:
    for me, members in (("bank", ("bank", "stranger")), ("bank", ("ecommerce", "grocer"))):
        with pytest.raises(ProtocolError, match="key agreement"):
            pairwise_mask(me, PAIRS[me], label(members=members), 0)


def test_a_self_mask_is_uniform_and_bound_to_seed_label_and_chunk() -> None:
    drawn = [
        self_mask(b"s" * 32, label(), 0),
        self_mask(b"t" * 32, label(), 0),
        self_mask(b"s" * 32, label(2), 0),
        self_mask(b"s" * 32, label(), 1),
    ]
    assert all(len(one) == SLOTS and chi_square(one, 16) < 15 + 6 * math.sqrt(30) for one in drawn)
    assert len({tuple(one[:8].tolist()) for one in drawn}) == len(drawn)


def chi_square(words: NDArray[np.int64], cells: int) -> float:
    found = np.bincount(words * cells // MODULUS, minlength=cells)
    expected = len(words) / cells
    return float(((found - expected) ** 2 / expected).sum())


def test_words_are_uniform_below_the_modulus() -> None:
    words = uniform_words(b"u" * 32, 64_000, MODULUS)
    assert words.min() >= 0
    assert words.max() < MODULUS
    assert chi_square(words, 64) < 63 + 6 * math.sqrt(2 * 63)


def test_rejection_keeps_words_uniform_where_the_modulus_is_small() -> None:
    words = uniform_words(b"r" * 32, 30_000, 3)
    assert np.all(np.abs(np.bincount(words) - 10_000) < 6 * math.sqrt(30_000 * 2 / 9))


@pytest.mark.parametrize("parties", range(2, MAX_PARTIES + 1))
def test_no_cohort_overflows_a_field_or_a_slot_even_at_the_extremes(parties: int) -> None:
    """Every party at the largest value in both fields, in one of them, and mixed with zeros."""
    largest = DeltaCode(1.0, 1.0, parties).levels
    assert value_bits(parties) == (20 if parties <= 16 else 19)
    assert parties * largest <= (1 << 24) - 2
    values = np.array([largest, largest, 0, largest, largest, 0, 0, 0], dtype=np.int64)
    summed = pack_fields(values) * parties
    assert summed.max() < MODULUS
    assert np.array_equal(unpack_fields(summed % MODULUS, values.size), values * parties)


def test_the_next_bit_would_overflow() -> None:
    for parties in range(17, MAX_PARTIES + 1):
        assert parties * ((1 << (value_bits(parties) + 1)) - 1) >= 1 << 24
    with pytest.raises(ValueError, match="32 parties"):
        value_bits(MAX_PARTIES + 1)


@given(COHORTS, st.data())
@settings(max_examples=50, deadline=None)
def test_fields_of_every_cohort_add_exactly(parties: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 20))
    value = st.integers(0, DeltaCode(1.0, 1.0, parties).levels)
    each = data.draw(st.lists(st.lists(value, min_size=count, max_size=count), min_size=1))[
        :parties
    ]
    vectors = [np.array(one, dtype=np.int64) for one in each]
    summed = sum(pack_fields(one) for one in vectors) % MODULUS
    assert np.array_equal(unpack_fields(summed, count), sum(vectors))


@pytest.mark.parametrize("count", [1, 2 * DATA_SLOTS, 2 * DATA_SLOTS + 1, 30_000])
def test_fields_fill_whole_chunks_and_leave_the_tags_slot_alone(count: int) -> None:
    values = np.arange(count, dtype=np.int64)
    chunks = pack_fields(values)
    assert chunks.shape == (field_chunks(count), DATA_SLOTS) == (-(-count // 8190), 4095)
    assert np.array_equal(unpack_fields(chunks, count), values)


def test_a_value_outside_its_bits_is_refused() -> None:
    for value in (-1, 1 << 20):
        with pytest.raises(ValueError, match="20 bits"):
            pack_fields(np.array([0, value]))


@given(st.lists(st.integers(-COUNT_BOUND, COUNT_BOUND), min_size=1, max_size=30), COHORTS)
@settings(max_examples=50, deadline=None)
def test_signed_counts_add_exactly(values: list[int], parties: int) -> None:
    counts = np.array(values, dtype=np.int64)
    chunks = pack_counts(counts)
    assert chunks.shape == (count_chunks(counts.size), DATA_SLOTS)
    summed = chunks * parties % MODULUS
    assert np.array_equal(unpack_counts(summed, counts.size), counts * parties)


@given(st.integers(-(2**62), 2**62))
def test_counts_clamp_and_never_wrap(value: int) -> None:
    opened = unpack_counts(pack_counts(np.array([value])) * MAX_PARTIES % MODULUS, 1)
    assert opened.tolist() == [MAX_PARTIES * max(-COUNT_BOUND, min(COUNT_BOUND, value))]


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30), COHORTS, st.floats(0.01, 5))
@settings(max_examples=50, deadline=None)
def test_deltas_clamp_and_never_wrap(values: list[float], parties: int, bound: float) -> None:
    code, delta = DeltaCode(bound, 0.5, parties), np.array(values)
    for weight in (0.5, 0.25, 0.9):  # the last one beyond the largest that there should be
        quantised = code.quantise(delta, weight, np.random.default_rng(0))
        assert quantised.min() >= 0
        assert quantised.max() <= code.levels
        decoded = code.dequantise(quantised, 1)
        step = 2 * code.limit / code.levels
        expected = np.clip(np.clip(delta, -bound, bound) * weight, -code.limit, code.limit)
        assert np.all(np.abs(decoded - expected) <= step * 1.001)
    assert code.saturated(delta) == sum(abs(one) > bound for one in values)


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=30),
    st.floats(0.01, 5),
    st.lists(st.floats(0.05, 1), min_size=2, max_size=MAX_PARTIES),
)
@settings(max_examples=50, deadline=None)
def test_a_weighted_sum_is_right_within_one_step_a_party(
    values: list[float], bound: float, shares: list[float]
) -> None:
    weights = [share / sum(shares) for share in shares]
    code = DeltaCode(bound, max(weights), len(weights))
    rng = np.random.default_rng(0)
    delta = np.array(values)
    total = sum(code.quantise(delta, weight, rng) for weight in weights)
    decoded = code.dequantise(np.asarray(total), len(weights))
    step = 2 * code.limit / code.levels
    assert np.all(np.abs(decoded - np.clip(delta, -bound, bound)) <= len(weights) * step * 1.001)


def test_rounding_is_unbiased() -> None:
    code = DeltaCode(1.0, 1.0, 3)
    value = 0.3 * 2 / code.levels  # three tenths of a step above a level
    drawn = code.quantise(np.full(100_000, value), 1.0, np.random.default_rng(1))
    decoded = code.dequantise(drawn, 1)
    assert abs(decoded.mean() - value) < 6 * (2 / code.levels) * 0.5 / math.sqrt(100_000)
