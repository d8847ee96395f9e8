"""From signed offers to pairwise keys and one run key that the coordinator never holds.

Every member signs an ephemeral X25519 key inside its Decision. The agreement hash covers all
members' signed Decisions, so whoever saw another set of offers derives other keys and fails the
confirmation before round 1. The member with the lowest name (the lead) draws the run key and seals
it to each other member under their pairwise key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.encryption import (
    MODULUS,
    SLOTS,
    RunKey,
    confirmation_tag,
    open_sealed,
    seal_to,
)
from privacy.errors import ProtocolError
from privacy.masking import MaskLabel, derive, mask, pair_key, uniform_words
from privacy.messages import canonical


def agreement_hash(manifest: bytes, plan: bytes, run: str, decisions: Mapping[str, bytes]) -> bytes:
    """SHA-256 over the manifest, the plan, the run and every member's signed Decision frame."""
    return hashlib.sha256(
        b"fedtags agreement 1\0" + canonical([manifest, plan, run, dict(decisions)])
    ).digest()


def lead_of(members: Sequence[str]) -> str:
    """The member that draws the run key: the lowest name."""
    return min(members)


def pair_keys(
    me: str, private_key: bytes, exchange_keys: Mapping[str, bytes], agreement: bytes
) -> dict[str, bytes]:
    """This member's pairwise key with every other member.

    Raises ProtocolError if two members show one key: one of them copied it.
    """
    if len(set(exchange_keys.values())) != len(exchange_keys):
        raise ProtocolError("two members show the same exchange key")
    return {
        peer: pair_key(private_key, public, agreement, (me, peer))
        for peer, public in exchange_keys.items()
        if peer != me
    }


def _seal_key(key: bytes, agreement: bytes, recipient: str) -> bytes:
    return derive(key, b"fedtags seal 1\0" + canonical([agreement, recipient]))


def seal_run_key(
    run_key: RunKey, me: str, keys: Mapping[str, bytes], agreement: bytes
) -> dict[str, bytes]:
    """The run key for every other member, under each pairwise key."""
    secret = run_key.to_bytes()
    return {
        peer: seal_to(_seal_key(key, agreement, peer), secret, f"{me} to {peer}".encode())
        for peer, key in keys.items()
    }


def open_run_key(
    sealed: Mapping[str, bytes], me: str, lead: str, keys: Mapping[str, bytes], agreement: bytes
) -> RunKey:
    """The run key from the lead's seals. Raises ProtocolError if ours is missing or altered."""
    if me not in sealed:
        raise ProtocolError("the lead sealed no run key for this party")
    key = _seal_key(keys[lead], agreement, me)
    return RunKey.from_bytes(open_sealed(key, sealed[me], f"{lead} to {me}".encode()))


def confirm(run_key: RunKey, agreement: bytes, party: str) -> bytes:
    """The tag that `party` shows to prove that it holds this run key in this agreement."""
    return confirmation_tag(run_key.to_bytes(), agreement, party)


def check_confirmations(
    run_key: RunKey, agreement: bytes, members: Sequence[str], tags: Mapping[str, bytes]
) -> None:
    """Raise ProtocolError unless every member, and no one else, showed the right tag."""
    if set(tags) != set(members):
        raise ProtocolError("key confirmations do not come from exactly the members")
    for party in members:
        if not hmac.compare_digest(tags[party], confirm(run_key, agreement, party)):
            raise ProtocolError("a member holds another run key; the run ends before round 1")


@dataclass(frozen=True)
class SharedKeys:
    """What one member holds during a run; dropped when the run ends. Make it with `shared_keys`.

    Every member adds the same pad, which only members can derive and which belongs to one
    (round, tensor, chunk), and takes n pads off an opened sum. So a sum that the coordinator passes
    off as another one (a round's update as the evaluation, which is told to it) opens as uniform
    words, at every party alike.
    """

    me: str
    run: str
    pairs: Mapping[str, bytes]
    run_key: RunKey
    pad_key: bytes

    def protect(
        self, chunks: Sequence[NDArray[np.int64]], tensor: str, round_number: int
    ) -> tuple[bytes, ...]:
        """Mask, pad and encrypt each chunk of SLOTS residues; one ciphertext a chunk."""
        sealed = []
        for index, chunk in enumerate(chunks):
            label = MaskLabel(self.run, round_number, 1, tensor, index)
            masked = chunk + mask(self.me, self.pairs, label, SLOTS, MODULUS)
            sealed.append(self.run_key.encrypt((masked + self._pad(label)) % MODULUS))
        return tuple(sealed)

    def open_total(
        self, total: Sequence[bytes], chunks: int, tensor: str, round_number: int
    ) -> list[NDArray[np.int64]]:
        """Decrypt all members' sum of what they protected under this tensor and round."""
        if len(total) != chunks:
            raise ProtocolError("a sum does not have the expected number of ciphertexts")
        members = len(self.pairs) + 1
        opened = []
        for index, one in enumerate(total):
            label = MaskLabel(self.run, round_number, 1, tensor, index)
            opened.append((self.run_key.decrypt(one) - members * self._pad(label)) % MODULUS)
        return opened

    def _pad(self, label: MaskLabel) -> NDArray[np.int64]:
        return uniform_words(derive(self.pad_key, label.info()), SLOTS, MODULUS)


def shared_keys(
    me: str, run: str, pairs: Mapping[str, bytes], run_key: RunKey, agreement: bytes
) -> SharedKeys:
    """A member's keys of one run, the pads' key among them."""
    secret = hashlib.sha256(run_key.to_bytes()).digest()
    return SharedKeys(me, run, pairs, run_key, derive(secret, b"fedtags pad 1\0" + agreement))
