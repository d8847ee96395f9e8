"""Everything that parses what others send, as functions of bytes.

A target does with the bytes what the service does with a hostile peer's, and raises whatever is
wrong about that: any error that is not one of fedtags' named ones, a child process that died, an
unexpected error inside the party's service. Signed targets sign the bytes first: the attacker is a
coordinator or a member with a key of its own.

Two runners call them: hypothesis in the ordinary suite (`test_fuzz.py`) and atheris on demand
(`python -m tests.fuzz`).
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

import cbor2
import numpy as np

from models.plan import parse_plan
from privacy import framing, ledger_heads
from privacy.ciphertexts import CIPHERTEXT_BYTES, MODULUS, SLOTS, SUM_BYTES
from privacy.encryption import KEY_BYTES, Adder, RunKey, check_ciphertexts, check_sums
from privacy.encryption_process import Children
from privacy.errors import FedtagsError
from privacy.framing import MAX_FRAME_BYTES, read, read_statement, seal
from privacy.identity import SigningKey
from privacy.key_agreement import ENCAPSULATED_BYTES, ExchangeKeys, KeyAgreement, SealedKeys
from privacy.ledger_state import LedgerPosition
from privacy.messages import (
    COORDINATOR_MESSAGES,
    NOTHING_OPENED,
    PARTY_MESSAGES,
    Body,
    canonical,
)
from tests.fuzz.idle_service import party_service
from tests.fuzz.samples import COORDINATOR_SAMPLES, PARTY_SAMPLES, PLAN, header

SIGNER = SigningKey.generate()


@dataclass(frozen=True)
class Target:
    """`check` raises if something is wrong; `seeds` are well-formed inputs to begin with."""

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    cases: int
    """How many `make fuzz` runs at least."""


@contextlib.contextmanager
def only_named_errors() -> Iterator[None]:
    """A fedtags error is an answer; anything else goes on to the runner, which reports it."""
    with contextlib.suppress(FedtagsError):
        yield


# Frames -------------------------------------------------------------------------------------------


def _frames(samples: tuple[Body, ...]) -> list[bytes]:
    return [seal(header(), body, SIGNER) for body in samples]


def _unsigned(frame: bytes) -> bytes:
    """A frame's rest, which the target signs."""
    return frame[framing.SIGNATURE_BYTES :]


def signed(rest: bytes, signer: SigningKey = SIGNER) -> bytes:
    """A frame whose head, as far as its length says, is signed."""
    at = framing._LENGTH.size
    length = int.from_bytes(rest[:at], "big")
    head = rest[at : at + length]
    return signer.sign(framing._DOMAIN + head) + rest


def frame(data: bytes) -> None:
    with only_named_errors():
        read(data, SIGNER.public, *COORDINATOR_MESSAGES, *PARTY_MESSAGES)


def coordinators_frame(data: bytes) -> None:
    with only_named_errors():
        read(signed(data), SIGNER.public, *COORDINATOR_MESSAGES)


def partys_frame(data: bytes) -> None:
    with only_named_errors():
        read(signed(data), SIGNER.public, *PARTY_MESSAGES)


def partys_statement(data: bytes) -> None:
    with only_named_errors():
        read_statement(framing.statement_of(signed(data)), SIGNER.public, *PARTY_MESSAGES)


_PLACEHOLDER = hashlib.sha256(b"the value goes here").digest()


def with_another_field(frames: list[bytes], data: bytes) -> bytes:
    """A well-formed frame's rest in which one field of header or body has another value, whose
    encoding are the bytes after the first two."""
    rest = _unsigned(frames[data[0] % len(frames)])
    at = framing._LENGTH.size
    length = int.from_bytes(rest[:at], "big")
    head, attachment = cbor2.loads(rest[at : at + length]), rest[at + length :]
    fields = [(head, name) for name in head] + [(head["body"], name) for name in head["body"]]
    holder, name = fields[data[1] % len(fields)]
    holder[name] = _PLACEHOLDER
    changed = canonical(head).replace(canonical(_PLACEHOLDER), data[2:])
    return len(changed).to_bytes(at, "big") + changed + attachment


def field_of_a_frame(data: bytes) -> None:
    if len(data) > 2:
        with only_named_errors():
            rest = signed(with_another_field(all_frames(), data))
            read(rest, SIGNER.public, *COORDINATOR_MESSAGES, *PARTY_MESSAGES)


