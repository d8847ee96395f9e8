"""Writes protocol.json: fixed inputs of the protocol with the bytes they give, broken ones too.

Run it from the repository root: python tests/vectors/make_protocol_vectors.py. A value that changes
is a change of the protocol, of the ledger's format or of a split that is fixed for life, and needs
a new version; only `releases` may also move with NumPy. Bytes are {"hex": "..."}.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cbor2
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.plan import plan_digest
from models.training import held_out
from privacy import messages as m
from privacy.accounting import ORDERS
from privacy.conversation import Conversation
from privacy.encryption import MODULUS, SLOTS, RunKey, confirmation_tag, seal_to
from privacy.identity import SigningKey, fingerprint, sign_plan
from privacy.key_agreement import SharedKeys, agreement_hash, pair_keys
from privacy.ledger import Ledger, LedgerPosition
from privacy.ledger_heads import sign_head
from privacy.masking import MaskLabel, derive, exchange_public, mask, uniform_words
from privacy.mechanism import Gaussian, gradient_mechanism
from privacy.packing import DeltaCode, pack_counts, pack_fields, unpack_counts, unpack_fields
from privacy.randomness import generator

DOMAIN = b"fedtags message 1\0"
TARGET = Path(__file__).with_name("protocol.json")
RUN = "run-2025-01"
PARTIES = ("bank", "retailer", "shop")
PLAN = b"""format = 1\nname = "vectors"\npurpose = "marketing"
task = { kind = "churn", cutoff = 2025-01-01 }\nprivacy = { epsilon = 1.0 }\n"""
NAMES = ("coordinator", "requester", *PARTIES)
SECRETS = {name: bytes([number]) * 32 for number, name in enumerate(NAMES, 1)}
KEYS = {n: SigningKey(Ed25519PrivateKey.from_private_bytes(s)) for n, s in SECRETS.items()}
EXCHANGE_SECRETS = {name: bytes([32 + number]) * 32 for number, name in enumerate(PARTIES)}
COHORT = {name: KEYS[name].public for name in PARTIES}
MANIFEST = m.manifest_hash(COHORT)
REQUEST = sign_plan(KEYS["requester"], RUN, PLAN)
PLAN_HASH = bytes.fromhex(plan_digest(PLAN))
RUN_KEY = bytes(range(64))  # stands for TenSEAL's serialised key, which is random and 62 kB long
WORDS = 8
LOCAL_KEY = bytes([14]) * 32
MOMENT = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def plain(value: Any) -> Any:
    """`value` as JSON, where bytes are {"hex": "..."}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def identities() -> dict[str, Any]:
    """Public keys, fingerprints, the plan's identity and signature, and the cohort's hash."""
    public = {name: key.public for name, key in KEYS.items()}
    shown = {name: fingerprint(key) for name, key in public.items()}
    plan = {"run": RUN, "plan": PLAN, "plan_digest": plan_digest(PLAN), "plan_signature": REQUEST}
    cohort = {"cohort": COHORT, "manifest_hash": MANIFEST}
    return {"secrets": SECRETS, "public": public, "fingerprints": shown, **plan, **cohort}


def head_of(party: str, round_number: int) -> tuple[dict[str, Any], bytes]:
    """What a party's ledger head says in that round, and its frame."""
    hashed = hashlib.sha256(f"{party} {round_number}".encode()).hexdigest()
    curve = tuple(order / 64 for order in ORDERS)
    at = LedgerPosition(10 + round_number, hashed, MOMENT, curve)
    nonce = bytes([round_number]) * 32
    said = {"party": party, "run": RUN, "round_number": round_number}
    frame = sign_head(KEYS[party], LOCAL_KEY, at, **said, entropy=lambda label: nonce)
    return {**said, **at.__dict__, "time": MOMENT.isoformat(), "nonce": nonce[:12]}, frame


