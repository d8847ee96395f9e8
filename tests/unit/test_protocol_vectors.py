"""The checked-in protocol vectors, against the code and against other computations of them."""

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
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from models.plan import parse_plan, plan_digest
from models.training import held_out
from privacy import errors
from privacy import messages as m
from privacy.accounting import ORDERS
from privacy.conversation import Conversation
from privacy.encryption import SLOTS, RunKey, confirmation_tag, open_sealed
from privacy.hash_chain import HashChain
from privacy.identity import SigningKey, fingerprint, sign_plan, verify_plan
from privacy.key_agreement import SharedKeys, agreement_hash, pair_keys, seal_run_key, shared_keys
from privacy.ledger import Ledger, LedgerPosition
from privacy.ledger_heads import open_head, read_head, sign_head
from privacy.masking import MaskLabel, mask, uniform_words
from privacy.mechanism import Gaussian, SampledGaussian, gradient_mechanism, mechanism_from_data
from privacy.packing import DeltaCode, pack_counts, pack_fields, unpack_counts, unpack_fields
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
WHO, AGREED, MASKS, PACKED, RELEASED = (
    V[name] for name in ("identities", "key_agreement", "masks", "packing", "releases")
)
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


def words_of(key: bytes, modulus: int, wanted: int) -> list[int]:
    """Six-byte little-endian words of an AES-256-CTR stream, those beyond a multiple left out."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(1024))
    every = [int.from_bytes(stream[at : at + 6], "little") for at in range(0, 1020, 6)]
    return [one % modulus for one in every if one < 2**48 // modulus * modulus][:wanted]


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


def test_manifest_hash() -> None:
    content = b"fedtags manifest 1\0" + cbor2.dumps(WHO["cohort"], canonical=True)
    assert hashlib.sha256(content).digest() == WHO["manifest_hash"]
    assert m.manifest_hash(WHO["cohort"]) == WHO["manifest_hash"]


def test_there_is_a_frame_of_every_message_type() -> None:
    assert {one["type"] for one in V["frames"]} == set(BODIES)


@pytest.mark.parametrize("one", V["frames"], ids=lambda one: one["type"])
def test_frames_from_cbor2_and_cryptography_alone(one: dict[str, Any]) -> None:
    content = {**one["header"], "type": one["type"], "body": one["body"]}
    encoded = cbor2.dumps(content, canonical=True)
    key = Ed25519PrivateKey.from_private_bytes(WHO["secrets"][one["header"]["sender"]])
    assert key.sign(b"fedtags message 1\0" + encoded) + encoded == one["frame"]


@pytest.mark.parametrize("one", V["frames"], ids=lambda one: one["type"])
def test_frames_are_written_and_read(one: dict[str, Any]) -> None:
    envelope = m.read(one["frame"], KEYS[one["header"]["sender"]].public)
    body = m.body_of(envelope, BODIES[one["type"]])
    header = m.Header.model_validate(one["header"])
    assert envelope.model_dump(include=set(m.Header.model_fields)) == one["header"]
    assert m.seal(header, body, KEYS[header.sender]) == one["frame"]
    assert {name: listed(value) for name, value in body.model_dump().items()} == one["body"]


def listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_the_transcript_by_hashlib_alone() -> None:
    transcript = ours = bytes(32)
    for one in V["frames"]:
        assert one["header"]["previous"] == transcript
        transcript = hashlib.sha256(transcript + hashlib.sha256(one["frame"]).digest()).digest()
        ours = m.extend_transcript(ours, one["frame"])
        assert transcript == ours == one["transcript"]


def test_a_party_follows_the_frames() -> None:
    public = KEYS["coordinator"].public
    start = (WHO["run"], PLAN_HASH, WHO["manifest_hash"])
    bank = Conversation("bank", KEYS["bank"], "coordinator", public, *start)
    for ask, answer in zip(V["frames"][::2], V["frames"][1::2], strict=True):
        turn = ask["header"]["round"]
        bank.hear(ask["frame"], BODIES[ask["type"]], turn, begins=True)
        body = m.body_of(m.read(answer["frame"], KEYS["bank"].public), BODIES[answer["type"]])
        assert bank.say(body, turn, begins=False) == answer["frame"]
    with pytest.raises(errors.ProtocolError):  # a second time
        bank.hear(V["frames"][0]["frame"], m.Preflight, 0, begins=True)


def test_broken_frames_raise_the_named_error() -> None:
    public, good = KEYS["coordinator"].public, V["frames"][0]["frame"]
    m.body_of(m.read(good, public), m.Preflight)
    for one in V["broken_frames"]:
        with pytest.raises(getattr(errors, one["error"])) as caught:
            m.body_of(m.read(one["frame"], public), m.Preflight)
        assert type(caught.value).__name__ == one["error"], one["name"]


def test_broken_frames_have_right_signatures_unless_that_is_what_is_broken() -> None:
    public = Ed25519PublicKey.from_public_bytes(WHO["public"]["coordinator"])
    for one in V["broken_frames"]:
        try:
            public.verify(one["frame"][:64], b"fedtags message 1\0" + one["frame"][64:])
            error = "ProtocolError"
        except InvalidSignature:
            error = "SignatureError"
        assert error == one["error"], one["name"]


def test_key_agreement() -> None:
    agreement, offers = AGREED["agreement_hash"], AGREED["exchange_public"]
    agreed = [WHO["manifest_hash"], PLAN_HASH, WHO["run"], V["decisions"]]
    encoded = b"fedtags agreement 1\0" + cbor2.dumps(agreed, canonical=True)
    assert hashlib.sha256(encoded).digest() == agreement_hash(*agreed) == agreement
    for me, secret in AGREED["exchange_secrets"].items():
        assert pair_keys(me, secret, offers, agreement) == AGREED["pair_keys"][me]
        for peer, key in AGREED["pair_keys"][me].items():
            own = X25519PrivateKey.from_private_bytes(secret)
            shared = own.exchange(X25519PublicKey.from_public_bytes(offers[peer]))
            info = cbor2.dumps([agreement, sorted((me, peer))], canonical=True)
            assert hkdf(shared, b"fedtags pair 1\0" + info) == key


def test_seals_and_the_confirmation() -> None:
    agreement, pairs = AGREED["agreement_hash"], AGREED["pair_keys"]["bank"]
    run_key = RunKey.generate()
    real = seal_run_key(run_key, "bank", pairs, agreement)
    for peer, key in AGREED["seal_keys"].items():
        info = b"fedtags seal 1\0" + cbor2.dumps([agreement, peer], canonical=True)
        assert hkdf(pairs[peer], info) == key
        associated = f"bank to {peer}".encode()
        assert open_sealed(key, AGREED["sealed"][peer], associated) == AGREED["run_key"]
        assert open_sealed(key, real[peer], associated) == run_key.to_bytes()
        with pytest.raises(errors.ProtocolError):
            open_sealed(key, AGREED["sealed"][peer], b"bank to another")
    tag_key = hashlib.sha256(b"fedtags confirm 1\0" + AGREED["run_key"]).digest()
    tag = hmac.digest(tag_key, agreement + b"bank", "sha256")
    assert tag == confirmation_tag(AGREED["run_key"], agreement, "bank") == AGREED["confirmation"]


def test_words_and_masks_by_aes_alone() -> None:
    modulus, label = MASKS["modulus"], MaskLabel(*MASKS["label"])
    for text, words in MASKS["uniform_words"].items():
        assert words_of(MASKS["stream_key"], int(text), len(words)) == words
        assert uniform_words(MASKS["stream_key"], len(words), int(text)).tolist() == words
    info = b"fedtags mask 1\0" + cbor2.dumps(MASKS["label"], canonical=True)
    for me, words in MASKS["mask_words"].items():
        total = [0] * len(words)
        for peer, key in AGREED["pair_keys"][me].items():
            found = words_of(hkdf(key, info), modulus, len(words))
            sign = 1 if me < peer else -1
            total = [(a + sign * b) % modulus for a, b in zip(total, found, strict=True)]
        assert total == words
        ours = mask(me, AGREED["pair_keys"][me], label, len(words), modulus)
        assert ours.tolist() == words
    columns = zip(*MASKS["mask_words"].values(), strict=True)
    assert all(sum(column) % modulus == 0 for column in columns)


def test_pads_by_aes_alone() -> None:
    label, agreement = MASKS["pad_label"], AGREED["agreement_hash"]
    info = b"fedtags mask 1\0" + cbor2.dumps(label, canonical=True)
    words = words_of(hkdf(MASKS["pad_key"], info), MASKS["modulus"], len(MASKS["pad_words"]))
    assert words == MASKS["pad_words"]
    run_key = RunKey.generate()
    alone = SharedKeys("bank", label[0], {}, run_key, MASKS["pad_key"])
    chunk = np.zeros(SLOTS, dtype=np.int64)
    padded = run_key.decrypt(alone.protect([chunk], label[3], label[1])[0])
    assert padded[: len(words)].tolist() == words
    made = shared_keys("bank", label[0], AGREED["pair_keys"]["bank"], run_key, agreement)
    secret = hashlib.sha256(run_key.to_bytes()).digest()
    assert made.pad_key == hkdf(secret, b"fedtags pad 1\0" + agreement)


def test_packing() -> None:
    code, delta, modulus = DeltaCode(**PACKED["code"]), PACKED["delta"], MASKS["modulus"]
    values = np.array(delta["values"])
    found = code.quantise(values, delta["weight"], generator(delta["rng_key"]))
    assert found.tolist() == delta["quantised"] == PACKED["fields"]
    chunks = pack_fields(found, 2)
    assert [one.tolist() for one in chunks] == PACKED["field_chunks"]
    assert PACKED["field_chunks"][0][0] == found[0] + (found[1] << 24)
    assert unpack_fields(chunks, len(found)).tolist() == PACKED["fields"]
    assert code.dequantise(found, 1).tolist() == PACKED["dequantised"]
    chunks = pack_counts(np.array(PACKED["counts"]), 4, modulus)
    assert [one.tolist() for one in chunks] == PACKED["count_chunks"]
    clamped = [max(-(2**40), min(2**40, one)) for one in PACKED["counts"]]
    opened = unpack_counts(chunks, len(clamped), modulus).tolist()
    assert opened == PACKED["unpacked_counts"] == clamped


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
