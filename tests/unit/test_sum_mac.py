"""The linear MAC over sums, against a computation in Python's integers and against tampering."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy import sum_mac
from privacy.ciphertexts import MODULUS
from privacy.masking import SumLabel, derive, uniform_words
from privacy.packing import DATA_SLOTS

KEY = b"m" * 32
MEMBERS = ("bank", "ecommerce", "retailer")
LABEL = SumLabel(3, 1, "update", MEMBERS)
Integers = NDArray[np.int64]
RNG = np.random.default_rng(7)
UPLOADS = {me: RNG.integers(0, MODULUS, (2, DATA_SLOTS)) for me in MEMBERS}
TAGS = {me: sum_mac.tags(KEY, LABEL, me, UPLOADS[me]) for me in MEMBERS}
TOTAL = sum(UPLOADS.values()) % MODULUS
TAG_SUM = sum(TAGS.values()) % MODULUS


def test_the_sum_of_exactly_the_members_holds() -> None:
    assert sum_mac.holds(KEY, LABEL, TOTAL, TAG_SUM)


def test_a_tag_is_the_inner_product_and_a_pad_in_exact_arithmetic() -> None:
    r = uniform_words(derive(KEY, LABEL.info("mac hash", 0)), DATA_SLOTS, MODULUS).tolist()
    for me in MEMBERS:
        pads = uniform_words(derive(KEY, LABEL.info("mac pad", 0, me)), 2, MODULUS).tolist()
        expected = [
            (sum(a * b for a, b in zip(r, row, strict=True)) + pad) % MODULUS
            for row, pad in zip(UPLOADS[me].tolist(), pads, strict=True)
        ]
        assert TAGS[me].tolist() == expected


@given(st.integers(1, 2**14), st.sampled_from([0, 1, 2**24 - 1, 2**24, MODULUS - 1, 2**48 - 1]))
@settings(max_examples=30, deadline=None)
def test_inner_products_are_exact_at_the_extremes(terms: int, value: int) -> None:
    row = np.full((1, terms), value, dtype=np.int64)
    found = sum_mac.inner_products(row, np.full(terms, 2**48 - 1, dtype=np.int64))
    assert found.tolist() == [terms * value * (2**48 - 1) % MODULUS]


def each(change: Callable[[str, Integers], Integers]) -> tuple[Integers, Integers]:
    """The sums of uploads and tags if each member's is changed in the same way."""
    data = sum(change(me, UPLOADS[me]) for me in MEMBERS) % MODULUS
    tags = sum(change(me, TAGS[me]) for me in MEMBERS) % MODULUS
    return data, tags


TAMPERED = {
    "one party dropped": each(lambda me, one: one * (me != "bank")),
    "one party doubled": each(lambda me, one: one * (1 + (me == "bank"))),
    "one party rescaled": each(lambda me, one: one * (3 if me == "bank" else 1)),
    "all rescaled": each(lambda me, one: one * 2 % MODULUS),
    "one party negated": each(lambda me, one: one * (-1 if me == "bank" else 1)),
    "one party replaced by another": (
        (TOTAL - UPLOADS["bank"] + UPLOADS["retailer"]) % MODULUS,
        (TAG_SUM - TAGS["bank"] + TAGS["retailer"]) % MODULUS,
    ),
    "a constant added to all slots": ((TOTAL + 1) % MODULUS, (TAG_SUM + 1) % MODULUS),
    "the tag altered": (TOTAL, (TAG_SUM + np.array([1, 0])) % MODULUS),
    "chunks exchanged": (TOTAL[::-1], TAG_SUM[::-1]),
    "one chunk twice": (TOTAL[[0, 0]], TAG_SUM[[0, 0]]),
    "a chunk left out": (TOTAL[:1] * 0, TAG_SUM[:1] * 0),
    "nothing": (TOTAL * 0, TAG_SUM * 0),
}


@pytest.mark.parametrize("data_and_tags", TAMPERED.values(), ids=TAMPERED)
def test_any_other_sum_is_refused(data_and_tags: tuple[Integers, Integers]) -> None:
    assert not sum_mac.holds(KEY, LABEL, *data_and_tags)


@given(st.integers(0, 1), st.integers(0, DATA_SLOTS - 1), st.integers(1, MODULUS - 1))
@settings(max_examples=50, deadline=None)
def test_a_change_of_any_slot_is_refused(chunk: int, slot: int, change: int) -> None:
    altered = TOTAL.copy()
    altered[chunk, slot] = (altered[chunk, slot] + change) % MODULUS
    assert not sum_mac.holds(KEY, LABEL, altered, TAG_SUM)


@pytest.mark.parametrize(
    "other",
    [
        SumLabel(4, 1, "update", MEMBERS),
        SumLabel(3, 2, "update", MEMBERS),
        SumLabel(3, 1, "evaluation", MEMBERS),
        SumLabel(3, 1, "update", MEMBERS[:2]),
    ],
    ids=["round", "attempt", "tensor", "members"],
)
def test_a_sum_holds_for_no_other_label(other: SumLabel) -> None:
    assert not sum_mac.holds(KEY, other, TOTAL, TAG_SUM)


def test_another_key_accepts_nothing() -> None:
    assert not sum_mac.holds(b"n" * 32, LABEL, TOTAL, TAG_SUM)


def test_tags_of_one_payload_are_uniform_over_labels() -> None:
    """So a tag alone is a one-time pad's output: it says nothing of the payload."""
    nothing = np.zeros((64, DATA_SLOTS), dtype=np.int64)
    found = [
        sum_mac.tags(KEY, SumLabel(n, 1, "update", MEMBERS), "bank", nothing) for n in range(64)
    ]
    cells = np.bincount(np.concatenate(found) * 16 // MODULUS, minlength=16)
    assert ((cells - 256) ** 2 / 256).sum() < 15 + 6 * np.sqrt(30)
