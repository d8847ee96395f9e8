"""The run key and the adder: exact sums, one form of bytes, and what malformed bytes do.

The rows of TenSEAL's malformed-input table are here at both sides: what a coordinator adds, and
what a party opens.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from privacy import ciphertexts
from privacy.ciphertexts import MAX_PARTIES, MODULUS, SLOTS
from privacy.encryption import (
    CIPHERTEXT_BYTES,
    KEY_BYTES,
    SUM_BYTES,
    Adder,
    RunKey,
    check_ciphertexts,
    check_sums,
)
from privacy.encryption_worker import Scheme
from privacy.errors import IntegrityError, ProtocolError
from privacy.masking import SumLabel
from privacy.packing import DATA_SLOTS
from privacy.shared_keys import SharedKeys

RNG = np.random.default_rng(0)


def residues(count: int = 1) -> np.ndarray:
    return RNG.integers(0, MODULUS, (count, SLOTS))


@pytest.fixture(scope="module")
def run_key() -> Iterator[RunKey]:
    with RunKey.generate() as key:
        yield key


@pytest.fixture(scope="module")
def adder() -> Iterator[Adder]:
    with Adder() as one:
        yield one


# What is right ------------------------------------------------------------------------------------


def test_as_many_parties_as_allowed_add_exactly(run_key: RunKey, adder: Adder) -> None:
    parts = [residues(2) for _ in range(MAX_PARTIES)]
    total = adder.add([run_key.encrypt(part) for part in parts])
    assert len(total) == 2 * SUM_BYTES
    assert np.array_equal(run_key.decrypt(total), sum(parts) % MODULUS)


def test_noise_leaves_room_after_as_many_additions_as_allowed() -> None:
    scheme = Scheme()
    scheme.take_key(bytes(32))
    sums: list = []
    for _ in range(MAX_PARTIES):
        scheme.add(sums, memoryview(scheme.encrypt(memoryview(residues().tobytes()))))
    assert scheme._decryptor.invariant_noise_budget(sums[0]) >= 1


def test_chunks_beyond_one_batch_keep_their_order(run_key: RunKey, adder: Adder) -> None:
    part = residues(50)  # several batches, so two children
    assert len(run_key._children.pids) <= 2
    assert np.array_equal(run_key.decrypt(adder.add([run_key.encrypt(part)])), part)
    assert len(run_key._children.pids) == 2


def test_rows_are_asked_for_while_they_are_encrypted(run_key: RunKey, adder: Adder) -> None:
    part = residues(40)
    total = adder.add([run_key.encrypt(row for row in part)])
    assert np.array_equal(run_key.decrypt(total), part)


def test_ciphertexts_have_one_length_whatever_they_hold(run_key: RunKey, adder: Adder) -> None:
    for row in (np.zeros((1, SLOTS), np.int64), residues(), np.full((1, SLOTS), MODULUS - 1)):
        encrypted = run_key.encrypt(row)
        assert len(encrypted) == CIPHERTEXT_BYTES
        assert len(adder.add([encrypted, encrypted])) == SUM_BYTES


def test_every_encryption_has_randomness_of_its_own(run_key: RunKey) -> None:
    row = residues()
    with RunKey.from_bytes(run_key.to_bytes()) as other:
        found = [run_key.encrypt(row), run_key.encrypt(row), other.encrypt(row)]
    assert len({one[:-64] for one in found}) == 3
    assert len({one[-64:] for one in found}) == 3  # the seeds of the second polynomial


def test_the_key_travels_as_bytes(run_key: RunKey, adder: Adder) -> None:
    row = residues()
    assert len(run_key.to_bytes()) == KEY_BYTES
    with RunKey.from_bytes(run_key.to_bytes()) as other:
        assert np.array_equal(other.decrypt(adder.add([run_key.encrypt(row)])), row)


def test_a_seed_makes_the_key_that_every_party_makes_of_it() -> None:
    # A TenSEAL that makes another key of this seed cannot be mixed with the others: say so in the
    # changelog when this value has to change.
    expected = "e1937ef94b6060d43784ef881a90360a251cfbd23f60d03ea8c2994d4f744a27"
    assert Scheme().take_key(bytes(32)).hex() == expected


def test_residues_outside_the_modulus_are_refused() -> None:
    for bad in (np.full((1, SLOTS), MODULUS), np.full((1, SLOTS), -1), np.zeros((1, 5), np.int64)):
        with RunKey.generate() as key, pytest.raises(ValueError, match=r"residue|shape"):
            key.encrypt(bad)


def test_nothing_works_after_the_key_is_erased(adder: Adder) -> None:
    key = RunKey.generate()
    total = adder.add([key.encrypt(residues())])
    key.erase()
    key.erase()
    for use in (key.to_bytes, lambda: key.encrypt(residues()), lambda: key.decrypt(total)):
        with pytest.raises(ProtocolError, match="start the run again"):
            use()


# What is wrong ------------------------------------------------------------------------------------


def test_a_key_that_is_none_is_refused(run_key: RunKey) -> None:
    good = run_key.to_bytes()
    for bad in (b"", good[:-1], good + b"\0", bytes(130_000)):
        with pytest.raises(ProtocolError, match=f"not {KEY_BYTES} bytes"):
            RunKey.from_bytes(bad)
    for at in (0, KEY_BYTES - 1):
        with pytest.raises(ProtocolError, match="version of TenSEAL"):
            RunKey.from_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])


def zstd_bomb(length: int) -> bytes:
    """SEAL's header and a Zstandard frame that unpacks to half a gigabyte of zeros."""
    blocks = struct.pack("<I", (128 * 1024) << 3 | 2)[:3] + b"\0"  # one byte, repeated
    frame = bytes.fromhex("28b52ffd0058") + blocks * 4096
    start = ciphertexts._header(2, length) + frame
    return start[:length] + bytes(max(0, length - len(start)))


