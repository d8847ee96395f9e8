"""The checked-in vectors of frames, releases and ledgers, against other computations of them."""

import hashlib
import hmac
import json
import runpy
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from models.plan import parse_plan, plan_digest
from models.training import held_out
from privacy import errors
from privacy import messages as m
from privacy.accounting import ORDERS
from privacy.conversation import Conversation
from privacy.framing import (
    body_of,
    extend_transcript,
    frame_digest,
    read,
    read_statement,
    seal,
    statement_of,
)
from privacy.hash_chain import HashChain
from privacy.identity import SigningKey, fingerprint, sign_plan, verify_plan
from privacy.ledger import Ledger, LedgerPosition
from privacy.ledger_heads import open_head, read_head, sign_head
from privacy.manifest import FederationManifest
from privacy.mechanism import Gaussian, SampledGaussian, gradient_mechanism, mechanism_from_data
from privacy.randomness import generator

VECTORS = Path(__file__).parents[1] / "vectors"
SOURCE = (VECTORS / "protocol.json").read_bytes()


def from_plain(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict):
        return {name: from_plain(one) for name, one in value.items()}
    return [from_plain(one) for one in value] if isinstance(value, list) else value


V = from_plain(json.loads(SOURCE))
WHO, RELEASED = V["identities"], V["releases"]
BODIES = {one.kind: one for one in (*m.COORDINATOR_MESSAGES, *m.PARTY_MESSAGES)}
KEYS = {
    name: SigningKey(Ed25519PrivateKey.from_private_bytes(secret))
    for name, secret in WHO["secrets"].items()
}
PLAN_HASH = bytes.fromhex(WHO["plan_digest"])


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of output, without a salt."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def test_the_generator_gives_the_checked_in_bytes() -> None:
    assert runpy.run_path(str(VECTORS / "make_protocol_vectors.py"))["document"]() == SOURCE


def test_identities_and_plan() -> None:
    assert V["version"] == m.VERSION
    parse_plan(WHO["plan"])
    assert plan_digest(WHO["plan"]) == hashlib.sha256(WHO["plan"]).hexdigest() == WHO["plan_digest"]
    for name, key in KEYS.items():
        assert key.public == WHO["public"][name]
        assert fingerprint(key.public) == WHO["fingerprints"][name]
        seen = hashlib.sha256(b"fedtags key 1\0" + key.public).hexdigest()[:20]
        assert WHO["fingerprints"][name].replace("-", "") == seen
    made = sign_plan(KEYS["requester"], WHO["run"], WHO["plan"])
    assert made == WHO["plan_signature"]
    statement = b"fedtags plan 1\0" + WHO["run"].encode() + b"\0" + WHO["plan"]
    requester = Ed25519PrivateKey.from_private_bytes(WHO["secrets"]["requester"])
    assert requester.sign(statement) == made
    with pytest.raises(errors.SignatureError):
        verify_plan(KEYS["requester"].public, made, "run-2", WHO["plan"])


def test_manifests() -> None:
    content = b"fedtags manifest 1\0" + cbor2.dumps(WHO["cohort"], canonical=True)
    assert hashlib.sha256(content).digest() == WHO["manifest_hash"]
    assert m.manifest_hash(WHO["cohort"]) == WHO["manifest_hash"]
    signed = b"fedtags federation manifest 1\0"
    signed += cbor2.dumps([WHO["federation"], WHO["cohort"]], canonical=True)
    for name, signature in WHO["manifest_signatures"].items():
        secret = Ed25519PrivateKey.from_private_bytes(WHO["secrets"][name])
        assert secret.sign(signed) == signature
    FederationManifest(WHO["federation"], WHO["cohort"]).verify(WHO["manifest_signatures"])


def test_there_is_a_frame_of_every_message_type() -> None:
    assert {one["type"] for one in V["frames"]} == set(BODIES)


@pytest.mark.parametrize("one", V["frames"], ids=lambda one: one["type"])
def test_frames_from_cbor2_and_cryptography_alone(one: dict[str, Any]) -> None:
    attached = {
        "attached_bytes": len(one["attachment"]),
        "attached_sha256": hashlib.sha256(one["attachment"]).digest(),
    }
    content = {**one["header"], "type": one["type"], "body": one["body"], **attached}
    head = cbor2.dumps(content, canonical=True)
    key = Ed25519PrivateKey.from_private_bytes(WHO["secrets"][one["header"]["sender"]])
    signature = key.sign(b"fedtags message 1\0" + head)
    assert signature + struct.pack(">I", len(head)) + head + one["attachment"] == one["frame"]


