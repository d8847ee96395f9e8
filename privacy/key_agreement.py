"""From signed offers to pairwise keys and one run key that the coordinator never holds.

Every member signs an offer inside its Decision: an X25519 key (RFC 7748) and an ML-KEM-768 key
(FIPS 203), both ephemeral. Of each pair the earlier member (the lead first, then by name)
encapsulates to the later one; the pair's key comes from both secrets, so it stays secret while one
of the two schemes holds. The lead draws the BFV key and seals it to each other member under their
pair key. The agreement hash covers cohort, plan, run, epoch and all signed Decisions, and every key
is derived from it: whoever saw other offers derives other keys and fails the confirmation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privacy.encryption import RunKey
from privacy.errors import ProtocolError
from privacy.masking import derive
from privacy.messages import OFFER_BYTES, canonical
from privacy.shared_keys import SharedKeys, model_seal, open_sealed, seal_to

X25519_BYTES = 32
ENCAPSULATED_BYTES = 1088


@dataclass(frozen=True)
class ExchangeKeys:
    """A member's two ephemeral private keys of one epoch. `offer` is what it shows of them."""

    x25519: X25519PrivateKey = field(repr=False)
    ml_kem: MLKEM768PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> ExchangeKeys:
        """Fresh keys, from the operating system's randomness."""
        return cls(X25519PrivateKey.generate(), MLKEM768PrivateKey.generate())

    @property
    def offer(self) -> bytes:
        """OFFER_BYTES: the X25519 public key, then the ML-KEM-768 encapsulation key."""
        x25519 = self.x25519.public_key().public_bytes_raw()
        return x25519 + self.ml_kem.public_key().public_bytes_raw()


@dataclass(frozen=True)
class SealedKeys:
    """What one member sends to the others, each part for the peer it names: `sealed`, the run key
    (from the lead only), and `encapsulated`, ML-KEM ciphertexts (to every later member)."""

    sealed: dict[str, bytes]
    encapsulated: dict[str, bytes]


def agreement_hash(
    manifest: bytes, plan: bytes, run: str, epoch: int, decisions: Mapping[str, bytes]
) -> bytes:
    """SHA-256 over the cohort's hash, the plan's, the run, the epoch and every member's signed
    Decision as a statement."""
    bound = [manifest, plan, run, epoch, dict(decisions)]
    return hashlib.sha256(b"fedtags agreement 2\0" + canonical(bound)).digest()


def lead_of(applied: Mapping[str, int]) -> str:
    """The member that draws the run key and whose model counts: of those whose model holds most
    rounds, the lowest name. `applied`: every member's number of applied rounds."""
    return min(applied, key=lambda party: (-applied[party], party))