def ledger_heads() -> dict[str, Any]:
    """Signed heads, and bytes that are none of the bank's."""
    said, frame = head_of("bank", 3)
    content = frame[m.SIGNATURE_BYTES :]
    domain = b"fedtags ledger head 1\0"

    def signed(data: bytes, prefix: bytes = domain) -> bytes:
        return KEYS["bank"].sign(prefix + data) + data

    broken = {
        "cut by one byte": ("ProtocolError", frame[:-1]),
        "longer by one byte": ("ProtocolError", frame + b"\0"),
        "of the shop": ("SignatureError", head_of("shop", 3)[1]),
        "signed as a message": ("SignatureError", signed(content, DOMAIN)),
        "another party's name": ("ProtocolError", signed(b"shop" + content[4:])),
        "no party's name": ("ProtocolError", signed(bytes(31) + content[31:])),
        "a run id that is a path": ("ProtocolError", signed(content[:31] + b"../" + content[34:])),
    }
    for at in (0, 64, 200, len(frame) - 1):
        flipped = frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]
        broken[f"byte {at} flipped"] = ("SignatureError", flipped)
    listed = [{"name": n, "error": e, "frame": f} for n, (e, f) in broken.items()]
    return {
        "local_key": LOCAL_KEY,
        "orders": ORDERS,
        "head": said,
        "frame": frame,
        "broken": listed,
    }


def exchanges() -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, bytes]]:
    """The bank's run in 14 frames, one of each type; the key agreement; all signed decisions."""
    frames: list[dict[str, Any]] = []
    sides: dict[str, tuple[Conversation, Conversation]] = {}

    def side(me: str, peer: str) -> Conversation:
        return Conversation(me, KEYS[me], peer, KEYS[peer].public, RUN, PLAN_HASH, MANIFEST)

    def swap(party: str, ask: m.Body, answer: m.Body, round_number: int = 0) -> bytes:
        asker, answerer = sides[party]
        for says, hears, body in ((asker, answerer, ask), (answerer, asker, answer)):
            frame = says.say(body, round_number, begins=body is ask)
            hears.hear(frame, type(body), round_number, begins=body is ask)
            if party == "bank":
                header = m.read(frame, KEYS[says.me].public).model_dump(exclude={"type", "body"})
                entry = {"type": body.kind, "header": header, "body": body.model_dump()}
                frames.append({**entry, "frame": frame, "transcript": says.transcript})
        return frame

    requester = KEYS["requester"].public
    ask = m.Preflight(plan=PLAN, requester=requester, requester_signature=REQUEST, cohort=COHORT)
    offers = {name: exchange_public(secret) for name, secret in EXCHANGE_SECRETS.items()}
    decisions: dict[str, bytes] = {}
    heads = [{party: head_of(party, number)[1] for party in PARTIES} for number in range(4)]
    for party in PARTIES:
        sides[party] = (side("coordinator", party), side(party, "coordinator"))
        yes = {"accepted": True, "reason": "", "public_size": 900, "exchange_key": offers[party]}
        shown = {"ledger_head": heads[0][party], "known_heads": {"shop": heads[3]["shop"]}}
        decisions[party] = swap(party, ask, m.Decision.model_validate({**yes, **shown}))

    agreement = agreement_hash(MANIFEST, PLAN_HASH, RUN, decisions)
    pairs = {me: pair_keys(me, EXCHANGE_SECRETS[me], offers, agreement) for me in PARTIES}
    infos = {p: b"fedtags seal 1\0" + m.canonical([agreement, p]) for p in pairs["bank"]}
    seal_keys = {peer: derive(key, infos[peer]) for peer, key in pairs["bank"].items()}
    sealed = {p: seal_to(k, RUN_KEY, f"bank to {p}".encode()) for p, k in seal_keys.items()}
    tag = confirmation_tag(RUN_KEY, agreement, "bank")
    one, two = bytes(range(48)), bytes(range(48, 96))  # a real one is a 65 kB ciphertext
    seals = swap("bank", m.SealKeys(decisions=decisions), m.KeySeal(sealed=sealed))
    confirmed = swap("bank", m.ConfirmKeys(seals={"bank": seals}), m.KeyConfirm(tag=tag))
    first_round = m.TrainRound(confirmations={"bank": confirmed}, total=(), heads={})
    own = [one["bank"] for one in heads]
    swap("bank", first_round, m.Update(ciphertexts=(one, two), ledger_head=own[1]), 1)
    evaluated = m.EvaluationUpdate(ciphertexts=(two,), ledger_head=own[2])
    swap("bank", m.Evaluate(total=(one,), heads=heads[1]), evaluated)
    receipt = m.Receipt(evaluation=(3, -2, 0, 2**40, -(2**40)), ledger_head=own[3])
    swap("bank", m.Publish(total=(two,), heads=heads[2]), receipt)
    swap("bank", m.Abort(reason="RunStopped"), m.Acknowledged())
    secrets = {"exchange_secrets": EXCHANGE_SECRETS, "exchange_public": offers}
    sealing = {"run_key": RUN_KEY, "seal_keys": seal_keys, "sealed": sealed, "confirmation": tag}
    keys = {**secrets, "agreement_hash": agreement, "pair_keys": pairs, **sealing}
    return frames, keys, decisions