@cache
def all_frames() -> list[bytes]:
    return _frames(COORDINATOR_SAMPLES + PARTY_SAMPLES)


# Ledger heads -------------------------------------------------------------------------------------


def ledger_head(data: bytes) -> None:
    content = data[: ledger_heads.HEAD_BYTES - framing.SIGNATURE_BYTES]
    signature = SIGNER.sign(ledger_heads._DOMAIN + content)
    with only_named_errors():
        head = ledger_heads.read_head(signature + content, "bank", SIGNER.public)
        ledger_heads.open_head(head, bytes(32))


def _ledger_heads() -> list[bytes]:
    at = LedgerPosition(position=3, hash="00" * 32, time=ledger_heads._EPOCH, rdp=(0.5,))
    head = ledger_heads.sign_head(
        SIGNER,
        bytes(32),
        at,
        party="bank",
        run="run-1",
        round_number=1,
        entropy=lambda label: hashlib.sha256(label.encode()).digest(),
    )
    return [head[framing.SIGNATURE_BYTES :]]


# Ciphertexts --------------------------------------------------------------------------------------


@dataclass
class Encryption:
    """A key, an adder and good ciphertexts; the processes under `raw` skip the parent's checks."""

    key: RunKey = field(default_factory=RunKey.generate)
    adder: Adder = field(default_factory=Adder)
    raw_keyed: Children = field(default_factory=lambda: Children(bytes(32)))
    raw_keyless: Children = field(default_factory=Children)

    def __post_init__(self) -> None:
        rows = np.random.default_rng(0).integers(0, MODULUS, (1, SLOTS))
        self.upload = self.key.encrypt(rows)
        self.total = self.adder.add([self.upload])
        atexit.register(self.close)

    def close(self) -> None:
        self.key.erase()
        self.adder.close()
        self.raw_keyed.close()
        self.raw_keyless.close()

    @property
    def pids(self) -> list[int]:
        children = (self.key._children, self.adder._children, self.raw_keyed, self.raw_keyless)
        return [pid for one in children for pid in one.pids]


encryption = cache(Encryption)


@contextlib.contextmanager
def _children_live() -> Iterator[None]:
    before = set(encryption().pids)
    with only_named_errors():
        yield
    if not before <= set(encryption().pids):
        raise AssertionError("a child process died of what it was sent")


def laid_over(good: bytes, data: bytes) -> bytes:
    """`good` with `data`'s rest in place of what is where its first three bytes say."""
    at = int.from_bytes(data[:3], "big") % len(good)
    return (good[:at] + data[3:] + good[at + len(data[3:]) :])[: len(good)]


def upload(data: bytes) -> None:
    """As any length, and as a ciphertext with something else in it; alone and beside a good one."""
    with only_named_errors():
        check_ciphertexts(data)
    changed = laid_over(encryption().upload, data)
    with _children_live():
        encryption().adder.add([encryption().upload, changed])


def total(data: bytes) -> None:
    with only_named_errors():
        check_sums(data)
    with _children_live():
        encryption().key.decrypt(laid_over(encryption().total, data))


def upload_in_the_child(data: bytes) -> None:
    """What the child does with bytes that the parent would have refused."""
    padded = data.ljust(CIPHERTEXT_BYTES, b"\xff")[:CIPHERTEXT_BYTES]
    with _children_live():
        encryption().raw_keyless.ask(b"A", [(1, [padded, encryption().upload])])


def total_in_the_child(data: bytes) -> None:
    padded = data.ljust(SUM_BYTES, b"\xff")[:SUM_BYTES]
    with _children_live():
        encryption().raw_keyed.ask(b"D", [(1, [padded])])


def run_key(data: bytes) -> None:
    with only_named_errors(), RunKey.from_bytes(data):
        pass


# Key agreement ------------------------------------------------------------------------------------

MINE, LEADS, THIRD = (ExchangeKeys.generate() for _ in range(3))


