"""Writes the Flower app bundle that the coordinator submits."""

from __future__ import annotations

import hashlib
from pathlib import Path

from privacy.hosting.bundle import bundle_bytes


def build_bundle(target: Path) -> str:
    """Write the bundle to `target`, the same bytes each time; return its SHA-256 in hex."""
    data = bundle_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