def masks(pairs: Mapping[str, Mapping[str, bytes]]) -> dict[str, Any]:
    """The first words of streams, pairwise masks and pads; masks of all parties sum to zero."""
    label, run_key = MaskLabel(RUN, 3, 1, "update", 2), RunKey.generate()
    pad_key, stream_key = bytes([7]) * 32, bytes([9]) * 32
    # Alone in a run nothing is masked, so what opens is the pad; the run key does not enter it.
    alone = SharedKeys("bank", RUN, {}, run_key, pad_key)
    padded = alone.protect([np.zeros(SLOTS, dtype=np.int64)], label.tensor, label.round)
    moduli = (10, 2**47 + 1, 2**48, MODULUS)  # the second one rejects half of the words
    return {
        "label": [label.run, label.round, label.attempt, label.tensor, label.chunk],
        "modulus": MODULUS,
        "mask_words": {me: mask(me, pairs[me], label, WORDS, MODULUS) for me in PARTIES},
        "pad_key": pad_key,
        "pad_label": [RUN, label.round, 1, label.tensor, 0],
        "pad_words": run_key.decrypt(padded[0])[:WORDS],
        "stream_key": stream_key,
        "uniform_words": {str(one): uniform_words(stream_key, WORDS, one) for one in moduli},
    }


def packing() -> dict[str, Any]:
    """From a model delta to slots and back, and the same for signed counts."""
    code, key = DeltaCode(bound=4.0, largest_weight=0.5), bytes([11]) * 32
    delta = np.array([0.0, 4.0, -4.0, 9.0, 1e-3, -1.5, 0.1])
    quantised = code.quantise(delta, 0.25, generator(key))
    chunks = pack_fields(quantised, 2)
    counts = np.array([0, 1, -1, 12345, -(2**41), 2**41])
    count_chunks = pack_counts(counts, 4, MODULUS)
    return {
        "code": {"bound": 4.0, "largest_weight": 0.5},
        "delta": {"weight": 0.25, "rng_key": key, "values": delta, "quantised": quantised},
        "field_chunks": chunks,
        "fields": unpack_fields(chunks, len(quantised)),
        "dequantised": code.dequantise(quantised, 1),
        "counts": counts,
        "count_chunks": count_chunks,
        "unpacked_counts": unpack_counts(count_chunks, len(counts), MODULUS),
    }


def releases() -> dict[str, Any]:
    """What a generator of a fixed key gives, and what mechanisms make of it."""
    key = bytes(range(100, 132))
    gradient, batch = gradient_mechanism(0.4, 999, 1.25, 20)
    clipped, counts = np.array([0.5, -0.25, 1.0, 0.0]), np.array([10, 0, 3])
    evaluation = Gaussian(2.0)
    return {
        "generator_key": key,
        "integers": generator(key).integers(0, 2**63, 4),
        "doubles": generator(key).random(4),
        "gradient": {"mechanism": gradient.as_data(), "batch": batch},
        "sample_of_40": gradient.sample(40, generator(key)),
        "clipped_sum": clipped,
        "counts": counts,
        "evaluation": evaluation.as_data(),
        "noised_sum_at_norm_2": gradient.noised(clipped, 2.0, generator(key)),
        "noised_counts": evaluation.noised(counts, generator(key)),
    }


