"""The federation's manifest: signed by all its members, kept by each, verified without anybody."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from party_client.manifest_file import keep_manifest, read_manifest
from privacy.errors import ConfigError, SignatureError
from privacy.identity import SigningKey
from privacy.manifest import FederationManifest

KEYS = {name: SigningKey.generate() for name in ("bank", "retailer", "shop")}
MEMBERS = {name: key.public for name, key in KEYS.items()}
MANIFEST = FederationManifest("market", MEMBERS)


def signed(manifest: FederationManifest = MANIFEST) -> dict[str, bytes]:
    return {name: manifest.sign(KEYS[name]) for name in manifest.members}


def test_a_manifest_that_all_members_signed_is_accepted() -> None:
    MANIFEST.verify(signed())


@pytest.mark.parametrize(
    "other",
    [
        FederationManifest("another market", MEMBERS),
        FederationManifest("market", MEMBERS | {"shop": KEYS["bank"].public}),
        FederationManifest("market", {name: MEMBERS[name] for name in ("bank", "shop")}),
        FederationManifest("market", MEMBERS | {"airline": bytes(32)}),
    ],
)
def test_a_signature_of_another_manifest_does_not_count(other: FederationManifest) -> None:
    signatures = signed() | {"shop": other.sign(KEYS["shop"])}
    with pytest.raises(SignatureError, match="shop has signed another manifest"):
        MANIFEST.verify(signatures)


@pytest.mark.parametrize("change", [{"stranger": bytes(64)}, None])
def test_exactly_the_members_sign(change: dict[str, bytes] | None) -> None:
    signatures = signed() | (change or {})
    if change is None:
        del signatures["shop"]
    with pytest.raises(SignatureError, match="exactly its members"):
        MANIFEST.verify(signatures)


def test_a_manifest_signature_serves_for_nothing_else() -> None:
    content = MANIFEST._content().split(b"\0", 1)[1]
    with pytest.raises(SignatureError):
        MANIFEST.verify(signed() | {"bank": KEYS["bank"].sign(content)})


def test_the_file_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert read_manifest(path) is None
    keep_manifest(path, MANIFEST, signed())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_manifest(path) == MANIFEST
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_only_by_a_manifest_that_says_something_new(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    keep_manifest(path, MANIFEST, signed())
    before = path.read_bytes()
    smaller = FederationManifest("market", {name: MEMBERS[name] for name in ("bank", "shop")})
    keep_manifest(path, smaller, signed(smaller))
    assert path.read_bytes() == before
    KEYS["shop-2"] = SigningKey.generate()
    larger = FederationManifest("market", MEMBERS | {"shop-2": KEYS["shop-2"].public})
    keep_manifest(path, larger, signed(larger))
    assert read_manifest(path) == larger
    keep_manifest(path, FederationManifest("other", MEMBERS), signed())
    with pytest.raises(ConfigError, match="not signed by its members"):
        read_manifest(path)


@pytest.mark.parametrize("damage", ["bytes", "signature", "key", "field"])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "manifest.json"
    keep_manifest(path, MANIFEST, signed())
    content = json.loads(path.read_bytes())
    if damage == "bytes":
        path.write_bytes(b"{")
    else:
        if damage == "signature":
            content["members"]["bank"]["signature"] = "00" * 64
        elif damage == "key":
            content["members"]["bank"]["public_key"] = "00" * 32
        else:
            content["members"]["bank"]["note"] = ""
        path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="delete it: the next run writes it again"):
        read_manifest(path)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        keep_manifest(tmp_path / "none" / "manifest.json", MANIFEST, signed())
