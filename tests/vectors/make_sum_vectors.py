"""Writes sums.json: from offers to keys, and from residues to sums, broken ones too.

Run it from the repository root, after make_protocol_vectors.py: python
tests/vectors/make_sum_vectors.py. It reads protocol.json (identities, signed decisions) and
drawn_once.json: what was drawn by ML-KEM and BFV, which take no seed; without the latter, it draws
anew. A value that changes is a change of the protocol and needs a new version. Bytes are
{"hex": "..."}.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from privacy import sum_mac
from privacy.ciphertexts import MODULUS, SLOTS
from privacy.encryption import Adder, RunKey
from privacy.key_agreement import ExchangeKeys, agreement_hash, pair_key
from privacy.masking import SumLabel, derive, pairwise_mask, self_mask, uniform_words
from privacy.messages import canonical
from privacy.packing import (
    DATA_SLOTS,
    DeltaCode,
    pack_counts,
    pack_fields,
    unpack_counts,
    unpack_fields,
    value_bits,
)
from privacy.randomness import generator
from privacy.shared_keys import SharedKeys, seal_to

HERE = Path(__file__).parent
TARGET, DRAWN, PROTOCOL = (
    HERE / name for name in ("sums.json", "drawn_once.json", "protocol.json")
)
PARTIES = ("bank", "retailer", "shop")
PAIRS = (("bank", "retailer"), ("bank", "shop"), ("retailer", "shop"))
LEAD = "bank"
X25519_SECRETS = {name: bytes([32 + number]) * 32 for number, name in enumerate(PARTIES)}
ML_KEM_SEEDS = {name: bytes([64 + number]) * 64 for number, name in enumerate(PARTIES)}
EXCHANGE = {
    name: ExchangeKeys(
        X25519PrivateKey.from_private_bytes(X25519_SECRETS[name]),
        MLKEM768PrivateKey.from_seed_bytes(ML_KEM_SEEDS[name]),
    )
    for name in PARTIES
}
LABEL = SumLabel(3, 2, "update", PARTIES)
WORDS = 8
STREAM_KEY, SEED, SALT = bytes([9]) * 32, bytes([10]) * 32, bytes([12]) * 16
MODEL = np.array([0.5, -1.25, 3.0]).astype("<f8").tobytes()


def plain(value: Any) -> Any:
    """`value` as JSON, where bytes are {"hex": "..."}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def bytes_of(value: Any) -> Any:
    """What `plain` wrote."""
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    return (
        {name: bytes_of(one) for name, one in value.items()} if isinstance(value, dict) else value
    )


def draw() -> None:
    """A ciphertext of each pair, and one BFV ciphertext under one run key."""
    run_key = RunKey.generate()
    residues = uniform_words(STREAM_KEY, SLOTS, MODULUS)[np.newaxis]
    drawn = {
        "encapsulated": {
            f"{one} {other}": EXCHANGE[other].ml_kem.public_key().encapsulate()[1]
            for one, other in PAIRS
        },
        "run_key": run_key.to_bytes(),
        "upload": run_key.encrypt(residues),
    }
    run_key.erase()
    DRAWN.write_text(json.dumps(plain(drawn), indent=1) + "\n")


def agreement(drawn: dict[str, Any]) -> dict[str, Any]:
    """From offers to pair keys, the sealed run key, and the keys that follow from it."""
    known = bytes_of(json.loads(PROTOCOL.read_bytes()))
    who, decisions = known["identities"], known["decisions"]
    plan = bytes.fromhex(who["plan_digest"])
    agreed = agreement_hash(who["manifest_hash"], plan, who["run"], 1, decisions)
    offers = {name: keys.offer for name, keys in EXCHANGE.items()}
    pairs: dict[str, dict[str, bytes]] = {name: {} for name in PARTIES}
    shared = {}
    for one, other in PAIRS:
        ciphertext = drawn["encapsulated"][f"{one} {other}"]
        x25519 = EXCHANGE[one].x25519.exchange(
            X25519PublicKey.from_public_bytes(offers[other][:32])
        )
        ml_kem = EXCHANGE[other].ml_kem.decapsulate(ciphertext)
        key = pair_key(x25519, ml_kem, ciphertext, agreed, (one, other))
        pairs[one][other] = pairs[other][one] = key
        shared[f"{one} {other}"] = {"x25519": x25519, "ml_kem": ml_kem}
    altered = flipped(drawn["encapsulated"]["bank shop"])
    sealing = {
        name: derive(key, b"fedtags seal 1\0" + canonical([agreed, name]))
        for name, key in pairs[LEAD].items()
    }
    sealed = {
        name: seal_to(key, drawn["run_key"], f"{LEAD} to {name}".encode())
        for name, key in sealing.items()
    }
    return {
        "x25519_secrets": X25519_SECRETS,
        "ml_kem_seeds": ML_KEM_SEEDS,
        "offers": offers,
        "lead": LEAD,
        "agreement_hash": agreed,
        "encapsulated": drawn["encapsulated"],
        "shared_secrets": shared,
        "ml_kem_of_an_altered_ciphertext": EXCHANGE["shop"].ml_kem.decapsulate(altered),
        "pair_keys": pairs,
        "run_key": drawn["run_key"],
        "seal_keys": sealing,
        "sealed": sealed,
        "broken_offers": broken_offers(offers),
    }