@pytest.mark.parametrize("one", V["frames"], ids=lambda one: one["type"])
def test_frames_are_written_and_read(one: dict[str, Any]) -> None:
    kind, public = BODIES[one["type"]], KEYS[one["header"]["sender"]].public
    received = read(one["frame"], public, kind)
    body = body_of(received, kind)
    header = m.Header.model_validate(one["header"])
    assert received.envelope.model_dump(include=set(m.Header.model_fields)) == one["header"]
    assert seal(header, body, KEYS[header.sender]) == one["frame"]
    fields = {name: listed(value) for name, value in body.model_dump().items()}
    assert (fields.pop(kind.attached) if kind.attached else b"") == one["attachment"]
    assert fields == one["body"]
    relayed = read_statement(statement_of(one["frame"]), public, kind)
    assert relayed.envelope == received.envelope


def listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_the_transcripts_by_hashlib_alone() -> None:
    for epoch in (1, 2):
        transcript = ours = bytes(32)
        for one in (one for one in V["frames"] if one["header"]["epoch"] == epoch):
            assert one["header"]["previous"] == transcript
            signed = one["frame"][: len(one["frame"]) - len(one["attachment"])]
            digest = hashlib.sha256(signed).digest()
            transcript = hashlib.sha256(transcript + digest).digest()
            ours = extend_transcript(ours, frame_digest(one["frame"]))
            assert transcript == ours == one["transcript"]


def test_a_party_follows_the_frames() -> None:
    public = KEYS["coordinator"].public
    start = (WHO["run"], PLAN_HASH, WHO["manifest_hash"])
    for epoch in (1, 2):
        bank = Conversation("bank", KEYS["bank"], "coordinator", public, *start, epoch)
        frames = [one for one in V["frames"] if one["header"]["epoch"] == epoch]
        for ask, answer in zip(frames[::2], frames[1::2], strict=True):
            turn = ask["header"]["round"], ask["header"]["attempt"]
            kind, says = BODIES[ask["type"]], BODIES[answer["type"]]
            bank.hear(bank.receive(ask["frame"], kind), kind, turn[0], attempt=turn[1], begins=True)
            body = body_of(read(answer["frame"], KEYS["bank"].public, says), says)
            assert bank.say(body, turn[0], attempt=turn[1], begins=False) == answer["frame"]
        again = bank.receive(frames[0]["frame"], BODIES[frames[0]["type"]])
        with pytest.raises(errors.ProtocolError):  # a second time
            bank.hear(again, BODIES[frames[0]["type"]], 0, begins=True)


@pytest.mark.parametrize("one", V["broken_frames"], ids=lambda one: one["name"])
def test_broken_frames_raise_the_named_error(one: dict[str, Any]) -> None:
    public, kind = KEYS["coordinator"].public, BODIES[one["type"]]
    good = next(frame["frame"] for frame in V["frames"] if frame["type"] == one["type"])
    read(good, public, kind)
    with pytest.raises(getattr(errors, one["error"])) as caught:
        read(one["frame"], public, kind)
    assert type(caught.value).__name__ == one["error"]


def test_the_decisions_are_statements_of_each_member() -> None:
    for name, statement in V["decisions"].items():
        heard = read_statement(statement, KEYS[name].public, m.Decision)
        assert heard.envelope.sender == name


def test_broken_frames_have_right_signatures_unless_that_is_what_is_broken() -> None:
    public = Ed25519PublicKey.from_public_bytes(WHO["public"]["coordinator"])
    cut = {"cut by one byte", "longer by one byte", "a head longer than the frame", "no head"}
    for one in (one for one in V["broken_frames"] if one["name"] not in cut):
        (length,) = struct.unpack(">I", one["frame"][64:68])
        try:
            head = one["frame"][68 : 68 + length]
            public.verify(one["frame"][:64], b"fedtags message 1\0" + head)
            error = "ProtocolError"
        except InvalidSignature:
            error = "SignatureError"
        assert error == one["error"], one["name"]


def test_releases() -> None:
    key, named = RELEASED["generator_key"], RELEASED["gradient"]
    assert generator(key).integers(0, 2**63, 4).tolist() == RELEASED["integers"]
    assert generator(key).random(4).tolist() == RELEASED["doubles"]
    gradient, evaluation = (
        mechanism_from_data(one) for one in (named["mechanism"], RELEASED["evaluation"])
    )
    assert isinstance(gradient, SampledGaussian)
    assert isinstance(evaluation, Gaussian)
    assert gradient_mechanism(0.4, 999, 1.25, 20) == (gradient, named["batch"])
    assert gradient.sample(40, generator(key)).tolist() == RELEASED["sample_of_40"]
    clipped, counts = np.array(RELEASED["clipped_sum"]), np.array(RELEASED["counts"])
    noised = gradient.noised(clipped, 2.0, generator(key)).tolist()
    assert noised == RELEASED["noised_sum_at_norm_2"]
    assert evaluation.noised(counts, generator(key)).tolist() == RELEASED["noised_counts"]


