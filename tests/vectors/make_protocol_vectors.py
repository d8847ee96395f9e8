"""Writes protocol.json: identities, frames, releases and ledgers with their bytes, broken ones too.
What is agreed and summed is in sums.json (`make_sum_vectors.py`, which reads this file).

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
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from models.plan import plan_digest
from models.training import held_out
from privacy import messages as m
from privacy.accounting import ORDERS
from privacy.conversation import Conversation
from privacy.framing import statement_of
from privacy.identity import SIGNATURE_BYTES, SigningKey, fingerprint, sign_plan
from privacy.key_agreement import ENCAPSULATED_BYTES, ExchangeKeys
from privacy.ledger import Ledger, LedgerPosition
from privacy.ledger_heads import sign_head
from privacy.manifest import FederationManifest
from privacy.mechanism import Gaussian, gradient_mechanism
from privacy.randomness import generator

DOMAIN = b"fedtags message 1\0"
HEAD_AT = SIGNATURE_BYTES + 4
TARGET = Path(__file__).with_name("protocol.json")
RUN = "run-2025-01"
PARTIES = ("bank", "retailer", "shop")
PLAN = b"""format = 1\nname = "vectors"\npurpose = "marketing"
task = { kind = "churn", cutoff = 2025-01-01 }\nprivacy = { epsilon = 1.0 }\n"""
NAMES = ("coordinator", "requester", *PARTIES)
SECRETS = {name: bytes([number]) * 32 for number, name in enumerate(NAMES, 1)}
KEYS = {n: SigningKey(Ed25519PrivateKey.from_private_bytes(s)) for n, s in SECRETS.items()}
X25519_SECRETS = {name: bytes([32 + number]) * 32 for number, name in enumerate(PARTIES)}
ML_KEM_SEEDS = {name: bytes([64 + number]) * 64 for number, name in enumerate(PARTIES)}
OFFERS = {
    name: ExchangeKeys(
        X25519PrivateKey.from_private_bytes(X25519_SECRETS[name]),
        MLKEM768PrivateKey.from_seed_bytes(ML_KEM_SEEDS[name]),
    ).offer
    for name in PARTIES
}
COHORT = {name: KEYS[name].public for name in PARTIES}
MANIFEST = m.manifest_hash(COHORT)
FEDERATION = FederationManifest("example", COHORT)
REQUEST = sign_plan(KEYS["requester"], RUN, PLAN)
PLAN_HASH = bytes.fromhex(plan_digest(PLAN))
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
    cohort = {"cohort": COHORT, "manifest_hash": MANIFEST, "federation": FEDERATION.federation}
    cohort["manifest_signatures"] = {name: FEDERATION.sign(KEYS[name]) for name in PARTIES}
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
    content = frame[SIGNATURE_BYTES:]
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


class Frames:
    """The conversations of one epoch, and the bank's frames in them, each told field by field."""

    def __init__(self, epoch: int) -> None:
        self.told: list[dict[str, Any]] = []
        self.sides = {
            party: (
                self._side("coordinator", party, epoch),
                self._side(party, "coordinator", epoch),
            )
            for party in PARTIES
        }

    @staticmethod
    def _side(me: str, peer: str, epoch: int) -> Conversation:
        key, public = KEYS[me], KEYS[peer].public
        return Conversation(me, key, peer, public, RUN, PLAN_HASH, MANIFEST, epoch)

    def swap(
        self, ask: m.Body, answer: m.Body, number: int = 0, attempt: int = 1, party: str = "bank"
    ) -> bytes:
        """One exchange; returns the answer as a statement."""
        asker, answerer = self.sides[party]
        for says, hears, body in ((asker, answerer, ask), (answerer, asker, answer)):
            begins = body is ask
            frame = says.say(body, number, attempt=attempt, begins=begins)
            received = hears.receive(frame, type(body))
            hears.hear(received, type(body), number, attempt=attempt, begins=begins)
            if party == "bank":
                self._tell(body, received.envelope, frame, says.transcript)
        return statement_of(frame)

    def _tell(self, body: m.Body, envelope: m.Envelope, frame: bytes, transcript: bytes) -> None:
        fields = body.model_dump()
        attachment = fields.pop(body.attached) if body.attached else b""
        header = envelope.model_dump(include=set(m.Header.model_fields))
        content = {"type": body.kind, "header": header, "body": fields, "attachment": attachment}
        self.told.append({**content, "frame": frame, "transcript": transcript})


