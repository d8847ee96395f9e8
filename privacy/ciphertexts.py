"""What a ciphertext is, byte for byte: parameters and the one form that is read.

BFV of Microsoft SEAL 4 (through TenSEAL): N = 4096 slots, coefficient moduli of 60 and 49 bits
(109 bits: 128-bit security by the HomomorphicEncryption.org standard; only the first carries
data), plain modulus t = 281474976694273 (prime, 1 mod 8192, just below 2**48), symmetric keys.
32 additions leave two bits of noise budget.

A ciphertext is the file that SEAL saves: its header, one Zstandard frame with one raw block, and
in it SEAL's fields. Coefficients are uniform 60-bit numbers, which Zstandard leaves as they are, so
each form has one length and one beginning, to the last bit, whatever is encrypted. Both are
compared here before SEAL sees a byte; what is left to vary is coefficients and a seed. The files
of 5,000 ciphertexts that unpack to a gigabyte, sizes without a ciphertext and forged sizes are
refused by that.

This module knows neither NumPy nor TenSEAL: the child process (`privacy.encryption_worker`) starts
in 30 ms with it.
"""

from __future__ import annotations

import struct

from privacy.errors import ProtocolError

SLOTS = 4096
MODULUS = 281474976694273
COEFFICIENT_BITS = (60, 49)
# Additions that the noise budget admits, with a bit to spare.
MAX_PARTIES = 32
SLOT_BYTES = 8
CHUNK_BYTES = SLOTS * SLOT_BYTES

# SEAL's BLAKE2b hash of the parameters, without the second modulus.
_PARAMETERS = bytes.fromhex("35b6ff3e1b69c51c229527fb4051e42b0b45c4ba4917580689a2438b77b99be5")


def _header(compression: int, size: int) -> bytes:
    """SEAL's: magic, its own length, version 4.3, compression, the length with itself."""
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, compression, 0, size)


def _beginning(coefficients: int, rest: int) -> bytes:
    """All before the coefficients; `rest`: bytes after them."""
    fields = _PARAMETERS
    # In coefficient (not NTT) form, two polynomials, N, one modulus, scale, correction factor.
    fields += struct.pack("<?QQQdQ", False, 2, SLOTS, 1, 1.0, 1)
    fields += _header(0, 16 + 8 + 8 * coefficients) + struct.pack("<Q", coefficients)
    content = len(fields) + 8 * coefficients + rest
    # RFC 8878: one segment with its length in two bytes (less 256), the last block, raw.
    frame = bytes.fromhex("28b52ffd60") + struct.pack("<H", content - 256)
    frame += struct.pack("<I", content << 3 | 1)[:3]
    return _header(2, 16 + len(frame) + content) + frame + fields


# After a fresh ciphertext's first polynomial comes the seed of its second one: BLAKE2xb's.
_SEED_BYTES = 64
_SEED_BEGINNING = _header(0, 16 + 1 + _SEED_BYTES) + b"\1"
_SEED_AT = -len(_SEED_BEGINNING) - _SEED_BYTES
_UPLOAD_BEGINNING = _beginning(SLOTS, -_SEED_AT)
SUM_BEGINNING = _beginning(2 * SLOTS, 0)
# A fresh ciphertext, which a party uploads; and a sum of such, which every party gets.
CIPHERTEXT_BYTES = len(_UPLOAD_BEGINNING) + CHUNK_BYTES - _SEED_AT
SUM_BYTES = len(SUM_BEGINNING) + 2 * CHUNK_BYTES


def check_ciphertexts(data: bytes) -> int:
    """How many fresh ciphertexts `data` holds, one after the other. Raises ProtocolError if one
    does not have the one form, or if there is none."""
    count = _count(data, CIPHERTEXT_BYTES)
    for start in range(0, len(data), CIPHERTEXT_BYTES):
        seed = start + CIPHERTEXT_BYTES + _SEED_AT
        if not (
            data.startswith(_UPLOAD_BEGINNING, start) and data.startswith(_SEED_BEGINNING, seed)
        ):
            raise ProtocolError(_MALFORMED)
    return count


def check_sums(data: bytes) -> int:
    """How many sums `data` holds, one after the other. Raises ProtocolError if one does not have
    the one form, or if there is none."""
    count = _count(data, SUM_BYTES)
    if not all(data.startswith(SUM_BEGINNING, at) for at in range(0, len(data), SUM_BYTES)):
        raise ProtocolError(_MALFORMED)
    return count


_MALFORMED = (
    "a ciphertext does not have the one form that this protocol allows; every organisation must "
    "run the same version of fedtags and of TenSEAL"
)


def _count(data: bytes, size: int) -> int:
    if not data or len(data) % size:
        raise ProtocolError(_MALFORMED)
    return len(data) // size
