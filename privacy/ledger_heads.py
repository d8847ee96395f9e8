"""Signed heads of a party's ledger: what other members keep, so that a cut is noticed.

A hash chain shows a change in its middle, not that its end was cut or that the whole file was put
back from an older copy. So every member keeps the newest head of every other member's ledger and
shows it to its owner at the next run. A frame has one length, HEAD_BYTES, and one form:

    signature (64) || party (31) || run (63) || round (4) || position (8) || hash (32) || sealed

Names are padded with zero bytes; numbers are big-endian. The Ed25519 signature covers the rest
under a prefix of its own. `sealed` is for the owner alone: the time, and the Renyi curve of all
that is charged at that position, by AES-256-GCM (NIST SP 800-38D) under a key derived from the
party's local key. With it an owner whose ledger lacks the entry can still charge what the ledger
forgot, and nobody else learns what was spent.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.accounting import ORDERS
from privacy.errors import LedgerError, ProtocolError
from privacy.identity import PARTY_PATTERN, RUN_ID_PATTERN, SIGNATURE_BYTES, SigningKey, verify
from privacy.ledger import LedgerPosition
from privacy.masking import derive
from privacy.messages import HEAD_BYTES, canonical
from privacy.randomness import Entropy

_DOMAIN = b"fedtags ledger head 1\0"
_PUBLIC = struct.Struct(">31s63sIQ32s")
# Room for more orders than there are today: a head's length is part of the protocol.
_NUMBERS = 32
_SECRET = struct.Struct(f">q{_NUMBERS}d")
_NONCE_BYTES = 12
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class SignedHead:
    """What a verified frame says. `position` counts the ledger's entries; `hash` is hexadecimal.

    `round`: 0 with a decision, k with the update of round k, rounds + 1 with the evaluation,
    rounds + 3 with the receipt.
    """

    party: str
    run: str
    round: int
    position: int
    hash: str
    sealed: bytes
    frame: bytes


def sign_head(
    key: SigningKey,
    local_key: bytes,
    at: LedgerPosition,
    *,
    party: str,
    run: str,
    round_number: int,
    entropy: Entropy,
) -> bytes:
    """The frame that says: in this round of this run, `party`'s ledger ends `at` this entry."""
    public = _PUBLIC.pack(
        party.encode(), run.encode(), round_number, at.position, bytes.fromhex(at.hash)
    )
    moment = (at.time - _EPOCH) // _MICROSECOND
    secret = _SECRET.pack(moment, *at.rdp, *(0.0,) * (_NUMBERS - len(at.rdp)))
    nonce = entropy(f"ledger head {round_number}")[:_NONCE_BYTES]
    content = public + nonce + _cipher(local_key).encrypt(nonce, secret, public)
    return key.sign(_DOMAIN + content) + content


def read_head(frame: bytes, party: str, public_key: bytes) -> SignedHead:
    """Verify, then parse. Raises SignatureError, or ProtocolError if it is not `party`'s head."""
    if len(frame) != HEAD_BYTES:
        raise ProtocolError(f"a ledger head of {party} is missing or has another length")
    content = frame[SIGNATURE_BYTES:]
    verify(public_key, frame[:SIGNATURE_BYTES], _DOMAIN + content)
    public, sealed = content[: _PUBLIC.size], content[_PUBLIC.size :]
    owner, run, round_number, position, digest = _PUBLIC.unpack(public)
    names = _name(owner, PARTY_PATTERN), _name(run, RUN_ID_PATTERN)
    if names[0] != party:
        raise ProtocolError(f"a ledger head of {party} was expected, and one of another came")
    return SignedHead(*names, round_number, position, digest.hex(), sealed, frame)


def open_head(head: SignedHead, local_key: bytes) -> LedgerPosition:
    """What the owner sealed. Raises LedgerError if that was under another local key."""
    public = head.frame[SIGNATURE_BYTES:][: _PUBLIC.size]
    nonce, text = head.sealed[:_NONCE_BYTES], head.sealed[_NONCE_BYTES:]
    try:
        moment, *numbers = _SECRET.unpack(_cipher(local_key).decrypt(nonce, text, public))
    except InvalidTag as error:
        raise LedgerError(
            "this party's own ledger head does not open with its local key; restore the newest "
            "ledger.jsonl, or the keys/local.key that belongs to it, from backup; if both are "
            "lost, this party can only join again under a new name"
        ) from error
    time, rdp = _EPOCH + moment * _MICROSECOND, tuple(numbers[: len(ORDERS)])
    return LedgerPosition(position=head.position, hash=head.hash, time=time, rdp=rdp)


def check_ahead(head: SignedHead, known: SignedHead, *, stands: bool = False) -> None:
    """Raise ProtocolError, naming the party, unless `head` can come after `known` in one ledger.

    Most exchanges of a run are preceded by an entry, so an honest ledger is further on then.
    `stands`: this one need not be, so the same entry as before will do.
    """
    if head.position > known.position:
        return
    if stands and (head.position, head.hash) == (known.position, known.hash):
        return
    if head.position < known.position:
        told = f"the ledger of {head.party} is shorter than it was: it was cut or restored"
    elif head.hash != known.hash:
        told = f"the ledger of {head.party} has two histories: it was forked or rewritten"
    else:
        told = f"the ledger of {head.party} has not moved since it was last shown"
    raise ProtocolError(
        f"{told}. The run ends here; let {head.party} verify its ledger, then submit again"
    )


def _cipher(local_key: bytes) -> AESGCM:
    """AES-256-GCM for the owner's eyes. Curves at other orders are under another key."""
    return AESGCM(derive(local_key, _DOMAIN + canonical(list(ORDERS))))


def _name(padded: bytes, pattern: str) -> str:
    name = padded.rstrip(b"\0").decode("ascii", errors="replace")
    if re.fullmatch(pattern, name) is None:
        raise ProtocolError("a ledger head names no party or no run")
    return name
