"""A file under a passphrase: encrypted, and either read whole as it was written or not at all.

    file   = "fedtags backup 1\\n" || salt (16) || chunk 0 || chunk 1 || ...
    chunk  = AES-256-GCM of 1 MiB, of less in the last one, with a tag of 16 bytes
    nonce  = number of the chunk (8 bytes, big-endian) || 1 for the last chunk, else 0 (4 bytes)
    key    = scrypt(passphrase, salt, N = 2**17, r = 8, p = 1): 128 MiB and some tenths of a second

The beginning is each chunk's associated data, so chunks cannot be moved, dropped, or taken from
another file, and the last one cannot be cut off. The construction is STREAM (Hoang, Reyhanitabar,
Rogaway, Vizar 2015).
"""

from __future__ import annotations

import io
import os
import secrets
import stat
import struct
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from privacy.errors import ConfigError

MAGIC = b"fedtags backup 1\n"
CHUNK_BYTES = 1 << 20
SALT_BYTES = 16
TAG_BYTES = 16
MIN_PASSPHRASE_BYTES = 16
_NONCE = struct.Struct(">QI")


def read_passphrase(path: Path) -> bytes:
    """The first line of `path`. Raises ConfigError if it is short, missing or open to others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            line = file.readline(4096).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    if stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path} is open to other users; run chmod 600 on it")
    if len(line) < MIN_PASSPHRASE_BYTES:
        raise ConfigError(
            f"{path}: a passphrase has at least {MIN_PASSPHRASE_BYTES} bytes: whoever has the "
            "backup can try as many as he likes. Let a machine make it: openssl rand -base64 24"
        )
    return line


class SealedWriter:
    """Writes to `target`; what was not finished cannot be read."""

    def __init__(self, target: IO[bytes], passphrase: bytes) -> None:
        salt = secrets.token_bytes(SALT_BYTES)
        self._target = target
        self._beginning = MAGIC + salt
        self._cipher = _cipher(passphrase, salt)
        self._waiting = bytearray()
        self._number = 0
        target.write(self._beginning)

    def write(self, data: bytes) -> int:
        """Add `data`. Raises OSError as `target` does."""
        self._waiting += data
        while len(self._waiting) > CHUNK_BYTES:  # the last chunk is not known until `finish`
            self._seal(bytes(self._waiting[:CHUNK_BYTES]), last=False)
            del self._waiting[:CHUNK_BYTES]
        return len(data)

    def finish(self) -> None:
        """Write what is left; nothing may follow."""
        self._seal(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        nonce = _NONCE.pack(self._number, last)
        self._target.write(self._cipher.encrypt(nonce, chunk, self._beginning))
        self._number += 1


class SealedReader(io.RawIOBase):
    """Reads what SealedWriter wrote. Nothing comes out that was not verified.

    Raises ConfigError, on opening or while reading, for a wrong passphrase and for a file that was
    altered or cut off; only one that was read to its end is known to be whole.
    """

    def __init__(self, source: IO[bytes], passphrase: bytes) -> None:
        self._source = source
        self._beginning = source.read(len(MAGIC) + SALT_BYTES)
        if not self._beginning.startswith(MAGIC) or len(self._beginning) != (
            len(MAGIC) + SALT_BYTES
        ):
            raise ConfigError("this is no backup of this version; the command `backup` makes one")
        self._cipher = _cipher(passphrase, self._beginning[len(MAGIC) :])
        self._next = source.read(CHUNK_BYTES + TAG_BYTES)
        self._number = 0
        self._ended = False
        self._open = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """As io.RawIOBase; 0 at the end."""
        while not self._open and not self._ended:
            self._open_chunk()
        count = min(len(buffer), len(self._open))
        buffer[:count] = self._open[:count]
        self._open = self._open[count:]
        return count

    def _open_chunk(self) -> None:
        sealed, self._next = self._next, self._source.read(CHUNK_BYTES + TAG_BYTES)
        self._ended = not self._next
        nonce = _NONCE.pack(self._number, self._ended)
        try:
            self._open = memoryview(self._cipher.decrypt(nonce, sealed, self._beginning))
        except (InvalidTag, ValueError) as error:
            raise ConfigError(
                "the backup does not open: the passphrase is another, or the file was altered or "
                "cut off; nothing was written"
            ) from error
        self._number += 1


def _cipher(passphrase: bytes, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, n=2**17, r=8, p=1).derive(passphrase))
