import numpy as np
import pytest

from privacy.encryption import MODULUS, SLOTS, RunKey, add, keyless_context
from privacy.errors import ProtocolError
from privacy.key_agreement import (
    SharedKeys,
    agreement_hash,
    check_confirmations,
    confirm,
    lead_of,
    open_run_key,
    pair_keys,
    seal_run_key,
    shared_keys,
)
from privacy.masking import exchange_public, pair_key

MEMBERS = ["bank", "ecommerce", "retailer"]
SECRETS = {me: bytes([index + 7]) * 32 for index, me in enumerate(MEMBERS)}
OFFERS = {me: exchange_public(secret) for me, secret in SECRETS.items()}
AGREEMENT = agreement_hash(bytes(32), bytes(32), "run", OFFERS)


def agreed() -> dict[str, SharedKeys]:
    pairs = {me: pair_keys(me, SECRETS[me], OFFERS, AGREEMENT) for me in MEMBERS}
    lead, run_key = lead_of(MEMBERS), RunKey.generate()
    sealed = seal_run_key(run_key, lead, pairs[lead], AGREEMENT)
    keys = {lead: shared_keys(lead, "run", pairs[lead], run_key, AGREEMENT)}
    for me in MEMBERS[1:]:
        opened = open_run_key(sealed, me, lead, pairs[me], AGREEMENT)
        keys[me] = shared_keys(me, "run", pairs[me], opened, AGREEMENT)
    return keys


def chunk(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**40, SLOTS)


def test_all_members_open_the_sum_and_nothing_but_the_sum() -> None:
    keys = agreed()
    uploads = {me: keys[me].protect([chunk(seed)], "update", 1) for seed, me in enumerate(MEMBERS)}
    total = [add(keyless_context(), [one[0] for one in uploads.values()])]
    expected = (chunk(0) + chunk(1) + chunk(2)) % MODULUS
    for me in MEMBERS:
        assert np.array_equal(keys[me].open_total(total, 1, "update", 1)[0], expected)


def test_a_key_holder_who_opens_one_upload_sees_uniform_words() -> None:
    keys = agreed()
    upload = keys["bank"].protect([np.zeros(SLOTS, dtype=np.int64)], "update", 1)
    seen = keys["retailer"].run_key.decrypt(upload[0])
    cells = np.bincount(seen * 16 // MODULUS, minlength=16)
    assert ((cells - SLOTS / 16) ** 2 / (SLOTS / 16)).sum() < 15 + 6 * np.sqrt(30)
    two = add(keyless_context(), [upload[0], keys["ecommerce"].protect([chunk(1)], "update", 1)[0]])
    assert not np.array_equal(keys["retailer"].run_key.decrypt(two), chunk(1))


def test_whoever_saw_other_offers_fails_the_confirmation() -> None:
    keys = agreed()
    tags = {me: confirm(keys[me].run_key, AGREEMENT, me) for me in MEMBERS}
    check_confirmations(keys["bank"].run_key, AGREEMENT, MEMBERS, tags)
    other = agreement_hash(bytes(32), bytes(32), "run", {**OFFERS, "bank": bytes(32)})
    with pytest.raises(ProtocolError):
        check_confirmations(keys["bank"].run_key, other, MEMBERS, tags)


def test_a_replaced_run_key_fails_the_confirmation() -> None:
    keys = agreed()
    tags = {me: confirm(keys[me].run_key, AGREEMENT, me) for me in MEMBERS}
    tags["retailer"] = confirm(RunKey.generate(), AGREEMENT, "retailer")
    with pytest.raises(ProtocolError):
        check_confirmations(keys["bank"].run_key, AGREEMENT, MEMBERS, tags)


def test_confirmations_come_from_exactly_the_members() -> None:
    keys = agreed()
    tags = {me: confirm(keys[me].run_key, AGREEMENT, me) for me in MEMBERS[:2]}
    with pytest.raises(ProtocolError, match="exactly"):
        check_confirmations(keys["bank"].run_key, AGREEMENT, MEMBERS, tags)


def test_the_coordinator_in_the_middle_cannot_swap_an_offer() -> None:
    swapped = {**OFFERS, "bank": exchange_public(b"\x42" * 32)}
    agreement = agreement_hash(bytes(32), bytes(32), "run", swapped)
    honest = pair_keys("bank", SECRETS["bank"], OFFERS, AGREEMENT)
    misled = pair_keys("retailer", SECRETS["retailer"], swapped, agreement)
    assert honest["retailer"] != misled["bank"]
    sealed = seal_run_key(RunKey.generate(), "bank", honest, AGREEMENT)
    with pytest.raises(ProtocolError):
        open_run_key(sealed, "retailer", "bank", misled, agreement)


def test_a_missing_seal_and_a_low_order_key_are_refused() -> None:
    pairs = pair_keys("retailer", SECRETS["retailer"], OFFERS, AGREEMENT)
    with pytest.raises(ProtocolError, match="sealed no run key"):
        open_run_key({}, "retailer", "bank", pairs, AGREEMENT)
    with pytest.raises(ProtocolError, match="X25519"):
        pair_keys("bank", SECRETS["bank"], {**OFFERS, "retailer": bytes(32)}, AGREEMENT)


def test_a_sum_with_a_missing_chunk_is_refused() -> None:
    with pytest.raises(ProtocolError, match="number of ciphertexts"):
        agreed()["bank"].open_total([], 1, "update", 1)


def test_a_sum_opened_as_another_one_is_uniform() -> None:
    """The coordinator passes an update off as the evaluation, whose sum it is told."""
    keys = agreed()
    nothing = [np.zeros(SLOTS, dtype=np.int64)]
    uploads = [keys[me].protect(nothing, "update", 2)[0] for me in MEMBERS]
    total = [add(keyless_context(), uploads)]
    assert not keys["bank"].open_total(total, 1, "update", 2)[0].any()
    for tensor, number in (("evaluation", 0), ("update", 3)):
        opened = keys["bank"].open_total(total, 1, tensor, number)[0]
        cells = np.bincount(opened * 16 // MODULUS, minlength=16)
        assert ((cells - SLOTS / 16) ** 2 / (SLOTS / 16)).sum() < 15 + 6 * np.sqrt(30)


def test_a_copied_exchange_key_is_refused_and_would_share_no_key() -> None:
    copied = {**OFFERS, "retailer": OFFERS["ecommerce"]}
    with pytest.raises(ProtocolError, match="same exchange key"):
        pair_keys("bank", SECRETS["bank"], copied, AGREEMENT)
    one = pair_key(SECRETS["bank"], OFFERS["ecommerce"], AGREEMENT, ("bank", "ecommerce"))
    other = pair_key(SECRETS["bank"], OFFERS["ecommerce"], AGREEMENT, ("bank", "retailer"))
    assert one != other