def ledger() -> dict[str, Any]:
    """A ledger's first lines, one second apart."""
    spend = [Gaussian(8.0)]
    times = (MOMENT + timedelta(seconds=number) for number in count())
    start = {"party": "bank", "code_version": "1", "cap_epsilon": 3.0, "cap_delta": 1e-5}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        book = Ledger.create(path, **start, clock=lambda: next(times))
        book.amend(cap_epsilon=4.0, cap_delta=1e-5)
        plan = {"plan": "churn", "plan_digest": plan_digest(PLAN), "purpose": "marketing"}
        book.reserve(RUN, **plan, mechanisms=spend, valid_for=timedelta(hours=1))
        lines = path.read_text().splitlines()
    return {"lines": lines, "altered": [lines[0], lines[1].replace("4.0", "9.0"), lines[2]]}


def broken(good: bytes) -> list[dict[str, Any]]:
    """Frames like `good`, but for one thing; of ProtocolErrors the signature is always right."""
    exact = good[m.SIGNATURE_BYTES :]
    content = cbor2.loads(exact)

    def signed(data: bytes, domain: bytes = DOMAIN, by: str = "coordinator") -> bytes:
        return KEYS[by].sign(domain + data) + data

    forged = {
        "cut by one byte": good[:-1],
        "signed for plans": signed(exact, b"fedtags plan 1\0"),
        "signed without a domain": signed(exact, b""),
        "signed by the requester": signed(exact, by="requester"),
    }
    for at in (0, 63, 64, len(good) - 1):
        forged[f"byte {at} flipped"] = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    one = b"gattempt\x01"
    encodings = {
        "keys out of order": cbor2.dumps(dict(sorted(content.items(), reverse=True))),
        "an integer in two bytes": exact.replace(one, b"gattempt\x18\x01"),
        "a key twice": bytes([exact[0] + 1]) + exact[1:] + one,
        "a byte after the end": exact + b"\0",
        "a field missing": m.canonical({k: v for k, v in content.items() if k != "previous"}),
    }
    changes: dict[str, dict[str, Any]] = {
        "unknown field in the envelope": {"seed": 1},
        "unknown field in the body": {"body": {**content["body"], "seed": 1}},
        "version 1": {"version": 1},
        "version as text": {"version": "2"},
        "run id of 64 letters": {"run": "a" * 64},
        "run id that is a path": {"run": "../run"},
        "manifest of 31 bytes": {"manifest": content["manifest"][:31]},
        "another type": {"type": "publish"},
    }
    encodings |= {name: m.canonical({**content, **one}) for name, one in changes.items()}
    refused = {name: signed(data) for name, data in encodings.items()}
    found = [{"name": n, "error": "SignatureError", "frame": f} for n, f in forged.items()]
    return found + [{"name": n, "error": "ProtocolError", "frame": f} for n, f in refused.items()]


def document() -> bytes:
    """The file's bytes: the same at every call."""
    frames, keys, decisions = exchanges()
    customers, key = [f"customer-{number}" for number in range(20)], bytes([13]) * 32
    aside = {str(one): held_out(customers, key, one) for one in (0.2, 0.5)}
    data: dict[str, Any] = {"version": m.VERSION, "identities": identities()}
    data |= {"frames": frames, "decisions": decisions, "key_agreement": keys}
    data |= {"masks": masks(keys["pair_keys"]), "packing": packing(), "releases": releases()}
    data["held_out"] = {"local_key": key, "customers": customers, "held_out": aside}
    data |= {"ledger": ledger(), "ledger_heads": ledger_heads()}
    data |= {"broken_frames": broken(frames[0]["frame"])}
    return (json.dumps(plain(data), indent=1) + "\n").encode()


if __name__ == "__main__":
    TARGET.write_bytes(document())
