"""Pairwise uniform masks modulo t that cancel in the sum of all members.

X25519 (RFC 7748) -> HKDF-SHA256 (RFC 5869), bound to the key agreement -> one AES-256-CTR stream
per (round, attempt, tensor, chunk) -> 48-bit words below t by rejection. After Bonawitz et al.
2017, section 4, without self-masks. A masked vector is uniform to whoever lacks one of the pair
keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.messages import canonical

WORD_BYTES = 6
WORD_LIMIT = 1 << (8 * WORD_BYTES)


@dataclass(frozen=True)
class MaskLabel:
    """What one mask is bound to; a label is never used for two payloads."""

    run: str
    round: int
    attempt: int
    tensor: str
    chunk: int

    def info(self) -> bytes:
        """The HKDF info string."""
        return b"fedtags mask 1\0" + canonical(
            [self.run, self.round, self.attempt, self.tensor, self.chunk]
        )


def exchange_public(private_key: bytes) -> bytes:
    """The X25519 public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def pair_key(
    private_key: bytes, peer_public: bytes, agreement: bytes, members: tuple[str, str]
) -> bytes:
    """The 32-byte key two members share, bound to both names and to `agreement` (hash of the
    signed offers), so that a member who shows another's public key shares nobody else's key.

    Raises ProtocolError if the peer's key is of low order.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private_key).exchange(
            X25519PublicKey.from_public_bytes(peer_public)
        )
    except ValueError as error:
        raise ProtocolError("a member's exchange key is not a usable X25519 key") from error
    return derive(shared, b"fedtags pair 1\0" + canonical([agreement, sorted(members)]))


def derive(key: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(key)


def uniform_words(key: bytes, count: int, modulus: int) -> NDArray[np.int64]:
    """`count` words uniform in [0, modulus), modulus <= 2**48, from AES-256-CTR under `key`.

    `key` must serve for one vector only: the counter starts at zero.
    """
    if not 1 < modulus <= WORD_LIMIT:
        raise ValueError("the modulus must be in (1, 2**48]")
    limit = WORD_LIMIT - WORD_LIMIT % modulus
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor()
    found: list[NDArray[np.int64]] = []
    missing = count
    while missing > 0:
        raw = np.frombuffer(stream.update(bytes(WORD_BYTES * missing)), dtype=np.uint8)
        words = np.zeros((missing, 8), dtype=np.uint8)
        words[:, :WORD_BYTES] = raw.reshape(missing, WORD_BYTES)
        values = words.view("<i8").reshape(missing)
        kept = values[values < limit] % modulus
        found.append(kept)
        missing -= len(kept)
    return np.concatenate(found)


def mask(
    me: str, pair_keys: Mapping[str, bytes], label: MaskLabel, count: int, modulus: int
) -> NDArray[np.int64]:
    """The sum mod `modulus` of this member's pairwise masks: added towards later names,
    subtracted towards earlier ones, so that all members' masks sum to zero."""
    total = np.zeros(count, dtype=np.int64)
    for peer in sorted(pair_keys):
        words = uniform_words(derive(pair_keys[peer], label.info()), count, modulus)
        total = (total + (words if me < peer else modulus - words)) % modulus
    return total
