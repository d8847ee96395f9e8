"""The Flower app bundle: the same bytes on every machine that has this version of fedtags.

The coordinator submits it, Flower carries it to the parties, and a party runs nothing but the
bundle whose hash its own installation gives. Written here, without Flower, because both sides need
it: an uncompressed zip with a fixed date, and a manifest of hashes in `.info/CONTENT`.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from importlib.resources import files

from privacy.errors import ConfigError

# Flower's manifest starts with pyproject.toml; the others follow by name.
BUNDLE_FILES = ("pyproject.toml", "LICENSE", "client_app.py", "server_app.py")
_DATE = (2024, 10, 1, 0, 0, 0)


def bundle_bytes() -> bytes:
    """The bundle of this installation. Raises ConfigError if the installation lacks its files."""
    buffer = io.BytesIO()
    manifest = []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in BUNDLE_FILES:
            try:
                content = (files("coordinator") / "flower_app" / name).read_bytes()
            except (OSError, ModuleNotFoundError) as error:
                raise ConfigError(
                    f"this installation lacks flower_app/{name}; install fedtags again"
                ) from error
            digest = hashlib.sha256(content).hexdigest()
            manifest.append(f"{name},{digest},{8 * len(content)}")
            archive.writestr(_entry(name), content)
        archive.writestr(_entry(".info/CONTENT"), "\n".join(manifest))
    return buffer.getvalue()


def bundle_hash() -> str:
    """SHA-256 of the bundle in hex: what both sides print and a party's runner insists on."""
    return hashlib.sha256(bundle_bytes()).hexdigest()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system = 3  # not the building machine's
    entry.external_attr = 0o644 << 16
    return entry