def offer(data: bytes) -> None:
    with only_named_errors():
        offers = {"bank": LEADS.offer, "ecommerce": MINE.offer, "retailer": data}
        KeyAgreement("ecommerce", MINE, "bank", offers, bytes(32)).seal()
    with only_named_errors():
        # The last one encapsulates to nobody; it meets the lead's offer when it completes.
        offers = {"bank": data, "retailer": MINE.offer}
        seals = {
            "bank": SealedKeys({"retailer": b""}, {"retailer": bytes(ENCAPSULATED_BYTES)}),
            "retailer": SealedKeys({}, {}),
        }
        KeyAgreement("retailer", MINE, "bank", offers, bytes(32)).complete(seals)


def key_seal(data: bytes) -> None:
    encapsulated, sealed = data[:ENCAPSULATED_BYTES], data[ENCAPSULATED_BYTES:]
    seals = {
        "bank": SealedKeys({"retailer": sealed}, {"retailer": encapsulated}),
        "retailer": SealedKeys({}, {}),
    }
    offers = {"bank": LEADS.offer, "retailer": MINE.offer}
    with only_named_errors():
        KeyAgreement("retailer", MINE, "bank", offers, bytes(32)).complete(seals)


# A party's service --------------------------------------------------------------------------------


def service(data: bytes) -> None:
    """Raw bytes, and the same signed by the pinned coordinator."""
    _ask(data)
    _ask(signed(data, party_service().federation.coordinator))


def field_at_the_service(data: bytes) -> None:
    """A preflight that the party would accept, and any other message, but for one field."""
    if len(data) > 2:
        rest = with_another_field(service_frames(), data)
        _ask(signed(rest, party_service().federation.coordinator))


def _ask(sent: bytes) -> None:
    tried = party_service()
    tried.unexpected.found.clear()
    reply = tried.party.answer(sent)
    assert 0 < len(reply) <= MAX_FRAME_BYTES
    if tried.unexpected.found:
        raise tried.unexpected.found.pop()


@cache
def service_frames() -> list[bytes]:
    bodies = (party_service().preflight(), *COORDINATOR_SAMPLES[1:])
    return [seal(party_service().header(), body, SIGNER) for body in bodies]


# Plans --------------------------------------------------------------------------------------------


def plan(data: bytes) -> None:
    with only_named_errors():
        parse_plan(data)


def _values() -> list[bytes]:
    """One value of each kind in several fields."""
    values = (
        0,
        -1,
        1 << 70,
        1.5,
        "",
        "bank",
        b"",
        bytes(32),
        [],
        ["bank"],
        {},
        {"bank": b""},
        None,
    )
    return [bytes([3 * at, at]) + canonical(one) for at, one in enumerate(values)]


TARGETS = (
    Target("frame", frame, lambda: _frames(COORDINATOR_SAMPLES + PARTY_SAMPLES), 50_000),
    Target(
        "coordinators frame",
        coordinators_frame,
        lambda: [_unsigned(one) for one in _frames(COORDINATOR_SAMPLES)],
        100_000,
    ),
    Target(
        "partys frame",
        partys_frame,
        lambda: [_unsigned(one) for one in _frames(PARTY_SAMPLES)],
        100_000,
    ),
    Target(
        "partys statement",
        partys_statement,
        lambda: [_unsigned(framing.statement_of(one)) for one in _frames(PARTY_SAMPLES)],
        50_000,
    ),
    Target("field of a frame", field_of_a_frame, _values, 50_000),
    Target("ledger head", ledger_head, _ledger_heads, 50_000),
    Target("plan", plan, lambda: [PLAN], 30_000),
    Target("upload", upload, lambda: [b"\0\0\x80" + bytes(16), b"\0\0\x10\xff"], 20_000),
    Target("total", total, lambda: [b"\0\0\x80" + bytes(16), b"\0\0\x10\xff"], 20_000),
    Target("upload in the child", upload_in_the_child, lambda: [encryption().upload], 10_000),
    Target("total in the child", total_in_the_child, lambda: [encryption().total], 10_000),
    Target("run key", run_key, lambda: [bytes(KEY_BYTES), NOTHING_OPENED], 1_000),
    Target("offer", offer, lambda: [THIRD.offer], 10_000),
    Target("key seal", key_seal, lambda: [bytes(ENCAPSULATED_BYTES + KEY_BYTES + 16)], 10_000),
    Target("service", service, lambda: list(map(_unsigned, service_frames())), 30_000),
    Target("field at the service", field_at_the_service, _values, 30_000),
)
