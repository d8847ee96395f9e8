"""The one doorway to TenSEAL: BFV over a run key that only the parties share.

N = 4096 slots, coefficient moduli [60, 49] bits (109 bits: 128-bit security by the
HomomorphicEncryption.org standard), plain modulus t = 281474976694273 (prime, 1 mod 8192, just
below 2**48), symmetric keys. Fifteen additions leave several bits of noise budget. Plaintexts
are uniformly masked (`privacy.masking`) before they come here, so a key holder who sees one
party's ciphertext learns nothing; encryption keeps the sum from the coordinator.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import tenseal as ts
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from privacy.errors import ProtocolError

SLOTS = 4096
MODULUS = 281474976694273
COEFFICIENT_BITS = (60, 49)
# TenSEAL's protobuf of one 4096-slot ciphertext: field 1 (packed sizes) = 4096, field 2 = SEAL's
# bytes, which start with SEAL's own 16-byte header (magic, version 4.x, zstd, length). TenSEAL
# reads past its heap on forged sizes, so both are compared before it sees a byte.
_PROTOBUF_PREFIX = bytes.fromhex("0a02802012fb8004")
_SEAL_HEADER = bytes.fromhex("5ea1100403020000") + (65659).to_bytes(8, "little")
# A key is some 62 kB; its length varies a little, because SEAL compresses it.
MAX_KEY_BYTES = 128 * 1024
CIPHERTEXT_BYTES = len(_PROTOBUF_PREFIX) + 65659


def _check(ciphertext: bytes) -> None:
    if len(ciphertext) != CIPHERTEXT_BYTES or not ciphertext.startswith(
        _PROTOBUF_PREFIX + _SEAL_HEADER
    ):
        raise ProtocolError("a ciphertext does not have the one form this protocol allows")


class RunKey:
    """The parties' shared BFV key of one run. Only parties hold one; it is dropped with the run."""

    def __init__(self, context: ts.Context) -> None:
        self._context = context

    @classmethod
    def generate(cls) -> RunKey:
        """A fresh key; SEAL draws it from the operating system."""
        return cls(
            ts.context(
                ts.SCHEME_TYPE.BFV,
                SLOTS,
                MODULUS,
                list(COEFFICIENT_BITS),
                encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> RunKey:
        """Read `to_bytes`. Raises ProtocolError if it is not a key of these parameters, which is
        compared before SEAL parses a byte: the lead that sent it may be hostile."""
        if len(data) > MAX_KEY_BYTES or not data.startswith(_parameters()):
            raise ProtocolError("the run key is not one of this protocol's parameters")
        try:
            context = ts.context_from(data)
        except (ValueError, RuntimeError) as error:
            raise ProtocolError("the run key cannot be read") from error
        if not context.is_private():
            raise ProtocolError("the run key holds no secret part")
        return cls(context)

    def to_bytes(self) -> bytes:
        """The secret key and its parameters; leaves a party only under `seal_to`."""
        return bytes(
            self._context.serialize(
                save_public_key=False,
                save_secret_key=True,
                save_galois_keys=False,
                save_relin_keys=False,
            )
        )

    def encrypt(self, residues: NDArray[np.int64]) -> bytes:
        """Encrypt SLOTS residues modulo MODULUS; always CIPHERTEXT_BYTES long."""
        if residues.shape != (SLOTS,):
            raise ValueError(f"a ciphertext holds exactly {SLOTS} residues")
        ciphertext = bytes(ts.bfv_vector(self._context, residues.tolist()).serialize())
        _check(ciphertext)
        return ciphertext

    def decrypt(self, ciphertext: bytes) -> NDArray[np.int64]:
        """The SLOTS residues, each in [0, MODULUS). Raises ProtocolError on a malformed one."""
        _check(ciphertext)
        try:
            opened = ts.bfv_vector_from(self._context, ciphertext).decrypt()
        except (ValueError, RuntimeError) as error:
            raise ProtocolError("a ciphertext cannot be read") from error
        residues: NDArray[np.int64] = np.asarray(opened, dtype=np.int64) % MODULUS
        if residues.shape != (SLOTS,):
            raise ProtocolError(f"a ciphertext does not hold {SLOTS} residues")
        return residues


def keyless_context() -> ts.Context:
    """Parameters only: what the coordinator adds ciphertexts with. It can open nothing."""
    return ts.context_from(_keyless_bytes())


@lru_cache(maxsize=1)
def _keyless_bytes() -> bytes:
    context = RunKey.generate()._context
    return bytes(
        context.serialize(
            save_public_key=False,
            save_secret_key=False,
            save_galois_keys=False,
            save_relin_keys=False,
        )
    )


def _parameters() -> bytes:
    """The bytes that every context of these parameters starts with: TenSEAL's protobuf field 1,
    which holds SEAL's parameters (one byte of tag, one of length, then they)."""
    keyless = _keyless_bytes()
    return keyless[: 2 + keyless[1]]


def add(context: ts.Context, ciphertexts: Sequence[bytes]) -> bytes:
    """The encrypted sum. Raises ProtocolError on a malformed ciphertext."""
    if not ciphertexts:
        raise ProtocolError("there is nothing to add")
    for ciphertext in ciphertexts:
        _check(ciphertext)
    try:
        total = ts.bfv_vector_from(context, ciphertexts[0])
        for ciphertext in ciphertexts[1:]:
            total += ts.bfv_vector_from(context, ciphertext)
        return bytes(total.serialize())
    except (ValueError, RuntimeError) as error:
        raise ProtocolError("a ciphertext cannot be read") from error


_NONCE = bytes(12)  # every sealing key is derived for one message and used once


def seal_to(key: bytes, secret: bytes, associated: bytes) -> bytes:
    """ChaCha20-Poly1305 under a key that is derived for this one message."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, secret, associated)


def open_sealed(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Undo `seal_to`. Raises ProtocolError if the bytes are not what the key's holder sealed."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, associated)
    except (InvalidTag, ValueError) as error:
        raise ProtocolError(
            "a sealed key does not open: it was altered or is not for us"
        ) from error


def confirmation_tag(run_key: bytes, agreement: bytes, party: str) -> bytes:
    """HMAC-SHA256 that proves `party` holds `run_key` within this key agreement."""
    tag_key = hashlib.sha256(b"fedtags confirm 1\0" + run_key).digest()
    return hmac.new(tag_key, agreement + party.encode(), hashlib.sha256).digest()
