import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from privacy.accounting import ORDERS
from privacy.errors import LedgerError, ProtocolError, SignatureError
from privacy.identity import SigningKey
from privacy.ledger import LedgerPosition
from privacy.ledger_heads import SignedHead, check_ahead, open_head, read_head, sign_head
from privacy.messages import HEAD_BYTES
from privacy.randomness import system_entropy

BANK, SHOP = SigningKey.generate(), SigningKey.generate()
LOCAL_KEY = bytes(range(32))
HASH = hashlib.sha256(b"an entry").hexdigest()
AT = LedgerPosition(
    position=7,
    hash=HASH,
    time=datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    rdp=tuple(order / 17 for order in ORDERS),
)


def signed(
    at: LedgerPosition = AT,
    key: SigningKey = BANK,
    party: str = "bank",
    run: str = "run-1",
    round_number: int = 3,
) -> bytes:
    names = {"party": party, "run": run, "round_number": round_number}
    return sign_head(key, LOCAL_KEY, at, **names, entropy=system_entropy)


def head(position: int, digest: str = HASH) -> SignedHead:
    return read_head(signed(replace(AT, position=position, hash=digest)), "bank", BANK.public)


def test_a_head_says_to_all_where_the_ledger_ends_and_to_its_owner_what_was_charged() -> None:
    frame = signed()
    found = read_head(frame, "bank", BANK.public)
    assert (found.party, found.run, found.round) == ("bank", "run-1", 3)
    assert (found.position, found.hash, found.frame) == (7, HASH, frame)
    assert open_head(found, LOCAL_KEY) == AT


@pytest.mark.parametrize(
    "at",
    [
        AT,
        replace(AT, position=2**40, rdp=(0.0,) * len(ORDERS)),
        replace(AT, rdp=(1e300,) * len(ORDERS), time=AT.time + timedelta(days=9999)),
    ],
)
@pytest.mark.parametrize("party", ["b", "b" * 31])
@pytest.mark.parametrize("run", ["r", "r" * 63])
def test_a_head_has_one_length_whatever_it_says(at: LedgerPosition, party: str, run: str) -> None:
    frame = signed(at, party=party, run=run)
    assert len(frame) == HEAD_BYTES
    found = read_head(frame, party, BANK.public)
    assert (found.party, found.run) == (party, run)
    assert open_head(found, LOCAL_KEY) == at


def test_what_is_sealed_is_random_to_others() -> None:
    first, second = signed(), signed()
    assert first[:64] != second[:64]
    sealed = [read_head(one, "bank", BANK.public).sealed for one in (first, second)]
    assert sealed[0] != sealed[1]
    assert sum(a == b for a, b in zip(*sealed, strict=True)) < 20


def test_any_flipped_byte_is_caught() -> None:
    frame = signed()
    for at in range(len(frame)):
        broken = frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]
        with pytest.raises(SignatureError):
            read_head(broken, "bank", BANK.public)


@pytest.mark.parametrize("frame", [b"", b"x", signed()[:-1], signed() + b"\0"])
def test_a_head_of_another_length_is_refused_before_it_is_read(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="head of bank is missing or has another length"):
        read_head(frame, "bank", BANK.public)


def test_a_head_is_its_partys_alone() -> None:
    with pytest.raises(SignatureError):
        read_head(signed(), "bank", SHOP.public)
    with pytest.raises(ProtocolError, match="head of bank was expected"):
        read_head(signed(party="shop"), "bank", BANK.public)


@pytest.mark.parametrize(("party", "run"), [("", "run-1"), ("bank\n", "run-1"), ("bank", "../x")])
def test_a_signed_name_that_is_none_is_refused(party: str, run: str) -> None:
    with pytest.raises(ProtocolError, match="names no party or no run"):
        read_head(signed(party=party, run=run), "bank", BANK.public)


def test_a_signature_of_a_message_is_none_of_a_head() -> None:
    content = signed()[64:]
    with pytest.raises(SignatureError):
        read_head(BANK.sign(content) + content, "bank", BANK.public)
    with pytest.raises(SignatureError):
        read_head(BANK.sign(b"fedtags message 1\0" + content) + content, "bank", BANK.public)


def test_another_local_key_is_told_what_to_restore() -> None:
    with pytest.raises(LedgerError, match=r"restore the newest ledger\.jsonl, or the keys/local"):
        open_head(head(7), bytes(32))


def test_what_was_sealed_at_one_place_does_not_open_at_another() -> None:
    here, there = head(7), head(8)
    moved = replace(there, sealed=here.sealed)
    with pytest.raises(LedgerError):
        open_head(moved, LOCAL_KEY)


def test_a_head_comes_after_another_only_if_the_ledger_grew() -> None:
    other = hashlib.sha256(b"another entry").hexdigest()
    check_ahead(head(8), head(7))
    for found, told in (
        (head(6), "the ledger of bank is shorter than it was"),
        (head(7, other), "the ledger of bank has two histories"),
        (head(7), "the ledger of bank has not moved"),
    ):
        with pytest.raises(ProtocolError, match=told):
            check_ahead(found, head(7))