def test_the_generator_is_aes_128_in_counter_mode() -> None:
    key = RELEASED["generator_key"]
    start = int.from_bytes(key[16:], "little")
    counters = b"".join((start + block).to_bytes(16, "little") for block in range(2))
    stream = Cipher(algorithms.AES(key[:16]), modes.ECB()).encryptor().update(counters)
    words = [int.from_bytes(stream[at : at + 8], "little") for at in range(0, 32, 8)]
    assert [(one >> 11) * 2.0**-53 for one in words] == RELEASED["doubles"]


def test_held_out_customers() -> None:
    customers, key = V["held_out"]["customers"], V["held_out"]["local_key"]
    for text, aside in V["held_out"]["held_out"].items():
        assert held_out(customers, key, float(text)).tolist() == aside
        digests = [hmac.digest(key, b"held out 1\0" + one.encode(), "sha256") for one in customers]
        limit = int(float(text) * 2**64)
        assert [int.from_bytes(one[:8], "big") < limit for one in digests] == aside
        assert len(set(aside)) == 2


def test_ledger_lines(tmp_path: Path) -> None:
    def written(name: str) -> Path:
        path = tmp_path / name
        path.touch(mode=0o600)
        path.write_text("".join(line + "\n" for line in V["ledger"][name]))
        return path

    previous = "0" * 64
    chained = HashChain(tmp_path / "chain", b"fedtags ledger 1", lambda: moment)
    for number, line in enumerate(V["ledger"]["lines"]):
        content = json.loads(line)
        assert content["previous"] == previous
        previous = content.pop("hash")
        rest = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        assert hashlib.sha256(b"fedtags ledger 1\0" + rest).hexdigest() == previous
        moment = datetime.fromisoformat(content["time"]).astimezone(UTC)
        if number == 0:
            chained.create(content["kind"], content["body"])
        else:
            with chained.appending() as file:
                file.append(content["kind"], content["body"])
    assert (tmp_path / "chain").read_text().splitlines() == V["ledger"]["lines"]
    assert Ledger(written("lines")).verify().hash == previous
    with pytest.raises(errors.LedgerError, match="line 2"):
        Ledger(written("altered")).verify()


def test_ledger_heads() -> None:
    known, local_key = V["ledger_heads"], V["ledger_heads"]["local_key"]
    said, frame = known["head"], known["frame"]
    assert known["orders"] == list(ORDERS)
    moment = datetime.fromisoformat(said["time"])
    curve = tuple(said["rdp"])
    at = LedgerPosition(said["position"], said["hash"], moment, curve)
    names = {name: said[name] for name in ("party", "run", "round_number")}
    made = sign_head(KEYS["bank"], local_key, at, **names, entropy=lambda label: said["nonce"])
    assert made == frame
    assert len(frame) == m.HEAD_BYTES
    head = read_head(frame, "bank", KEYS["bank"].public)
    assert (head.party, head.run, head.round) == tuple(names.values())
    assert open_head(head, local_key) == at


def test_ledger_heads_by_struct_and_cryptography_alone() -> None:
    known, said = V["ledger_heads"], V["ledger_heads"]["head"]
    public = said["party"].encode().ljust(31, b"\0") + said["run"].encode().ljust(63, b"\0")
    public += struct.pack(">IQ", said["round_number"], said["position"])
    public += bytes.fromhex(said["hash"])
    microseconds = round(datetime.fromisoformat(said["time"]).timestamp() * 1_000_000)
    numbers = [*said["rdp"], *[0.0] * (32 - len(said["rdp"]))]
    secret = struct.pack(">q32d", microseconds, *numbers)
    domain = b"fedtags ledger head 1\0"
    key = hkdf(known["local_key"], domain + cbor2.dumps(known["orders"], canonical=True))
    content = public + said["nonce"] + AESGCM(key).encrypt(said["nonce"], secret, public)
    signer = Ed25519PrivateKey.from_private_bytes(WHO["secrets"]["bank"])
    assert signer.sign(domain + content) + content == known["frame"]


def test_broken_ledger_heads_raise_the_named_error() -> None:
    for one in V["ledger_heads"]["broken"]:
        with pytest.raises(getattr(errors, one["error"])) as caught:
            read_head(one["frame"], "bank", KEYS["bank"].public)
        assert type(caught.value).__name__ == one["error"], one["name"]
