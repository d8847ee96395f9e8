"""A member's keys against a coordinator that bends sums, alone or with a key holder's help."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from privacy.ciphertexts import CIPHERTEXT_BYTES, MODULUS, SLOTS, SUM_BYTES
from privacy.errors import IntegrityError, ProtocolError
from privacy.masking import SumLabel
from privacy.packing import DATA_SLOTS
from privacy.shared_keys import SharedKeys
from tests.agreements import (
    ALL,
    DIGEST,
    MEMBERS,
    Agree,
    added,
    agreements,
    payload,
    sides,
    uniform,
    uploads,
)

# The first coefficient modulus: the largest prime of 60 bits that is 1 modulo 2 N.
Q = next(q for q in range(2**60 + 1 - 8192, 2**59, -8192) if pow(3, q - 1, q) == 1)


@pytest.fixture
def agree() -> Iterator[Agree]:
    with agreements() as complete:
        yield complete


@pytest.fixture
def keys(agree: Agree) -> dict[str, SharedKeys]:
    return agree()


def caught(keys: SharedKeys, total: bytes, chunks: int = 1, label: SumLabel = ALL) -> None:
    """The sum is caught, and the one attempt was the last: nothing works any more."""
    with pytest.raises(IntegrityError, match="erased"):
        keys.open_total(total, chunks, label)
    gone: list[Callable[[], object]] = [
        lambda: keys.open_total(total, chunks, label),
        lambda: keys.protect(payload(0), SumLabel(9, 1, "update", MEMBERS)),
        lambda: keys.confirmation("bank", DIGEST),
        lambda: keys.opening_tag(label, payload(0)),
        lambda: keys.lost_tag(label),
        lambda: keys.open_model(bytes(64)),
        lambda: keys.seal_seed(label, bytes(32)),
        lambda: keys._run_key.to_bytes(),
    ]
    for use in gone:
        with pytest.raises(ProtocolError, match="erased"):
            use()


# Sums ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", MEMBERS)
def test_all_members_open_the_sum_whoever_leads(lead: str, agree: Agree) -> None:
    keys = agree(lead=lead)
    sent = uploads(keys, chunks=2)
    assert {len(one) for one in sent.values()} == {2 * CIPHERTEXT_BYTES}
    total = added(*sent.values())
    expected = (payload(0, 2) + payload(1, 2) + payload(2, 2)) % MODULUS
    for me in MEMBERS:
        assert np.array_equal(keys[me].open_total(total, 2, ALL), expected)


def test_a_subset_of_the_members_sums_without_the_others(keys: dict[str, SharedKeys]) -> None:
    two = SumLabel(1, 2, "update", ("bank", "retailer"))
    total = added(*uploads(keys, two).values())
    for me in two.members:
        opened = keys[me].open_total(total, 1, two)
        assert np.array_equal(opened, (payload(0) + payload(1)) % MODULUS)
    with pytest.raises(ProtocolError, match="key agreement"):
        keys["ecommerce"].open_total(total, 1, two)
    with pytest.raises(ProtocolError, match="key agreement"):
        keys["bank"].protect(payload(0), SumLabel(1, 3, "update", ("bank", "stranger")))


def test_a_key_holder_who_opens_one_upload_sees_uniform_words_and_tags(
    keys: dict[str, SharedKeys],
) -> None:
    """Together with the coordinator: one upload alone, and two of three."""
    chunks = 256
    nothing = np.zeros((chunks, DATA_SLOTS), dtype=np.int64)
    upload = keys["bank"].protect(nothing, ALL)
    holder = keys["retailer"]._run_key
    for seen in (added(upload), added(upload, keys["ecommerce"].protect(nothing, ALL))):
        words = holder.decrypt(seen)
        assert uniform(words[:, :DATA_SLOTS])
        assert uniform(words[:, DATA_SLOTS])  # the tags: bare ones would tell <r, x>


def test_an_attempt_never_protects_two_payloads(keys: dict[str, SharedKeys]) -> None:
    keys["bank"].protect(payload(0), ALL)
    for label in (ALL, replace(ALL, members=("bank", "retailer"))):
        with pytest.raises(ProtocolError, match="protected a payload before"):
            keys["bank"].protect(payload(1), label)
    keys["bank"].protect(payload(1), replace(ALL, attempt=2))


OTHER_SUMS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "one party dropped": lambda sent: added(sent["bank"], sent["ecommerce"]),
    "one party doubled": lambda sent: added(*sent.values(), sent["bank"]),
    "one party rescaled": lambda sent: added(*sent.values(), sent["bank"], sent["bank"]),
    "one party replaced": lambda sent: added(sent["bank"], sent["ecommerce"], sent["ecommerce"]),
    "one upload alone": lambda sent: added(sent["bank"]),
    "a plaintext of ones added": lambda sent: with_ones(added(*sent.values())),
    "chunks exchanged": lambda sent: exchanged(added(*sent.values())),
    "one coefficient altered": lambda sent: altered(added(*sent.values())),
}


def with_ones(total: bytes) -> bytes:
    """Without any key: the constant polynomial's first coefficient is each slot's value."""
    return moved(total, Q // MODULUS)


def altered(total: bytes) -> bytes:
    return moved(total, Q // 3)


def moved(total: bytes, by: int) -> bytes:
    at = SUM_BYTES - 2 * SLOTS * 8
    first = (int.from_bytes(total[at : at + 8], "little") + by) % Q
    return total[:at] + first.to_bytes(8, "little") + total[at + 8 :]


def exchanged(total: bytes) -> bytes:
    return total[SUM_BYTES:] + total[:SUM_BYTES]


@pytest.mark.parametrize("bent", OTHER_SUMS.values(), ids=OTHER_SUMS)
def test_a_bent_sum_is_caught_by_every_party_and_erases_its_keys(
    bent: Callable[[dict[str, bytes]], bytes], keys: dict[str, SharedKeys]
) -> None:
    total = bent(uploads(keys, chunks=2))
    for me in MEMBERS:
        caught(keys[me], total, chunks=2)


def test_the_added_plaintext_does_open_as_ones(keys: dict[str, SharedKeys]) -> None:
    """So the test above bends what it says, and the MAC alone notices."""
    holder = keys["bank"]._run_key
    total = added(*uploads(keys).values())
    moved_by = (holder.decrypt(with_ones(total)) - holder.decrypt(total)) % MODULUS
    assert np.all(moved_by == 1)


@pytest.mark.parametrize(
    "other",
    [
        SumLabel(2, 1, "update", MEMBERS),
        SumLabel(1, 2, "update", MEMBERS),
        SumLabel(1, 1, "evaluation", MEMBERS),
        SumLabel(1, 1, "update", ("bank", "retailer")),
    ],
    ids=["round", "attempt", "tensor", "participants"],
)
def test_a_sum_opens_as_no_other(other: SumLabel, keys: dict[str, SharedKeys]) -> None:
    """An earlier sum replayed, an update passed off as the evaluation, a forged participant set."""
    total = added(*uploads(keys).values())
    keys["bank"].open_total(total, 1, ALL)
    caught(keys["bank"], total, label=other)


def test_uploads_of_two_sums_do_not_mix(keys: dict[str, SharedKeys]) -> None:
    first, again = uploads(keys), uploads(keys, replace(ALL, attempt=2))
    caught(keys["retailer"], added(first["bank"], first["ecommerce"], again["retailer"]))


def test_a_sum_of_another_length_is_refused_unopened(keys: dict[str, SharedKeys]) -> None:
    total = added(*uploads(keys).values())
    for wrong in (b"", total[:-1], total + total, total + b"\0"):
        with pytest.raises(ProtocolError, match="number of ciphertexts"):
            keys["bank"].open_total(wrong, 1, ALL)
    with pytest.raises(ProtocolError, match="form"):
        keys["bank"].open_total(bytes(SUM_BYTES), 1, ALL)
    keys["bank"].open_total(total, 1, ALL)


def test_a_payload_that_is_none_is_refused(keys: dict[str, SharedKeys]) -> None:
    good = payload(0)
    for wrong in (good[:, 1:], good[0], good[:0], good - 2**41, good + MODULUS):
        with pytest.raises(ValueError, match="payload"):
            keys["bank"].protect(wrong, ALL)


# Opening tags -------------------------------------------------------------------------------------


def test_two_members_who_were_shown_two_sums_notice(keys: dict[str, SharedKeys]) -> None:
    """The coordinator and a key holder, who knows the MAC key, can forge a sum for each member."""
    told = {me: keys[me].opening_tag(ALL, payload(0)) for me in MEMBERS}
    assert len(set(told.values())) == 1
    for me in MEMBERS:
        keys[me].check_openings(told[me], told, ALL)
    told["retailer"] = keys["retailer"].opening_tag(ALL, payload(1))
    for me in MEMBERS:
        with pytest.raises(IntegrityError, match="same sum"):
            keys[me].check_openings(told[me], told, ALL)
        with pytest.raises(ProtocolError, match="erased"):
            keys[me].opening_tag(ALL, payload(0))


@pytest.mark.parametrize("change", ["missing", "nothing opened", "lost", "another label"])
def test_a_member_that_does_not_show_what_it_opened_is_caught(
    change: str, keys: dict[str, SharedKeys]
) -> None:
    mine = keys["bank"].opening_tag(ALL, payload(0))
    shown = dict.fromkeys(MEMBERS, mine)
    if change == "missing":
        del shown["retailer"]
    else:
        shown["retailer"] = {
            "nothing opened": bytes(32),
            "lost": keys["retailer"].lost_tag(ALL),
            "another label": keys["retailer"].opening_tag(replace(ALL, round=2), payload(0)),
        }[change]
    with pytest.raises(IntegrityError, match="same sum"):
        keys["bank"].check_openings(mine, shown, ALL)


# Self-masks ---------------------------------------------------------------------------------------

SEEDS = {me: bytes([at]) * 32 for at, me in enumerate(MEMBERS)}


def test_a_sum_with_self_masks_opens_with_all_seeds_only(keys: dict[str, SharedKeys]) -> None:
    sent = [keys[me].protect(payload(at), ALL, SEEDS[me]) for at, me in enumerate(MEMBERS)]
    total = added(*sent)
    words = keys["bank"]._run_key.decrypt(total)
    assert uniform(words)
    opened = keys["bank"].open_total(total, 1, ALL, SEEDS)
    assert np.array_equal(opened, (payload(0) + payload(1) + payload(2)) % MODULUS)
    with pytest.raises(ProtocolError, match="exactly the participants"):
        keys["bank"].open_total(total, 1, ALL, {me: SEEDS[me] for me in MEMBERS[:2]})
    caught(keys["ecommerce"], total)  # without seeds


def test_a_wrong_seed_is_caught(keys: dict[str, SharedKeys]) -> None:
    sent = [keys[me].protect(payload(at), ALL, SEEDS[me]) for at, me in enumerate(MEMBERS)]
    total = added(*sent)
    with pytest.raises(IntegrityError):
        keys["bank"].open_total(total, 1, ALL, {**SEEDS, "retailer": bytes([9]) * 32})


def test_two_attempts_subtracted_stay_closed_for_a_lying_coordinator(
    keys: dict[str, SharedKeys],
) -> None:
    """The coordinator pretends that the retailer vanished and a key holder helps: with self-masks
    of one attempt only, the difference of both sums is not the retailer's update."""
    two = SumLabel(1, 2, "update", ("bank", "ecommerce"))
    zeros = np.zeros((1, DATA_SLOTS), dtype=np.int64)
    for once in (False, True):
        first, second = (
            added(
                *[
                    keys[me].protect(
                        payload(2) if me == "retailer" else zeros,
                        label,
                        SEEDS[me] if once else None,
                    )
                    for me in label.members
                ]
            )
            for label in (replace(ALL, round=3 + once), replace(two, round=3 + once))
        )
        holder = keys["ecommerce"]._run_key
        seen = (holder.decrypt(first) - holder.decrypt(second)) % MODULUS
        assert np.array_equal(seen[:, :DATA_SLOTS], payload(2)) is not once
        assert uniform(seen[:, :DATA_SLOTS]) is once


