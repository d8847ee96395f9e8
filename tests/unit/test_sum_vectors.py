"""The checked-in vectors of keys and sums, against the code and other computations of them."""

import hashlib
import hmac
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy import sum_mac
from privacy.ciphertexts import MODULUS, SLOTS
from privacy.encryption import Adder, RunKey
from privacy.errors import ProtocolError
from privacy.key_agreement import ExchangeKeys, KeyAgreement, SealedKeys, agreement_hash
from privacy.masking import SumLabel, pairwise_mask, self_mask, uniform_words
from privacy.packing import (
    DeltaCode,
    pack_counts,
    pack_fields,
    unpack_counts,
    unpack_fields,
    value_bits,
)
from privacy.randomness import generator
from privacy.shared_keys import SharedKeys

VECTORS = Path(__file__).parents[1] / "vectors"
SOURCE = (VECTORS / "sums.json").read_bytes()


def from_plain(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict):
        return {name: from_plain(one) for name, one in value.items()}
    return [from_plain(one) for one in value] if isinstance(value, list) else value


V = from_plain(json.loads(SOURCE))
AGREED, DERIVED, MASKS, MAC, PACKED, CIPHERTEXTS = (
    V[name] for name in ("key_agreement", "derived", "masks", "mac", "packing", "ciphertexts")
)
SIGNED = from_plain(json.loads((VECTORS / "protocol.json").read_bytes()))
NAMES = sorted(AGREED["offers"])
EXCHANGE = {
    name: ExchangeKeys(
        X25519PrivateKey.from_private_bytes(AGREED["x25519_secrets"][name]),
        MLKEM768PrivateKey.from_seed_bytes(AGREED["ml_kem_seeds"][name]),
    )
    for name in NAMES
}
RUN_SECRET = hashlib.sha256(AGREED["run_key"]).digest()


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of output, without a salt."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def words_of(key: bytes, modulus: int, wanted: int) -> list[int]:
    """Six-byte little-endian words of an AES-256-CTR stream, those beyond a multiple left out."""
    length = 12 * wanted + 1024
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(length))
    every = [int.from_bytes(stream[at : at + 6], "little") for at in range(0, length - 5, 6)]
    return [one % modulus for one in every if one < 2**48 // modulus * modulus][:wanted]


def info(purpose: str, label: list[Any], chunk: int = 0, party: str = "") -> bytes:
    return f"fedtags {purpose} 1\0".encode() + cbor2.dumps([*label, chunk, party], canonical=True)


def purpose_key(purpose: str) -> bytes:
    return hkdf(RUN_SECRET, f"fedtags {purpose} key 1\0".encode() + AGREED["agreement_hash"])


def label_of(parts: list[Any]) -> SumLabel:
    return SumLabel(*parts[:3], tuple(parts[3]))


def payload(number: int) -> list[list[int]]:
    return [
        [(slot + 1) * (2**34 + 2**20 * number + chunk) % MODULUS for slot in range(4095)]
        for chunk in (0, 1)
    ]


@pytest.fixture
def bank() -> Iterator[SharedKeys]:
    secret = AGREED["run_key"]
    keys = SharedKeys(
        "bank", AGREED["pair_keys"]["bank"], RunKey.from_bytes(secret), secret,
        AGREED["agreement_hash"],
    )  # fmt: skip
    yield keys
    keys.erase()


def test_the_generator_gives_the_checked_in_bytes() -> None:
    assert runpy.run_path(str(VECTORS / "make_sum_vectors.py"))["document"]() == SOURCE


# Keys ---------------------------------------------------------------------------------------------


def test_offers_are_those_of_the_signed_decisions() -> None:
    for name in NAMES:
        assert EXCHANGE[name].offer == AGREED["offers"][name]
        assert AGREED["offers"][name] in SIGNED["decisions"][name]


def test_the_agreement_hash() -> None:
    who = SIGNED["identities"]
    plan = bytes.fromhex(who["plan_digest"])
    agreed = [who["manifest_hash"], plan, who["run"], 1, SIGNED["decisions"]]
    encoded = b"fedtags agreement 2\0" + cbor2.dumps(agreed, canonical=True)
    assert hashlib.sha256(encoded).digest() == agreement_hash(*agreed) == AGREED["agreement_hash"]


@pytest.mark.parametrize("pair", AGREED["encapsulated"])
def test_pair_keys_by_hkdf_alone(pair: str) -> None:
    one, other = pair.split()
    ciphertext, secrets = AGREED["encapsulated"][pair], AGREED["shared_secrets"][pair]
    x25519 = X25519PublicKey.from_public_bytes(AGREED["offers"][one][:32])
    assert EXCHANGE[other].x25519.exchange(x25519) == secrets["x25519"]
    assert EXCHANGE[other].ml_kem.decapsulate(ciphertext) == secrets["ml_kem"]
    bound = [AGREED["agreement_hash"], [one, other], hashlib.sha256(ciphertext).digest()]
    found = hkdf(
        secrets["x25519"] + secrets["ml_kem"],
        b"fedtags pair 2\0" + cbor2.dumps(bound, canonical=True),
    )
    assert found == AGREED["pair_keys"][one][other] == AGREED["pair_keys"][other][one]


def test_an_altered_ml_kem_ciphertext_gives_another_secret_without_an_error() -> None:
    """FIPS 203's implicit rejection: K = SHAKE256(z || ciphertext), z the seed's second half."""
    ciphertext = AGREED["encapsulated"]["bank shop"]
    altered = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    secret = EXCHANGE["shop"].ml_kem.decapsulate(altered)
    z = AGREED["ml_kem_seeds"]["shop"][32:]
    assert secret == hashlib.shake_256(z + altered).digest(32)
    assert secret == AGREED["ml_kem_of_an_altered_ciphertext"]


def test_the_run_key_opens_for_the_member_that_it_is_sealed_to() -> None:
    for name, key in AGREED["seal_keys"].items():
        bound = cbor2.dumps([AGREED["agreement_hash"], name], canonical=True)
        assert hkdf(AGREED["pair_keys"]["bank"][name], b"fedtags seal 1\0" + bound) == key
        opened = ChaCha20Poly1305(key).decrypt(
            bytes(12), AGREED["sealed"][name], f"bank to {name}".encode()
        )
        assert opened == AGREED["run_key"]


def seals() -> dict[str, SealedKeys]:
    """All that the shop, the last in order, needs to complete the agreement by itself."""
    encapsulated: dict[str, dict[str, bytes]] = {name: {} for name in NAMES}
    for pair, ciphertext in AGREED["encapsulated"].items():
        one, other = pair.split()
        encapsulated[one][other] = ciphertext
    return {
        name: SealedKeys(AGREED["sealed"] if name == "bank" else {}, encapsulated[name])
        for name in NAMES
    }


def test_the_shop_completes_the_agreement() -> None:
    side = KeyAgreement(
        "shop", EXCHANGE["shop"], AGREED["lead"], AGREED["offers"], AGREED["agreement_hash"]
    )
    keys = side.complete(seals())
    keys.check_confirmations(DERIVED["confirmations"], DERIVED["model_digest"])
    assert keys.open_model(DERIVED["sealed_model"]) == DERIVED["model"]
    label = label_of(MAC["label"])
    assert keys.open_seed(label, "bank", DERIVED["sealed_seed"]) == DERIVED["seed"]
    keys.erase()


@pytest.mark.parametrize("one", AGREED["broken_offers"], ids=lambda one: one["name"])
def test_broken_offers_are_refused(one: dict[str, Any]) -> None:
    offers = {**AGREED["offers"], "shop": one["offer"]}
    with pytest.raises(ProtocolError):
        KeyAgreement("bank", EXCHANGE["bank"], "bank", offers, bytes(32)).seal()


def test_what_follows_from_the_run_key_by_hkdf_and_hmac_alone(bank: SharedKeys) -> None:
    assert hashlib.sha256(DERIVED["model"]).digest() == DERIVED["model_digest"]
    for name, tag in DERIVED["confirmations"].items():
        content = cbor2.dumps([name, DERIVED["model_digest"]], canonical=True)
        assert hmac.digest(purpose_key("confirmation"), content, "sha256") == tag
        assert bank.confirmation(name, DERIVED["model_digest"]) == tag
    salt, sealed = DERIVED["sealed_model"][:16], DERIVED["sealed_model"][16:]
    key = hkdf(purpose_key("model"), b"fedtags model seal 1\0" + salt)
    assert ChaCha20Poly1305(key).decrypt(bytes(12), sealed, b"model") == DERIVED["model"]
    label = MAC["label"]
    key = hkdf(purpose_key("seed"), info("seed", label, 0, "bank"))
    opened = ChaCha20Poly1305(key).decrypt(bytes(12), DERIVED["sealed_seed"], b"bank")
    assert opened == DERIVED["seed"]
    assert bank.seal_seed(label_of(label), DERIVED["seed"]) == DERIVED["sealed_seed"]


def test_opening_tags_by_hmac_alone(bank: SharedKeys) -> None:
    """Of the sum of the MAC's payloads, eight little-endian bytes a slot."""
    label, each = MAC["label"], [payload(number) for number in range(3)]
    opened = [
        [sum(column) % MODULUS for column in zip(*rows, strict=True)]
        for rows in zip(*each, strict=True)
    ]
    content = b"".join(one.to_bytes(8, "little") for row in opened for one in row)
    tag = hmac.digest(purpose_key("opening"), info("opened", label) + content, "sha256")
    assert tag == DERIVED["opening_tag"] == bank.opening_tag(label_of(label), np.array(opened))
    lost = hmac.digest(purpose_key("opening"), info("lost", label), "sha256")
    assert lost == DERIVED["lost_tag"] == bank.lost_tag(label_of(label))


# Masks and tags -----------------------------------------------------------------------------------


def test_words_by_aes_alone() -> None:
    for text, words in MASKS["uniform_words"].items():
        assert words_of(MASKS["stream_key"], int(text), len(words)) == words
        assert uniform_words(MASKS["stream_key"], len(words), int(text)).tolist() == words


@pytest.mark.parametrize("one", MASKS["sums"])
def test_masks_by_aes_alone(one: dict[str, Any]) -> None:
    label, chunk, pairs = one["label"], one["chunk"], AGREED["pair_keys"]
    for me, words in one["mask_words"].items():
        total = [0] * len(words)
        for peer in (name for name in label[3] if name != me):
            found = words_of(hkdf(pairs[me][peer], info("mask", label, chunk)), MODULUS, len(words))
            sign = 1 if me < peer else -1
            total = [(a + sign * b) % MODULUS for a, b in zip(total, found, strict=True)]
        ours = pairwise_mask(me, pairs[me], label_of(label), chunk)
        assert total == words == ours[: len(words)].tolist()
    columns = zip(*one["mask_words"].values(), strict=True)
    assert all(sum(column) % MODULUS == 0 for column in columns)
    words = one["self_mask_words"]
    found = words_of(hkdf(DERIVED["seed"], info("self-mask", label, chunk)), MODULUS, len(words))
    assert found == words == self_mask(DERIVED["seed"], label_of(label), chunk)[:8].tolist()


def test_mac_tags_in_pythons_integers() -> None:
    label = MAC["label"]
    assert purpose_key("mac") == MAC["key"]
    r = words_of(hkdf(MAC["key"], info("mac hash", label)), MODULUS, 4095)
    assert r[:8] == MAC["hash_words"]
    for number, (name, tags) in enumerate(MAC["tags"].items()):
        pads = words_of(hkdf(MAC["key"], info("mac pad", label, 0, name)), MODULUS, 2)
        rows = payload(number)
        found = [
            (sum(a * b for a, b in zip(r, row, strict=True)) + pad) % MODULUS
            for row, pad in zip(rows, pads, strict=True)
        ]
        assert found == tags
        assert sum_mac.tags(MAC["key"], label_of(label), name, np.array(rows)).tolist() == tags


@pytest.mark.parametrize("one", MAC["sums"], ids=lambda one: one["name"])
def test_only_the_one_sum_holds(one: dict[str, Any]) -> None:
    data, tags = np.zeros((2, 4095), np.int64), np.zeros(2, np.int64)
    for number, (name, weight) in enumerate(one["weights"].items()):
        data += weight * np.array(payload(number))
        tags += weight * np.array(MAC["tags"][name])
    data += one.get("add", 0)
    tags += one.get("add", 0) + one.get("add_to_tags", 0)
    if one.get("exchanged"):
        data, tags = data[::-1], tags[::-1]
    held = sum_mac.holds(MAC["key"], label_of(one["label"]), data % MODULUS, tags % MODULUS)
    assert held is (one["name"] == "as it should be")


# Integers and ciphertexts -------------------------------------------------------------------------


@pytest.mark.parametrize("one", PACKED["cohorts"], ids=lambda one: str(one["parties"]))
def test_packing(one: dict[str, Any]) -> None:
    parties, bits, levels = one["parties"], one["value_bits"], 2 ** one["value_bits"] - 1
    assert parties * levels < 2**24 <= parties * (2 ** (bits + 1) - 1) or bits == 20
    assert value_bits(parties) == bits
    code = DeltaCode(PACKED["bound"], PACKED["largest_weight"], parties)
    delta, rng = np.array(PACKED["delta"]), generator(PACKED["rng_key"])
    values = code.quantise(delta, PACKED["weight"], rng).tolist()
    assert values == one["quantised"]
    limit = PACKED["bound"] * PACKED["largest_weight"]
    for value, real in zip(values, PACKED["delta"], strict=True):
        weighted = max(-4.0, min(4.0, real)) * PACKED["weight"]
        assert abs(value - (weighted / limit + 1) / 2 * levels) < 1
    slots = [low + (high << 24) for low, high in zip(values[::2], [*values[1::2], 0], strict=True)]
    packed = pack_fields(np.array(values))
    assert packed[0, :4].tolist() == slots == one["slots"]
    fields = unpack_fields(packed * parties % MODULUS, len(values))
    assert fields.tolist() == one["fields_of_the_sum"] == [parties * value for value in values]
    assert code.dequantise(fields, parties).tolist() == one["dequantised"]
    full = parties * levels
    assert one["largest_slots_of_a_sum"] == [full + (full << 24), full << 24]
    assert max(one["largest_slots_of_a_sum"]) < MODULUS


def test_counts_and_saturation() -> None:
    code = DeltaCode(PACKED["bound"], PACKED["largest_weight"], 2)
    assert code.saturated(np.array(PACKED["delta"])) == PACKED["saturated"] == 1
    slots = pack_counts(np.array(PACKED["counts"]))
    clamped = [max(-(2**40), min(2**40, one)) for one in PACKED["counts"]]
    assert slots[0, : len(clamped)].tolist() == PACKED["count_slots"]
    assert PACKED["count_slots"] == [one % MODULUS for one in clamped]
    assert unpack_counts(slots, len(clamped)).tolist() == PACKED["unpacked_counts"] == clamped


def test_ciphertexts_add_and_open() -> None:
    words = uniform_words(MASKS["stream_key"], SLOTS, MODULUS)
    upload = CIPHERTEXTS["upload"]
    with RunKey.from_bytes(CIPHERTEXTS["run_key"]) as run_key, Adder() as adder:
        for count, name in ((1, "sum_of_one"), (2, "sum_of_two")):
            total = adder.add([upload] * count)
            assert hashlib.sha256(total).hexdigest() == CIPHERTEXTS[name]
            assert np.array_equal(run_key.decrypt(total)[0], words * count % MODULUS)
        broken = [
            upload[:at] + bytes([upload[at] ^ 1]) + upload[at + 1 :]
            for at in CIPHERTEXTS["broken_by_a_bit_of_byte"]
        ]
        for one in (*broken, upload[:-1], upload + b"\0", b""):
            with pytest.raises(ProtocolError):
                adder.add([one])
