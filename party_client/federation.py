"""What a party has pinned of its federation: HOME/federation.json (mode 0600), written by join.

The coordinator is no root of trust: a member counts once this party's operator has confirmed its
key's fingerprint out of band, and a member's key never changes silently.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import ValidationError, model_validator

from privacy.errors import ConfigError, SignatureError
from privacy.hosting.enrolment import NamedKey, PublicKeyHex, WireModel
from privacy.identity import fingerprint

FEDERATION_NAME = "federation.json"


class PinnedCoordinator(WireModel):
    """Where the coordinator is and the key that signs its messages."""

    url: str
    superlink: str
    public_key: PublicKeyHex
    fingerprint: str


class Member(WireModel):
    """A member's key; `confirmed` once this party's operator has compared its fingerprint."""

    public_key: PublicKeyHex
    fingerprint: str
    confirmed: bool

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if fingerprint(bytes.fromhex(self.public_key)) != self.fingerprint:
            raise ValueError("a fingerprint is not that of its public key")
        return self


class PinnedFederation(WireModel):
    """The federation as this party has pinned it."""

    federation: str
    coordinator: PinnedCoordinator
    requesters: tuple[NamedKey, ...]
    members: Mapping[str, Member]

    @property
    def confirmed(self) -> dict[str, bytes]:
        """The public keys (32 bytes) of confirmed members by name; nobody else counts."""
        return {
            name: bytes.fromhex(member.public_key)
            for name, member in sorted(self.members.items())
            if member.confirmed
        }

    def with_members(self, offered: Mapping[str, bytes]) -> Self:
        """These members now: known ones as they were, new ones unconfirmed.

        Raises SignatureError, before anything changes, when a known member shows another key.
        """
        members = dict(self.members)
        for name, public_key in offered.items():
            known = members.get(name)
            if known is None:
                members[name] = Member(
                    public_key=public_key.hex(),
                    fingerprint=fingerprint(public_key),
                    confirmed=False,
                )
            elif known.public_key != public_key.hex():
                raise SignatureError(
                    f"member {name} shows another key ({fingerprint(public_key)}) than the pinned "
                    f"one ({known.fingerprint}); nothing was changed. Ask {name} directly, not "
                    "the coordinator: if the change is true, the federation enrols it under a "
                    "new name"
                )
        return self.model_copy(update={"members": members})

    def confirm(self, name: str) -> Self:
        """The same with member `name` confirmed."""
        member = self.members[name].model_copy(update={"confirmed": True})
        return self.model_copy(update={"members": {**self.members, name: member}})


def load_federation(home: Path) -> PinnedFederation:
    """Read HOME/federation.json. Raises ConfigError if this party has not joined."""
    path = home / FEDERATION_NAME
    try:
        return PinnedFederation.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist; join a federation first: fedtags-party join INVITE"
        ) from error
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigError(f"{path} is damaged; restore it from backup") from error


def save_federation(home: Path, federation: PinnedFederation) -> None:
    """Write HOME/federation.json with mode 0600, in one step."""
    path = home / FEDERATION_NAME
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(federation.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
