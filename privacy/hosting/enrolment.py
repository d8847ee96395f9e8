"""What a partner and a coordinator exchange to enrol: the invite file and the API's bodies.

Keys travel as hex (Ed25519, 32 bytes); fingerprints are `privacy.identity.fingerprint`.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privacy.errors import ConfigError
from privacy.identity import PARTY_PATTERN, fingerprint, write_secret

PartyName = Annotated[str, Field(pattern=PARTY_PATTERN)]
PublicKeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class WireModel(BaseModel):
    """Frozen, and an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NamedKey(WireModel):
    """A name and the public key that belongs to it."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{0,62}$")]
    public_key: PublicKeyHex

    @property
    def fingerprint(self) -> str:
        """What operators compare out of band."""
        return fingerprint(bytes.fromhex(self.public_key))


class Invite(WireModel):
    """The invite file. It holds a one-time token, so it is as secret as a password until used."""

    format: Literal[1] = 1
    federation: str
    party: PartyName
    control_url: str
    superlink: str
    ca_certificate: str
    token: Annotated[str, Field(min_length=32, max_length=128)]
    coordinator_public_key: PublicKeyHex
    coordinator_fingerprint: str
    requesters: tuple[NamedKey, ...]
    expires_at: datetime

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if fingerprint(bytes.fromhex(self.coordinator_public_key)) != self.coordinator_fingerprint:
            raise ValueError("the coordinator's fingerprint is not that of its public key")
        return self

    def write(self, path: Path) -> None:
        """Create `path` with mode 0600. Raises ConfigError if it already exists."""
        write_secret(path, self.model_dump_json(indent=2).encode() + b"\n")


def read_invite(path: Path) -> Invite:
    """Read an invite file. Raises ConfigError saying what is wrong, never a value of it."""
    try:
        return Invite.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise ConfigError(
            f"invite file {path} cannot be read ({error.strerror}); check the path"
        ) from error
    except (ValidationError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a valid invite file; ask the coordinator for a new one"
        ) from error


class EnrolmentRequest(WireModel):
    """A party asks to enrol. The request as a whole is signed with the key it names."""

    token: Annotated[str, Field(min_length=32, max_length=128)]
    party: PartyName
    public_key: PublicKeyHex
    supernode_public_key: Annotated[str, Field(min_length=32, max_length=512)]


class Federation(WireModel):
    """What an enrolled party may know: the federation's name and every member's public key."""

    federation: str
    members: tuple[NamedKey, ...]
