import numpy as np
import pytest
import tenseal

from privacy.encryption import (
    CIPHERTEXT_BYTES,
    MODULUS,
    SLOTS,
    RunKey,
    add,
    keyless_context,
    open_sealed,
    seal_to,
)
from privacy.errors import ProtocolError


def residues(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, MODULUS, SLOTS)


@pytest.fixture(scope="module")
def run_key() -> RunKey:
    return RunKey.generate()


def test_fifteen_parties_add_exactly(run_key: RunKey) -> None:
    parts = [residues(seed) for seed in range(15)]
    total = add(keyless_context(), [run_key.encrypt(part) for part in parts])
    expected = np.zeros(SLOTS, dtype=object)
    for part in parts:
        expected = (expected + part) % MODULUS
    assert np.array_equal(run_key.decrypt(total), expected.astype(np.int64))


def test_ciphertexts_have_one_length_whatever_they_hold(run_key: RunKey) -> None:
    lengths = {
        len(run_key.encrypt(part))
        for part in (np.zeros(SLOTS, dtype=np.int64), residues(1), np.full(SLOTS, MODULUS - 1))
    }
    assert lengths == {CIPHERTEXT_BYTES}


def test_the_key_travels_as_bytes(run_key: RunKey) -> None:
    other = RunKey.from_bytes(run_key.to_bytes())
    assert np.array_equal(other.decrypt(run_key.encrypt(residues(2))), residues(2))


def test_the_coordinators_context_has_no_key(run_key: RunKey) -> None:
    context = keyless_context()
    assert not context.is_private()
    with pytest.raises(ProtocolError):
        RunKey.from_bytes(
            context.serialize(
                save_public_key=False,
                save_secret_key=False,
                save_galois_keys=False,
                save_relin_keys=False,
            )
        )


def test_a_key_of_other_parameters_is_refused_before_seal_parses_it() -> None:
    other = tenseal.context(tenseal.SCHEME_TYPE.BFV, 4096, 1032193, [60, 49])
    foreign = other.serialize(save_secret_key=True, save_galois_keys=False, save_relin_keys=False)
    for data in (foreign, b"", RunKey.generate().to_bytes() + bytes(128 * 1024)):
        with pytest.raises(ProtocolError, match="parameters"):
            RunKey.from_bytes(data)


def test_another_key_does_not_open(run_key: RunKey) -> None:
    opened = RunKey.generate().decrypt(run_key.encrypt(residues(3)))
    assert not np.array_equal(opened, residues(3))


def test_malformed_ciphertexts_are_refused_before_tenseal_sees_them(run_key: RunKey) -> None:
    good = run_key.encrypt(residues(4))
    forged_size = good[:2] + bytes([good[2] ^ 1]) + good[3:]
    sizes_without_ciphertext = good[:4]
    for bad in (b"", good[:-1], good + b"\0", forged_size, sizes_without_ciphertext, b"\0" * 9):
        with pytest.raises(ProtocolError):
            run_key.decrypt(bad)
        with pytest.raises(ProtocolError):
            add(keyless_context(), [good, bad])


def test_an_altered_seal_does_not_open() -> None:
    key, sealed = b"k" * 32, seal_to(b"k" * 32, b"secret", b"a to b")
    assert open_sealed(key, sealed, b"a to b") == b"secret"
    for wrong in (
        (b"x" * 32, sealed, b"a to b"),
        (key, sealed, b"a to c"),
        (key, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"a to b"),
        (key, b"", b"a to b"),
    ):
        with pytest.raises(ProtocolError):
            open_sealed(*wrong)
