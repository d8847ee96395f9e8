"""Uniform masks modulo t: pairwise ones that cancel in a sum, and a party's own.

One AES-256-CTR stream for each (pair, label, chunk), keyed by HKDF-SHA256 (RFC 5869) -> 48-bit
words below t by rejection. After Bonawitz et al. 2017, section 4. A masked vector is uniform to
whoever lacks one of its pair keys; over exactly the label's members the pairwise masks sum to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privacy.ciphertexts import MODULUS, SLOTS
from privacy.errors import ProtocolError
from privacy.messages import canonical

WORD_BYTES = 6
WORD_LIMIT = 1 << (8 * WORD_BYTES)


@dataclass(frozen=True)
class SumLabel:
    """Which sum something belongs to: every mask, tag and seed is derived for one of them.

    `members`: the participants' names, sorted. Plan, run, cohort and epoch are bound by the keys
    that a label is used with (`privacy.key_agreement.agreement_hash`). Never used for two payloads.
    Raises ProtocolError unless at least two members are named, sorted, each once.
    """

    round: int
    attempt: int
    tensor: str
    members: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.members) < 2 or tuple(sorted(set(self.members))) != self.members:
            raise ProtocolError("a sum has at least two members, sorted, each once")

    def info(self, purpose: str, chunk: int, party: str = "") -> bytes:
        """The HKDF info string of one key for `purpose`: no two purposes share a key."""
        bound = [self.round, self.attempt, self.tensor, self.members, chunk, party]
        return f"fedtags {purpose} 1\0".encode() + canonical(bound)


def derive(key: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(key)


def uniform_words(key: bytes, count: int, modulus: int) -> NDArray[np.int64]:
    """`count` words uniform in [0, modulus), modulus <= 2**48, from AES-256-CTR under `key`:
    six bytes a word, little-endian; words not below the largest multiple of `modulus` are left out.

    `key` must serve for one vector only: the counter starts at zero.
    """
    if not 1 < modulus <= WORD_LIMIT:
        raise ValueError("the modulus must be in (1, 2**48]")
    limit = WORD_LIMIT - WORD_LIMIT % modulus
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor()
    found: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        values = _words(stream.update(bytes(WORD_BYTES * missing)), missing)
        kept = values[values < limit]
        found.append(kept if limit == modulus else kept % modulus)
        missing -= len(kept)
    return found[0] if len(found) == 1 else np.concatenate([np.zeros(0, np.int64), *found])


def _words(raw: bytes, count: int) -> NDArray[np.int64]:
    """Six-byte little-endian integers: eight-byte ones, six bytes apart, without their upper two.
    Three times as fast as copying the bytes apart; two bytes of padding end the last one."""
    strided: NDArray[np.int64] = np.ndarray((count,), "<i8", raw + bytes(2), strides=(WORD_BYTES,))
    return strided & (WORD_LIMIT - 1)


def pairwise_mask(
    me: str, pair_keys: Mapping[str, bytes], label: SumLabel, chunk: int
) -> NDArray[np.int64]:
    """The sum mod t of this member's pairwise masks for one chunk, shape (SLOTS,): added towards
    later names, subtracted towards earlier ones, so that the masks of `label.members` sum to zero.

    Raises ProtocolError if `me` is not one of these, or a pair key is missing.
    """
    if me not in label.members or not set(label.members) <= {me, *pair_keys}:
        raise ProtocolError("the members of a sum are not all members of this key agreement")
    info = label.info("mask", chunk)
    total = np.zeros(SLOTS, dtype=np.int64)  # at most 31 terms below 2**48 each: far from 2**63
    for peer in label.members:
        if peer == me:
            continue
        words = uniform_words(derive(pair_keys[peer], info), SLOTS, MODULUS)
        if me < peer:
            total += words
        else:
            total -= words
    return total % MODULUS


def self_mask(seed: bytes, label: SumLabel, chunk: int) -> NDArray[np.int64]:
    """A party's own mask of one chunk, shape (SLOTS,), from its 32-byte seed of this attempt."""
    return uniform_words(derive(seed, label.info("self-mask", chunk)), SLOTS, MODULUS)
