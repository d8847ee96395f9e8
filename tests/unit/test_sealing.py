"""Sealed values: what opens them, and what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.errors import ConfigError, StoreError
from privacy.hosting.sealing import CipherName, Sealing, _derived, _Sm4Gcm

SECRET, OTHER = bytes(range(32)), bytes(32)
CIPHERS: tuple[CipherName, ...] = ("aes-256-gcm", "sm4-gcm")


@pytest.fixture(params=CIPHERS)
def sealing(request: pytest.FixtureRequest) -> Sealing:
    return Sealing(SECRET, request.param)


@pytest.mark.parametrize("text", ["", "P0000001", "客户-7", "x" * 255])
def test_what_is_sealed_opens_again_and_is_not_seen(sealing: Sealing, text: str) -> None:
    column = sealing.column("customers", "sealed")
    sealed = column.seal(b"row", text)
    assert column.open(b"row", sealed) == text
    assert len(sealed) == 34 + len(text.encode())
    assert not text or text.encode() not in sealed


def test_no_two_seals_are_alike(sealing: Sealing) -> None:
    column = sealing.column("customers", "sealed")
    assert len({column.seal(b"row", "same") for _ in range(1000)}) == 1000


def test_a_flipped_bit_anywhere_is_found(sealing: Sealing) -> None:
    column = sealing.column("customers", "sealed")
    sealed = column.seal(b"row", "P0000001")
    for place in range(len(sealed) * 8):
        broken = bytearray(sealed)
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(StoreError) as caught:
            column.open(b"row", bytes(broken))
        assert "backup" in str(caught.value)
        assert "P0000001" not in str(caught.value)


def test_a_cut_value_does_not_open(sealing: Sealing) -> None:
    column = sealing.column("customers", "sealed")
    sealed = column.seal(b"row", "P0000001")
    for length in range(len(sealed)):
        with pytest.raises(StoreError):
            column.open(b"row", sealed[:length])


def test_a_value_opens_in_its_own_row_column_and_table_only(sealing: Sealing) -> None:
    sealed = sealing.column("customers", "sealed").seal(b"row", "P0000001")
    for table, column, row in (
        ("customers", "sealed", b"other"),
        ("customers", "other", b"row"),
        ("opt_outs", "sealed", b"row"),
    ):
        with pytest.raises(StoreError, match="altered or moved"):
            sealing.column(table, column).open(row, sealed)


def test_another_secret_does_not_open_it_and_the_error_says_what_to_do(sealing: Sealing) -> None:
    sealed = sealing.column("customers", "sealed").seal(b"row", "P0000001")
    other = Sealing(OTHER, sealing.cipher).column("customers", "sealed")
    with pytest.raises(StoreError, match="another secret; put back the key file"):
        other.open(b"row", sealed)


def test_values_of_another_cipher_and_of_an_older_secret_still_open() -> None:
    blobs = [
        Sealing(secret, cipher).column("a", "b").seal(b"row", f"{secret[1]} {cipher}")
        for secret in (SECRET, OTHER)
        for cipher in CIPHERS
    ]
    for cipher in CIPHERS:
        column = Sealing(SECRET, cipher, older=(OTHER,)).column("a", "b")
        assert [column.open(b"row", blob) for blob in blobs] == [
            *("1 aes-256-gcm", "1 sm4-gcm"),
            *("0 aes-256-gcm", "0 sm4-gcm"),
        ]
        assert column.open(b"row", column.seal(b"row", "new")) == "new"


def test_keys_of_texts_are_the_same_again_and_differ_by_secret_and_name() -> None:
    keys = {
        Sealing(secret).index(name).key("P1") for secret in (SECRET, OTHER) for name in ("a", "b")
    }
    assert len(keys) == 4
    assert Sealing(SECRET).index("a").key("P1") in keys
    assert {len(key) for key in keys} == {16}
    assert Sealing(SECRET).check != Sealing(OTHER).check


def test_a_secret_has_32_bytes() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        Sealing(bytes(16)).column("a", "b")


def test_no_representation_shows_the_secret() -> None:
    assert SECRET.hex() not in repr(Sealing(SECRET))
    assert repr(SECRET) not in repr(Sealing(SECRET))


def test_sm4_gcm_is_that_of_rfc_8998() -> None:
    """Appendix A.1 of the RFC."""
    key = bytes.fromhex("0123456789abcdeffedcba9876543210")
    nonce = bytes.fromhex("00001234567800000000abcd")
    bound = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    plain = b"".join(bytes([one]) * 8 for one in (0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0xEE, 0xAA))
    sealed = bytes.fromhex(
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
        "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
        "83de3541e4c2b58177e065a9bf7b62ec"
    )
    assert _Sm4Gcm(key).encrypt(nonce, plain, bound) == sealed
    assert _Sm4Gcm(key).decrypt(nonce, sealed, bound) == plain


def test_the_format_is_the_documented_one() -> None:
    """Anything else would leave stored values unreadable: format, cipher, key id, nonce."""
    vector = json.loads((Path(__file__).parents[1] / "vectors" / "sealed.json").read_text())
    secret = bytes.fromhex(vector["secret"])
    for case in vector["cases"]:
        sealed = bytes.fromhex(case["sealed"])
        row = bytes.fromhex(case["row"])
        column = Sealing(secret, case["cipher"]).column(case["table"], case["column"])
        assert column.open(row, sealed) == case["text"]
        assert Sealing(secret).index("customers").key(case["text"]).hex() == case["key"]
    case = vector["cases"][0]
    sealed = bytes.fromhex(case["sealed"])
    place = f"{case['table']}.{case['column']}"
    key = _derived(secret, b"fedtags sealed column 1\0aes-256-gcm\0" + place.encode(), 32)
    bound = sealed[:6] + place.encode() + b"\0" + bytes.fromhex(case["row"])
    assert AESGCM(key).decrypt(sealed[6:18], sealed[18:], bound) == case["text"].encode()
    assert sealed[:2] == b"\x01\x01"
    assert sealed[2:6] == _derived(secret, b"fedtags key id 1", 4)