def broken_offers(offers: dict[str, bytes]) -> list[dict[str, Any]]:
    """What the shop may show instead of its offer, and be refused by the bank."""
    shop, retailer = offers["shop"], offers["retailer"]
    broken = {
        "cut by one byte": shop[:-1],
        "longer by one byte": shop + b"\0",
        "the retailer's": retailer,
        "the retailer's X25519 key": retailer[:32] + shop[32:],
        "the retailer's ML-KEM key": shop[:32] + retailer[32:],
        "an X25519 key of low order": bytes(32) + shop[32:],
        "an ML-KEM key beyond the modulus": shop[:32] + b"\xff" * 1184,
    }
    return [{"name": name, "offer": offer} for name, offer in broken.items()]


def derived(keys: SharedKeys, agreed: dict[str, Any]) -> dict[str, Any]:
    """What follows from the run key: confirmations, the sealed model, a sealed seed, openings."""
    digest = hashlib.sha256(MODEL).digest()
    secret = hashlib.sha256(agreed["run_key"]).digest()
    model_key = derive(secret, b"fedtags model key 1\0" + agreed["agreement_hash"])
    seal_key = derive(model_key, b"fedtags model seal 1\0" + SALT)
    opened = total_of(dict.fromkeys(PARTIES, 1))[0]
    return {
        "model": MODEL,
        "model_digest": digest,
        "confirmations": {name: keys.confirmation(name, digest) for name in PARTIES},
        "sealed_model": SALT + seal_to(seal_key, MODEL, b"model"),
        "seed": SEED,
        "sealed_seed": keys.seal_seed(LABEL, SEED),
        "opening_tag": keys.opening_tag(LABEL, opened),
        "lost_tag": keys.lost_tag(LABEL),
    }


def masks(pairs: dict[str, dict[str, bytes]]) -> dict[str, Any]:
    """The first words of streams and of masks of one chunk; all members' sum to zero."""
    moduli = (10, 2**47 + 1, 2**48, MODULUS)  # the second one rejects half of the words
    two = SumLabel(3, 3, "update", PARTIES[::2])
    return {
        "modulus": MODULUS,
        "stream_key": STREAM_KEY,
        "uniform_words": {str(one): uniform_words(STREAM_KEY, WORDS, one) for one in moduli},
        "sums": [
            {
                "label": [one.round, one.attempt, one.tensor, one.members],
                "chunk": chunk,
                "mask_words": {
                    me: pairwise_mask(me, pairs[me], one, chunk)[:WORDS] for me in one.members
                },
                "self_mask_words": self_mask(SEED, one, chunk)[:WORDS],
            }
            for one, chunk in ((LABEL, 0), (LABEL, 1), (two, 0))
        ],
    }


def payload(number: int) -> NDArray[np.int64]:
    """Two chunks of party `number`: slot j of chunk c is (j + 1) * (2**34 + 2**20 * number + c)."""
    slots = np.arange(1, DATA_SLOTS + 1, dtype=np.int64)
    return np.stack([slots * (2**34 + 2**20 * number + chunk) % MODULUS for chunk in (0, 1)])


PAYLOADS = {name: payload(number) for number, name in enumerate(PARTIES)}


