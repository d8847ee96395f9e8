"""The container of an evidence pack: a ZIP file that has exactly one form.

Any unzip program opens it. Parts are stored, not compressed, in a given order, with constant times
and modes, so that the same parts are the same bytes whatever software made them; `unpack` accepts
that one form only. Hostile bytes cost no more than their length: nothing is decompressed.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Mapping

from privacy.errors import EvidenceError

ARCHIVE = "archive"
MAX_BYTES = 64 * 1024 * 1024
MAX_PARTS = 64
_NAME = re.compile(r"^[a-z0-9][a-z0-9.-]{0,63}$")
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_MAGIC = b"PK\x03\x04"
_DAY = (1980, 1, 1, 0, 0, 0)  # the first that a ZIP file can say


def pack(parts: Mapping[str, bytes]) -> bytes:
    """The archive of `parts`, in their order. Raises EvidenceError if it would be too large."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name, data in parts.items():
            if _NAME.match(name) is None:
                raise EvidenceError(ARCHIVE, "the name of a part is outside its alphabet")
            entry = zipfile.ZipInfo(name, _DAY)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, data)
    packed = buffer.getvalue()
    if len(packed) > MAX_BYTES:
        raise EvidenceError(ARCHIVE, f"a pack holds at most {MAX_BYTES} bytes")
    return packed


def unpack(data: bytes) -> dict[str, bytes]:
    """The parts of an archive, in their order, before anything is known of their content.

    Raises EvidenceError if the parts cannot be told from each other. Only `check_form`, called
    once the parts themselves are verified, says that the container is in its one form.
    """
    if len(data) > MAX_BYTES:
        raise EvidenceError(ARCHIVE, f"a pack holds at most {MAX_BYTES} bytes")
    parts: dict[str, bytes] = {}
    at = 0
    while data[at : at + 4] == _LOCAL_MAGIC and len(parts) < MAX_PARTS:
        if at + _LOCAL.size > len(data):
            raise _not_one()
        fields = _LOCAL.unpack_from(data, at)
        packed, size, name_bytes, extra = fields[7:]
        start = at + _LOCAL.size + name_bytes
        name = data[at + _LOCAL.size : start].decode("latin-1")
        sound = packed == size and not extra and _NAME.match(name) and start + size <= len(data)
        if not sound or name in parts:
            raise _not_one()
        parts[name] = data[start : start + size]
        at = start + size
    if not parts:
        raise _not_one()
    return parts


def check_form(data: bytes, parts: Mapping[str, bytes]) -> None:
    """Raise EvidenceError unless `data` is, byte for byte, the archive of `parts`."""
    if pack(parts) != data:
        raise _not_one()


def _not_one() -> EvidenceError:
    return EvidenceError(
        ARCHIVE, "the file is not an evidence pack in its one form: it was changed, cut or added to"
    )
