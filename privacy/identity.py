"""Ed25519 identities: keys on disk, fingerprints, signatures, and a requester's signed plan.

The primitives are those of `cryptography` (RFC 8032); nothing here is of our own making but the
domain-separation prefixes, which keep a signature made for one purpose from serving another.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.errors import ConfigError, ProtocolError, SignatureError

SIGNATURE_BYTES = 64
SECRET_BYTES = 32
PARTY_PATTERN = r"^[a-z][a-z0-9-]{0,30}$"
RUN_ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 private key. `public` is the 32-byte public key that others pin."""

    _private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's random source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a PKCS#8 PEM file. Raises ConfigError if it is missing or not an Ed25519 key."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"key file {path} cannot be read; restore it from backup or run init again"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"key file {path} does not hold an Ed25519 key")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write a PKCS#8 PEM file with mode 0600. An existing file is never overwritten."""
        data = self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_secret(path, data)

    def sign(self, data: bytes) -> bytes:
        """The 64-byte signature of `data`."""
        return self._private.sign(data)

    @property
    def public(self) -> bytes:
        """The raw 32-byte public key."""
        return self._private.public_key().public_bytes_raw()


def write_secret(path: Path, data: bytes) -> None:
    """Create `path` with mode 0600 and write `data`. Raises ConfigError if it already exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{path} already exists; it is never overwritten") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_secret(path: Path) -> bytes:
    """The 32 secret bytes in `path`. Raises ConfigError if it is missing or of another length."""
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); restore it from backup"
        ) from error
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"{path} does not hold {SECRET_BYTES} bytes; restore it from backup")
    return secret


def obtain_secret(path: Path) -> bytes:
    """The 32 secret bytes in `path`, made now if there is no file: of a home that is older than
    this secret. The caller makes sure that nothing was sealed under a lost one."""
    if not path.exists():
        write_secret(path, secrets.token_bytes(SECRET_BYTES))
    return read_secret(path)


def verify(public: bytes, signature: bytes, data: bytes) -> None:
    """Raise SignatureError unless `signature` is `public`'s signature of `data`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError("a signature does not verify under the pinned key") from error


def fingerprint(public: bytes) -> str:
    """What operators compare out of band: 80 bits of SHA-256 as five groups of four hex digits.

    Eighty bits stop a second preimage; a fingerprint pins a key that its owner read aloud, it is
    not a commitment that both sides could have chosen.
    """
    digest = hashlib.sha256(b"fedtags key 1\0" + public).hexdigest()
    return "-".join(digest[start : start + 4] for start in range(0, 20, 4))


def _plan_statement(run_id: str, source: bytes) -> bytes:
    if re.fullmatch(RUN_ID_PATTERN, run_id) is None:
        raise ProtocolError("a run id is 1 to 63 letters a-z, digits and hyphens")
    return b"fedtags plan 1\0" + run_id.encode() + b"\0" + source


def sign_plan(key: SigningKey, run_id: str, source: bytes) -> bytes:
    """A requester's signature: this key asks for one run, named `run_id`, of exactly this plan."""
    return key.sign(_plan_statement(run_id, source))


def verify_plan(public: bytes, signature: bytes, run_id: str, source: bytes) -> None:
    """Raise SignatureError unless `public` signed this plan for this run."""
    verify(public, signature, _plan_statement(run_id, source))
