"""Sealing single values of a database: AES-256-GCM, or SM4-GCM, under keys derived from one secret.

A sealed value is
`format (1 byte) | cipher (1) | key id (4) | nonce (12) | ciphertext | tag (16)`,
so that values of two ciphers, or of two secrets, can lie in one column while it changes over. The
associated data are those first six bytes, the table, the column and the row's key: a value that is
moved to another place does not open. Each column has its own key by HKDF-SHA256 (RFC 5869).

Nonces are random, so one column's key may seal at most 2^32 values (NIST SP 800-38D, 8.3), which
keeps the probability of a repeated nonce below 2^-32; a column that seals a value once for each of
its rows stays far below. SM4 (GB/T 32907, RFC 8998) has a key of 128 bits: fewer than AES-256.

A sealed value hides a text but not its length, and not that two rows exist.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import SM4
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import ConfigError, StoreError

CipherName = Literal["aes-256-gcm", "sm4-gcm"]
SECRET_BYTES = 32
INDEX_BYTES = 16
MAX_VALUES = 2**32  # sealed under one column's key; see above
_FORMAT = 1
_NUMBERS: dict[CipherName, int] = {"aes-256-gcm": 1, "sm4-gcm": 2}
_NAMES = {number: name for name, number in _NUMBERS.items()}
_KEY_BYTES: dict[CipherName, int] = {"aes-256-gcm": 32, "sm4-gcm": 16}
_ID_BYTES, _NONCE_BYTES, _TAG_BYTES = 4, 12, 16
_HEADER_BYTES = 2 + _ID_BYTES
_LEAST_BYTES = _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes: ...


class _Sm4Gcm:
    """SM4 in Galois/Counter mode, with AESGCM's interface."""

    def __init__(self, key: bytes) -> None:
        self._algorithm = SM4(key)

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        encryptor = Cipher(self._algorithm, modes.GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(associated_data)
        return encryptor.update(data) + encryptor.finalize() + encryptor.tag

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        mode = modes.GCM(nonce, data[-_TAG_BYTES:], min_tag_length=_TAG_BYTES)
        decryptor = Cipher(self._algorithm, mode).decryptor()
        decryptor.authenticate_additional_data(associated_data)
        return decryptor.update(data[:-_TAG_BYTES]) + decryptor.finalize()


class Column:
    """One sealed column. Values are sealed with the newest secret and the chosen cipher; those of
    any other cipher, or of an older secret that was given, open as well."""

    def __init__(self, place: str, cipher: CipherName, secrets: tuple[bytes, ...]) -> None:
        self._place = place
        self._bound = place.encode() + b"\0"
        self._aeads: dict[bytes, _Aead] = {}
        self._secrets = {_key_id(secret): secret for secret in secrets}
        self._header = bytes([_FORMAT, _NUMBERS[cipher]]) + _key_id(secrets[0])
        try:
            self._aead(self._header).encrypt(bytes(_NONCE_BYTES), b"", b"")
        except UnsupportedAlgorithm as error:
            raise ConfigError(
                f"cipher: the installed `cryptography` cannot do {cipher}; choose aes-256-gcm"
            ) from error

    def seal(self, row: bytes, text: str) -> bytes:
        """`text`, sealed for the row with this key (any bytes that name the row)."""
        nonce = os.urandom(_NONCE_BYTES)
        bound = self._header + self._bound + row
        return self._header + nonce + self._aead(self._header).encrypt(nonce, text.encode(), bound)

    def seal_all(self, rows: Iterable[tuple[bytes, str]]) -> list[tuple[bytes, bytes]]:
        """(row's key, sealed text) of each (row's key, text)."""
        return [(row, self.seal(row, text)) for row, text in rows]

    def open(self, row: bytes, sealed: bytes) -> str:
        """What was sealed for this row. Raises StoreError for any other bytes."""
        header = bytes(sealed[:_HEADER_BYTES])
        if len(sealed) < _LEAST_BYTES or header[0] != _FORMAT or header[1] not in _NAMES:
            raise StoreError(
                f"column {self._place}: a value is not in a form that this version of fedtags "
                "seals; restore the database from a backup, or install the version that wrote it"
            )
        if header[2:] not in self._secrets:
            raise StoreError(
                f"column {self._place}: a value was sealed under another secret; put back the key "
                "file that belongs to this database, from the same backup"
            )
        start = _HEADER_BYTES + _NONCE_BYTES
        try:
            plain = self._aead(header).decrypt(
                bytes(sealed[_HEADER_BYTES:start]),
                bytes(sealed[start:]),
                header + self._bound + row,
            )
            return plain.decode()
        except (InvalidTag, UnicodeDecodeError) as error:
            raise StoreError(
                f"column {self._place}: a sealed value was altered or moved since it was written; "
                "restore the database from a backup"
            ) from error

    def _aead(self, header: bytes) -> _Aead:
        found = self._aeads.get(header)
        if found is None:
            name = _NAMES[header[1]]
            info = b"fedtags sealed column 1\0" + name.encode() + b"\0" + self._place.encode()
            key = _derived(self._secrets[header[2:]], info, _KEY_BYTES[name])
            found = self._aeads[header] = AESGCM(key) if name == "aes-256-gcm" else _Sm4Gcm(key)
        return found


@dataclass(frozen=True, repr=False)
class Sealing:
    """What is derived from a secret of 32 bytes. `older`: secrets whose values still open."""

    secret: bytes
    cipher: CipherName = "aes-256-gcm"
    older: tuple[bytes, ...] = ()

    def column(self, table: str, column: str) -> Column:
        """Seals and opens the values of one column."""
        return Column(f"{table}.{column}", self.cipher, (self.secret, *self.older))

    def index(self, name: str) -> Index:
        """Keys by which rows are found again without their text. Only for the newest secret."""
        return Index(_derived(self.secret, b"fedtags index 1\0" + name.encode(), SECRET_BYTES))

    @property
    def check(self) -> bytes:
        """16 bytes that tell this secret from any other, and nothing else about it."""
        return _derived(self.secret, b"fedtags key check 1", INDEX_BYTES)


class Index:
    """HMAC-SHA256, cut to 128 bits: the same text has the same key, which does not give it away."""

    def __init__(self, key: bytes) -> None:
        self._begun = hmac.new(key, digestmod=hashlib.sha256)

    def key(self, text: str) -> bytes:
        """16 bytes for `text`."""
        started = self._begun.copy()
        started.update(text.encode())
        return started.digest()[:INDEX_BYTES]


def _key_id(secret: bytes) -> bytes:
    return _derived(secret, b"fedtags key id 1", _ID_BYTES)


def _derived(secret: bytes, info: bytes, length: int) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"a secret that seals has {SECRET_BYTES} bytes")
    return HKDF(SHA256(), length, salt=None, info=info).derive(secret)