class KeyAgreement:
    """One member's side of an epoch's key agreement: made, `seal`, then `complete`, each once.

    Invariant: what a step used up (exchange keys, offers) is dropped with it.
    """

    def __init__(
        self,
        me: str,
        exchange: ExchangeKeys,
        lead: str,
        offers: Mapping[str, bytes],
        agreement: bytes,
    ) -> None:
        """Raises ProtocolError unless `offers` are well-formed, ours among them, and no two
        members show one key: one of them copied it."""
        if len(offers) < 2 or lead not in offers or offers.get(me) != exchange.offer:
            raise ProtocolError("the offers are not those of this party and its cohort")
        _check_offers(offers)
        self._me, self._lead, self._agreement = me, lead, agreement
        self._exchange: ExchangeKeys | None = exchange
        self._offers = dict(offers)
        self._order = sorted(offers, key=lambda party: (party != lead, party))
        self._pairs: dict[str, bytes] = {}
        self._run_key: RunKey | None = None
        self._secret = b""

    def seal(self) -> SealedKeys:
        """What to send to the others. The lead draws the run key here."""
        if self._exchange is None or self._pairs or self._secret:
            raise ProtocolError("the keys of this agreement were sealed before")
        encapsulated = {}
        for peer in self._order[self._order.index(self._me) + 1 :]:
            secret, encapsulated[peer] = _encapsulate(self._offers[peer])
            self._pairs[peer] = self._pair_key(peer, secret, encapsulated[peer])
        sealed = {}
        if self._me == self._lead:
            self._run_key = RunKey.generate()
            self._secret = self._run_key.to_bytes()
            sealed = {
                peer: seal_to(self._seal_key(peer), self._secret, self._sealed_for(peer))
                for peer in self._pairs
            }
        return SealedKeys(sealed, encapsulated)

    def seal_model(self, parameters: bytes) -> bytes:
        """The lead's model for members that are behind, under a key that all members derive."""
        if not self._secret:
            raise ProtocolError("only the lead, once it drew the run key, seals its model")
        return model_seal(self._secret, self._agreement, parameters)

    def complete(self, seals: Mapping[str, SealedKeys]) -> SharedKeys:
        """The member's keys from all members' seals. Raises ProtocolError if one is missing, of a
        wrong form, or altered."""
        if self._exchange is None:
            raise ProtocolError("this key agreement was completed before, or erased")
        self._check_seals(seals)
        for peer in self._order[: self._order.index(self._me)]:
            ciphertext = seals[peer].encapsulated[self._me]
            secret = self._exchange.ml_kem.decapsulate(ciphertext)
            self._pairs[peer] = self._pair_key(peer, secret, ciphertext)
        if self._run_key is None:
            key = self._seal_key(self._me, self._lead)
            sealed = seals[self._lead].sealed[self._me]
            self._secret = open_sealed(key, sealed, self._sealed_for(self._me))
            self._run_key = RunKey.from_bytes(self._secret)
        keys = SharedKeys(self._me, self._pairs, self._run_key, self._secret, self._agreement)
        self._run_key = None
        self.erase()
        return keys

    def erase(self) -> None:
        """Drop every key; idempotent. Later use raises ProtocolError."""
        if self._run_key is not None:
            self._run_key.erase()
        self._exchange = self._run_key = None
        self._secret = b""
        self._pairs, self._offers = {}, {}

    def _check_seals(self, seals: Mapping[str, SealedKeys]) -> None:
        if set(seals) != set(self._order):
            raise ProtocolError("key seals do not come from exactly the members")
        for at, party in enumerate(self._order):
            shown, later = seals[party], set(self._order[at + 1 :])
            if set(shown.sealed) != (later if party == self._lead else set()):
                raise ProtocolError("the run key is not sealed by the lead to every other member")
            if set(shown.encapsulated) != later or any(
                len(one) != ENCAPSULATED_BYTES for one in shown.encapsulated.values()
            ):
                raise ProtocolError("a member did not encapsulate to exactly the later members")

    def _pair_key(self, peer: str, secret: bytes, encapsulated: bytes) -> bytes:
        assert self._exchange is not None  # both callers have checked
        shared = _x25519(self._exchange, self._offers[peer])
        return pair_key(shared, secret, encapsulated, self._agreement, (self._me, peer))

    def _seal_key(self, recipient: str, peer: str | None = None) -> bytes:
        info = b"fedtags seal 1\0" + canonical([self._agreement, recipient])
        return derive(self._pairs[peer or recipient], info)

    def _sealed_for(self, recipient: str) -> bytes:
        return f"{self._lead} to {recipient}".encode()


def pair_key(
    x25519: bytes, ml_kem: bytes, encapsulated: bytes, agreement: bytes, members: tuple[str, str]
) -> bytes:
    """The 32-byte key of two members from both shared secrets, bound to the agreement (so to their
    signed offers), to both names and to the ML-KEM ciphertext (Giacon, Heuer and Poettering 2018:
    a concatenation combiner needs that)."""
    bound = [agreement, sorted(members), hashlib.sha256(encapsulated).digest()]
    return derive(x25519 + ml_kem, b"fedtags pair 2\0" + canonical(bound))


def _check_offers(offers: Mapping[str, bytes]) -> None:
    if any(len(offer) != OFFER_BYTES for offer in offers.values()):
        raise ProtocolError("an offer does not have this protocol's length")
    for part in (slice(X25519_BYTES), slice(X25519_BYTES, None)):
        if len({offer[part] for offer in offers.values()}) != len(offers):
            raise ProtocolError("two members show the same exchange key")


def _x25519(mine: ExchangeKeys, offer: bytes) -> bytes:
    try:
        return mine.x25519.exchange(X25519PublicKey.from_public_bytes(offer[:X25519_BYTES]))
    except ValueError as error:  # of low order
        raise ProtocolError("a member's exchange key is not a usable X25519 key") from error


def _encapsulate(offer: bytes) -> tuple[bytes, bytes]:
    try:
        return MLKEM768PublicKey.from_public_bytes(offer[X25519_BYTES:]).encapsulate()
    except ValueError as error:  # a coefficient beyond the modulus (FIPS 203, 7.2)
        raise ProtocolError("a member's exchange key is not a usable ML-KEM-768 key") from error