def test_a_seed_is_told_to_the_members_for_one_label_and_party(
    keys: dict[str, SharedKeys],
) -> None:
    sealed = keys["bank"].seal_seed(ALL, SEEDS["bank"])
    assert len(sealed) == 48
    assert keys["retailer"].open_seed(ALL, "bank", sealed) == SEEDS["bank"]
    for label, party, bytes_shown in (
        (replace(ALL, attempt=2), "bank", sealed),
        (ALL, "ecommerce", sealed),
        (ALL, "bank", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (ALL, "bank", b""),
    ):
        with pytest.raises(ProtocolError, match="does not open"):
            keys["retailer"].open_seed(label, party, bytes_shown)
    with pytest.raises(ProtocolError, match="32 bytes"):
        keys["retailer"].open_seed(ALL, "bank", keys["bank"].seal_seed(ALL, b"short"))


# Confirmations and the model ----------------------------------------------------------------------


def test_members_confirm_one_run_key_and_one_model(keys: dict[str, SharedKeys]) -> None:
    tags = {me: keys[me].confirmation(me, DIGEST) for me in MEMBERS}
    assert len(set(tags.values())) == len(MEMBERS)
    for me in MEMBERS:
        keys[me].check_confirmations(tags, DIGEST)
    for wrong in (
        {me: tags[me] for me in MEMBERS[:2]},
        {**tags, "stranger": tags["bank"]},
    ):
        with pytest.raises(ProtocolError, match="exactly"):
            keys["bank"].check_confirmations(wrong, DIGEST)


def test_another_model_or_another_members_tag_is_caught(
    agree: Agree,
) -> None:
    for wrong in ("model", "party", "epoch"):
        keys, other = agree(), agree()
        tags = {me: keys[me].confirmation(me, DIGEST) for me in MEMBERS}
        tags["retailer"] = {
            "model": keys["retailer"].confirmation("retailer", b"e" * 32),
            "party": tags["bank"],
            "epoch": other["retailer"].confirmation("retailer", DIGEST),
        }[wrong]
        with pytest.raises(IntegrityError, match="erased"):
            keys["bank"].check_confirmations(tags, DIGEST)


def test_the_lead_brings_members_to_its_model_before_the_epoch_is_complete() -> None:
    ours = sides()
    with pytest.raises(ProtocolError, match="only the lead"):
        ours["bank"].seal_model(b"too early")
    seals = {me: one.seal() for me, one in ours.items()}
    sealed = ours["bank"].seal_model(b"parameters")
    assert sealed != ours["bank"].seal_model(b"parameters")
    with pytest.raises(ProtocolError, match="only the lead"):
        ours["retailer"].seal_model(b"mine")
    keys = {me: one.complete(seals) for me, one in ours.items()}
    for me in MEMBERS:
        assert keys[me].open_model(sealed) == b"parameters"
        for wrong in (b"", sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), bytes(16) + sealed):
            with pytest.raises(ProtocolError, match="does not open"):
                keys[me].open_model(wrong)
        keys[me].erase()