def total_of(
    weights: dict[str, int], tags: dict[str, NDArray[np.int64]] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The weighted sums of payloads and tags: what opens if the coordinator added so."""
    none = np.zeros(2, dtype=np.int64)
    data = sum((PAYLOADS[name] * one for name, one in weights.items()), np.zeros((1, 1), np.int64))
    tag_sums = sum(((tags or {}).get(name, none) * one for name, one in weights.items()), none)
    return data % MODULUS, tag_sums % MODULUS


def mac(agreed: dict[str, Any]) -> dict[str, Any]:
    """Tags of three payloads, the one sum that holds, and sums that do not."""
    secret = hashlib.sha256(agreed["run_key"]).digest()
    key = derive(secret, b"fedtags mac key 1\0" + agreed["agreement_hash"])
    tags = {name: sum_mac.tags(key, LABEL, name, PAYLOADS[name]) for name in PARTIES}
    ones = dict.fromkeys(PARTIES, 1)
    right = [LABEL.round, LABEL.attempt, LABEL.tensor, LABEL.members]
    bent = {
        "as it should be": ({}, {}),
        "the shop dropped": ({"shop": 0}, {}),
        "the shop doubled": ({"shop": 2}, {}),
        "the shop negated": ({"shop": -1}, {}),
        "the shop replaced by the bank": ({"shop": 0, "bank": 2}, {}),
        "all doubled": (dict.fromkeys(PARTIES, 2), {}),
        "one added to every slot": ({}, {"add": 1}),
        "one added to the tags": ({}, {"add_to_tags": 1}),
        "chunks exchanged": ({}, {"exchanged": True}),
        "another round": ({}, {"label": [4, *right[1:]]}),
        "another attempt": ({}, {"label": [3, 3, *right[2:]]}),
        "another tensor": ({}, {"label": [3, 2, "evaluation", PARTIES]}),
        "other participants": ({"shop": 0}, {"label": [3, 2, "update", PARTIES[:2]]}),
    }
    sums = []
    for name, (weights, more) in bent.items():
        sums.append({"name": name, "weights": ones | weights, "label": right, **more})
    return {
        "key": key,
        "label": right,
        "payload": "party n, chunk c, slot j, all from 0: (j + 1) * (2**34 + 2**20 * n + c) mod t",
        "hash_words": uniform_words(derive(key, LABEL.info("mac hash", 0)), WORDS, MODULUS),
        "tags": tags,
        "sums": sums,
    }


def ciphertexts(drawn: dict[str, Any]) -> dict[str, Any]:
    """One upload, what the coordinator makes of it, and what these open as."""
    with Adder() as adder:
        once, twice = adder.add([drawn["upload"]]), adder.add([drawn["upload"]] * 2)
    return {
        "run_key": drawn["run_key"],
        "upload": drawn["upload"],
        "residues": "the words of masks.stream_key below the modulus",
        "sum_of_one": hashlib.sha256(once).hexdigest(),
        "sum_of_two": hashlib.sha256(twice).hexdigest(),
        "broken_by_a_bit_of_byte": [0, 8, 40, 100],
    }


def packing() -> dict[str, Any]:
    """From a model delta to slots, sums and back, for cohorts of several sizes; signed counts."""
    delta, key = np.array([0.0, 4.0, -4.0, 9.0, 1e-3, -1.5, 0.1]), bytes([11]) * 32
    cohorts = []
    for parties in (2, 15, 16, 32):
        code = DeltaCode(bound=4.0, largest_weight=0.5, parties=parties)
        quantised = code.quantise(delta, 0.25, generator(key))
        slots = pack_fields(quantised)
        fields = unpack_fields(slots * parties, delta.size)
        extremes = pack_fields(np.array([code.levels, code.levels, 0, code.levels])) * parties
        cohorts.append(
            {
                "parties": parties,
                "value_bits": value_bits(parties),
                "quantised": quantised,
                "slots": slots[0, :4],
                "fields_of_the_sum": fields,
                "dequantised": code.dequantise(fields, parties),
                "largest_slots_of_a_sum": extremes[0, :2],
            }
        )
    counts = np.array([0, 1, -1, 12345, -(2**41), 2**41])
    count_slots = pack_counts(counts)
    return {
        "bound": 4.0,
        "largest_weight": 0.5,
        "weight": 0.25,
        "rng_key": key,
        "delta": delta,
        "saturated": code.saturated(delta),
        "cohorts": cohorts,
        "counts": counts,
        "count_slots": count_slots[0, : counts.size],
        "unpacked_counts": unpack_counts(count_slots, counts.size),
    }


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def document() -> bytes:
    """The file's bytes: the same at every call."""
    drawn = bytes_of(json.loads(DRAWN.read_bytes()))
    agreed = agreement(drawn)
    run_key = RunKey.from_bytes(drawn["run_key"])
    pairs = agreed["pair_keys"]
    keys = SharedKeys("bank", pairs["bank"], run_key, drawn["run_key"], agreed["agreement_hash"])
    data = {
        "key_agreement": agreed,
        "derived": derived(keys, agreed),
        "masks": masks(pairs),
        "mac": mac(agreed),
        "packing": packing(),
        "ciphertexts": ciphertexts(drawn),
    }
    keys.erase()
    return (json.dumps(plain(data), indent=1) + "\n").encode()


if __name__ == "__main__":
    if not DRAWN.exists():
        draw()
    TARGET.write_bytes(document())