def exchanges() -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The bank's run in frames of every type, and all members' signed decisions of epoch 1.

    Ciphertexts, seals and tags stand for real ones (`sums.json`) of the same or greater length.
    """
    public = {"plan": PLAN, "requester": KEYS["requester"].public, "requester_signature": REQUEST}
    heads = [{party: head_of(party, number)[1] for party in PARTIES} for number in range(4)]

    def decision(party: str, applied: int) -> m.Decision:
        yes = {"accepted": True, "reason": "", "public_size": 900, "offer": OFFERS[party]}
        shown = {"ledger_head": heads[0][party], "known_heads": {"shop": heads[3]["shop"]}}
        return m.Decision.model_validate({**yes, "applied": applied, **shown})

    first, tag = Frames(1), bytes(range(32))
    ask = m.Preflight(**public, cohort=COHORT)
    decisions = {one: first.swap(ask, decision(one, 0), party=one) for one in PARTIES}
    sealed = {party: bytes([number]) * 80 for number, party in enumerate(PARTIES[1:])}
    ciphertexts = dict.fromkeys(PARTIES[1:], bytes(ENCAPSULATED_BYTES))
    seal = m.KeySeal(sealed=sealed, encapsulated=ciphertexts, model=b"")
    last = {"bank": first.swap(m.SealKeys(replies=decisions), seal)}
    confirm = m.KeyConfirm(tag=tag, manifest_signature=FEDERATION.sign(KEYS["bank"]))
    last = {"bank": first.swap(m.ConfirmKeys(replies=last, model=b""), confirm)}
    payload, total = bytes(range(48)), bytes(range(48, 96))
    weigh = m.Weigh(members=PARTIES, replies=last)
    last = {"bank": first.swap(weigh, m.WeightUpdate(ciphertexts=payload))}
    opened, said = {"total": total, "lost": False}, {"ciphertexts": payload, "opened": tag}
    answer = m.Update(**said, ledger_head=heads[1]["bank"])
    first.swap(m.TrainRound(members=PARTIES, replies=last, **opened), answer, 1)
    again = m.TrainRound(members=PARTIES[:2], replies={}, total=b"", lost=False)
    last = {"bank": first.swap(again, answer, 1, attempt=2)}
    last = {"bank": first.swap(m.Unmask(replies=last), m.Unmasked(seed=bytes(48)), 1, attempt=2)}
    answer = m.EvaluationUpdate(**said, ledger_head=heads[2]["bank"])
    last = {"bank": first.swap(m.Evaluate(members=PARTIES, replies=last, **opened), answer, 2)}
    told = m.EvaluationOpened(opened=tag)
    last = {"bank": first.swap(m.OpenEvaluation(replies=last, total=total), told, 3)}
    first.swap(
        m.Publish(replies=last),
        m.Receipt(evaluation=(3, -2, 0, 2**40, -(2**40)), ledger_head=heads[3]["bank"]),
        4,
    )

    second = Frames(2)
    come_back = m.Regroup(**public, cohort=COHORT, replies=last, total=total)
    second.swap(come_back, decision("bank", 1))
    second.swap(m.Abort(reason="RunStopped"), m.Acknowledged())
    return first.told + second.told, decisions


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
    """Frames like `good`, a preflight, but for one thing; of ProtocolErrors the signature is always
    right."""
    head = good[HEAD_AT:]
    content = cbor2.loads(head)

    def signed(data: bytes, domain: bytes = DOMAIN, by: str = "coordinator") -> bytes:
        return KEYS[by].sign(domain + data) + len(data).to_bytes(4, "big") + data

    forged = {
        "signed for plans": signed(head, b"fedtags plan 1\0"),
        "signed without a domain": signed(head, b""),
        "signed by the requester": signed(head, by="requester"),
        "a head one byte shorter than signed": (
            good[:SIGNATURE_BYTES] + (len(head) - 1).to_bytes(4, "big") + head
        ),
    }
    for at in (0, 63, HEAD_AT, len(good) - 1):
        forged[f"byte {at} flipped"] = flipped(good, at)
    one = b"gattempt\x01"
    encodings = {
        "keys out of order": cbor2.dumps(dict(sorted(content.items(), reverse=True))),
        "an integer in two bytes": head.replace(one, b"gattempt\x18\x01"),
        "a key twice": bytes([head[0] + 1]) + head[1:] + one,
        "a byte after the end": head + b"\0",
        "a field missing": m.canonical({k: v for k, v in content.items() if k != "previous"}),
    }
    changes: dict[str, dict[str, Any]] = {
        "unknown field in the envelope": {"seed": 1},
        "unknown field in the body": {"body": {**content["body"], "seed": 1}},
        "version 2": {"version": 2},
        "version as text": {"version": "3"},
        "run id of 64 letters": {"run": "a" * 64},
        "run id that is a path": {"run": "../run"},
        "manifest of 31 bytes": {"manifest": content["manifest"][:31]},
        "another type": {"type": "publish"},
        "an attachment that is not there": {"attached_bytes": 1},
        "the hash of another attachment": {"attached_sha256": bytes(32)},
    }
    encodings |= {name: m.canonical({**content, **one}) for name, one in changes.items()}
    refused = {name: signed(data) for name, data in encodings.items()}
    refused |= {
        "cut by one byte": good[:-1],
        "longer by one byte": good + b"\0",
        "a head longer than the frame": (
            good[:SIGNATURE_BYTES] + (len(head) + 1).to_bytes(4, "big") + head
        ),
        "no head": good[:HEAD_AT],
    }
    return _listed(forged, refused, "preflight")


def broken_attachments(good: bytes) -> list[dict[str, Any]]:
    """Frames like `good`, a round with a sum attached, whose attachment is not the one signed."""
    refused = {
        "attachment cut by one byte": good[:-1],
        "attachment longer by one byte": good + b"\0",
        "attachment with a bit flipped": flipped(good, len(good) - 1),
        "no attachment": statement_of(good),
    }
    return _listed({}, refused, "train-round")


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _listed(
    forged: Mapping[str, bytes], refused: Mapping[str, bytes], kind: str
) -> list[dict[str, Any]]:
    errors = {"SignatureError": forged, "ProtocolError": refused}
    return [
        {"name": name, "type": kind, "error": error, "frame": frame}
        for error, frames in errors.items()
        for name, frame in frames.items()
    ]


def document() -> bytes:
    """The file's bytes: the same at every call."""
    frames, decisions = exchanges()
    first_round = next(one["frame"] for one in frames if one["type"] == "train-round")
    customers, key = [f"customer-{number}" for number in range(20)], bytes([13]) * 32
    aside = {str(one): held_out(customers, key, one) for one in (0.2, 0.5)}
    data: dict[str, Any] = {"version": m.VERSION, "identities": identities()}
    data |= {"frames": frames, "decisions": decisions, "releases": releases()}
    data["held_out"] = {"local_key": key, "customers": customers, "held_out": aside}
    data |= {"ledger": ledger(), "ledger_heads": ledger_heads()}
    data["broken_frames"] = broken(frames[0]["frame"]) + broken_attachments(first_round)
    return (json.dumps(plain(data), indent=1) + "\n").encode()


if __name__ == "__main__":
    TARGET.write_bytes(document())
