"""Where the next page of a list begins. Opaque to whoever sends it back."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any

from privacy.errors import ConfigError

MOST_CHARACTERS = 400


def of_place(made: datetime, name: str) -> str:
    """After the one made at this time with this name."""
    return _wrap([made.astimezone(UTC).isoformat(), name])


def place_of(cursor: str | None) -> tuple[datetime, str] | None:
    """What `of_place` was given; None for the first page. Raises ConfigError."""
    if cursor is None:
        return None
    found = _unwrap(cursor)
    if isinstance(found, list) and len(found) == 2 and all(isinstance(one, str) for one in found):
        try:
            made = datetime.fromisoformat(found[0])
        except ValueError:
            raise _wrong() from None
        if made.tzinfo is not None and "\0" not in found[1]:
            return made, found[1]
    raise _wrong()


def of_name(name: str) -> str:
    """After the one of this name."""
    return _wrap(name)


def name_of(cursor: str | None) -> str | None:
    """What `of_name` was given; None for the first page. Raises ConfigError."""
    found = None if cursor is None else _unwrap(cursor)
    if found is None and cursor is None:
        return None
    if not isinstance(found, str):
        raise _wrong()
    return found


def of_number(number: int) -> str:
    """Before the one of this number."""
    return _wrap(number)


def number_of(cursor: str | None) -> int | None:
    """What `of_number` was given; None for the first page. Raises ConfigError."""
    if cursor is None:
        return None
    found = _unwrap(cursor)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**53:
        raise _wrong()
    return found


def _wrap(value: object) -> str:
    text = json.dumps(value, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _unwrap(cursor: str) -> Any:
    if len(cursor) > MOST_CHARACTERS:
        raise _wrong()
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _wrong() from None


def _wrong() -> ConfigError:
    return ConfigError("cursor: not one that a page's `next` gave; begin with the first page")