def malformed(good: bytes) -> dict[str, bytes]:
    """The table's rows that can be told without parsing."""
    forged = bytearray(good)
    at = good.index(struct.pack("<QQ", 2, SLOTS))  # number of polynomials, N
    struct.pack_into("<QQ", forged, at, 2, 1 << 20)
    return {
        "nothing": b"",
        "one byte": b"\0",
        "truncated": good[:-1],
        "one byte too many": good + b"\0",
        "one and a half": good + good[: len(good) // 2],
        "random bytes": RNG.bytes(len(good)),
        "zeros": bytes(len(good)),
        "sizes without a ciphertext": good[: at + 16],
        "sizes, the rest zeros": good[: at + 16] + bytes(len(good) - at - 16),
        "forged sizes": bytes(forged),
        "compressed zeros": zstd_bomb(len(good)),
        "5,000 compressed zeros": zstd_bomb(125) * 5000,
    }


def test_malformed_ciphertexts_are_refused_before_seal_sees_them(
    run_key: RunKey, adder: Adder
) -> None:
    good = run_key.encrypt(residues())
    for name, bad in malformed(good).items():
        for members in ([bad], [good, bad], [bad, good]):
            with pytest.raises(ProtocolError):
                adder.add(members)
        with pytest.raises(ProtocolError):
            check_ciphertexts(bad)
        assert adder.add([good]), name
    with pytest.raises(ProtocolError, match="1 to 32 members"):
        adder.add([])
    with pytest.raises(ProtocolError, match="1 to 32 members"):
        adder.add([good] * (MAX_PARTIES + 1))


def test_malformed_sums_are_refused_before_seal_sees_them(run_key: RunKey, adder: Adder) -> None:
    part = residues()
    good = adder.add([run_key.encrypt(part)])
    for bad in malformed(good).values():
        with pytest.raises(ProtocolError):
            run_key.decrypt(bad)
        with pytest.raises(ProtocolError):
            check_sums(bad)
    for other_form in (run_key.encrypt(part), run_key.to_bytes()):
        with pytest.raises(ProtocolError):
            run_key.decrypt(other_form)
    with pytest.raises(ProtocolError):
        adder.add([good])
    assert np.array_equal(run_key.decrypt(good), part)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_any_flipped_bit_before_the_coefficients_is_refused(run_key: RunKey, adder: Adder) -> None:
    upload = run_key.encrypt(residues())
    total = adder.add([upload])
    for bit in range(8 * len(ciphertexts.SUM_BEGINNING)):
        with pytest.raises(ProtocolError):
            check_ciphertexts(flipped(upload, bit))
        with pytest.raises(ProtocolError):
            check_sums(flipped(total, bit))


# A coefficient of the first polynomial; both forms begin with equally many bytes.
COEFFICIENT = 8 * len(ciphertexts.SUM_BEGINNING) + 64 * 7
# Within one coefficient below q < 2**60: what a flipped bit comes to.
FATES = {0: "noise", 40: "another sum", 59: "another sum", 60: "refused", 63: "refused"}


@pytest.mark.parametrize("bit", FATES)
def test_a_flipped_bit_is_refused_or_changes_the_sum_or_is_noise(
    bit: int, run_key: RunKey, adder: Adder
) -> None:
    """SEAL has no integrity: what it accepts opens as something else (caught by the MAC), or as the
    same."""
    part = residues()
    upload = run_key.encrypt(part)
    total = adder.add([upload])
    at = COEFFICIENT + bit
    fates = set()
    for form, open_changed in (
        (upload, lambda changed: run_key.decrypt(adder.add([changed]))),
        (total, run_key.decrypt),
    ):
        try:
            same = np.array_equal(open_changed(flipped(form, at)), part)
            fates.add("noise" if same else "another sum")
        except ProtocolError:
            fates.add("refused")
    assert fates == {FATES[bit]}


def test_bits_flipped_anywhere_crash_nothing(run_key: RunKey, adder: Adder) -> None:
    part = residues()
    upload = run_key.encrypt(part)
    total = adder.add([upload])
    before = run_key._children.pids + adder._children.pids
    for _ in range(100):
        with contextlib.suppress(ProtocolError):
            adder.add([flipped(upload, int(RNG.integers(0, 8 * CIPHERTEXT_BYTES)))])
        with contextlib.suppress(ProtocolError):
            run_key.decrypt(flipped(total, int(RNG.integers(0, 8 * SUM_BYTES))))
    assert np.array_equal(run_key.decrypt(adder.add([upload])), part)
    assert run_key._children.pids + adder._children.pids == before


LABEL = SumLabel(1, 1, "update", ("bank", "shop"))


@pytest.mark.parametrize("fault", ["flipped bit", "another key", "small coefficients"])
def test_what_seal_accepts_of_foreign_bytes_is_caught_by_the_mac(fault: str, adder: Adder) -> None:
    with RunKey.generate() as bank_key, RunKey.from_bytes(bank_key.to_bytes()) as shop_key:
        bank, shop = (
            SharedKeys(me, {peer: b"pair key of these two members..."}, key, b"s", b"a")
            for me, peer, key in (("bank", "shop", bank_key), ("shop", "bank", shop_key))
        )
        chunks = RNG.integers(0, 1 << 40, (1, DATA_SLOTS))
        uploads = [one.protect(chunks, LABEL) for one in (bank, shop)]
        right = adder.add(uploads)
        wrong = {
            "flipped bit": lambda: flipped(right, COEFFICIENT + 40),
            "another key": lambda: adder.add([uploads[0], other_keys_upload()]),
            "small coefficients": lambda: adder.add([small_coefficients(uploads[0])]),
        }[fault]()
        assert np.array_equal(shop.open_total(right, 1, LABEL), 2 * chunks)
        with pytest.raises(IntegrityError):
            bank.open_total(wrong, 1, LABEL)
        with pytest.raises(ProtocolError):  # and the key is gone
            bank_key.to_bytes()


def other_keys_upload() -> bytes:
    with RunKey.generate() as other:
        return other.encrypt(residues())


def small_coefficients(upload: bytes) -> bytes:
    """A first polynomial of zeros: SEAL would save the sum in another, shorter form."""
    start = upload.index(struct.pack("<Q", SLOTS), 80) + 8
    return upload[: start + 24] + bytes(8 * SLOTS - 24) + upload[start + 8 * SLOTS :]


def test_a_sum_that_seal_would_shorten_has_the_one_form_too(adder: Adder) -> None:
    with RunKey.generate() as key:
        total = adder.add([small_coefficients(key.encrypt(residues()))])
        assert len(total) == SUM_BYTES
        assert key.decrypt(total).shape == (1, SLOTS)


def test_the_service_itself_never_loads_tenseal() -> None:
    program = (
        "import sys, numpy as np\n"
        "from coordinator.aggregate import Adder\n"
        "from privacy.encryption import RunKey\n"
        "key = RunKey.generate()\n"
        "upload = key.encrypt(np.zeros((1, 4096), np.int64))\n"
        "key.decrypt(Adder().total({'bank': upload, 'shop': upload}))\n"
        "print([name for name in sys.modules if 'seal' in name.lower()])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
