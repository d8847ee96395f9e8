"""HOME/manifest.json: the federation's manifest with every member's signature, kept by this party.

Written once all members of a run have confirmed the run's key, unless it says as much already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from party_client.durable_file import replace_durably
from privacy.errors import ConfigError, SignatureError
from privacy.hosting.enrolment import PublicKeyHex, WireModel
from privacy.manifest import FederationManifest

SignatureHex = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class _Signed(WireModel):
    public_key: PublicKeyHex
    signature: SignatureHex


class _File(WireModel):
    federation: str
    members: Mapping[str, _Signed]


def read_manifest(path: Path) -> FederationManifest | None:
    """The manifest in `path`, every signature verified; None if there is no file yet.

    Raises ConfigError if it is damaged or a signature does not verify.
    """
    try:
        file = _File.model_validate(json.loads(path.read_bytes()))
        members = {name: bytes.fromhex(one.public_key) for name, one in file.members.items()}
        manifest = FederationManifest(file.federation, members)
        manifest.verify({name: bytes.fromhex(one.signature) for name, one in file.members.items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError, SignatureError) as error:
        raise ConfigError(
            f"{path} is damaged, or not signed by its members; restore it from backup, or delete "
            "it: the next run writes it again"
        ) from error
    return manifest


def keep_manifest(
    path: Path, manifest: FederationManifest, signatures: Mapping[str, bytes]
) -> None:
    """Write a manifest whose signatures have been verified, unless the file says as much already.

    Mode 0600; on the disk when this returns. Raises ConfigError if the file is damaged or cannot be
    written.
    """
    known = read_manifest(path)
    if known is not None and known.covers(manifest):
        return
    members = {
        name: _Signed(public_key=public.hex(), signature=signatures[name].hex())
        for name, public in sorted(manifest.members.items())
    }
    file = _File(federation=manifest.federation, members=members)
    try:
        replace_durably(path, file.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}); check its folder's permissions and free "
            "disk space"
        ) from error
