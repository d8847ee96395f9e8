"""Readiness for whoever asks without signing in: it must cost next to nothing to answer.

Verifying the ledger and the egress log takes longer the longer they are. So what was found holds
until a file changes, and for TRUSTED_S at most: a file that was altered without a trace in its
size and times is found then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from party_client import metrics
from party_client.settings import PartySettings

TRUSTED_S = 300.0

_Marks = tuple[tuple[int, ...] | None, ...]


class Readiness:
    """What is missing before a node can take part in a run. Safe between threads; one verifies at
    a time, and the others wait for what it finds."""

    def __init__(self, settings: PartySettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._found: tuple[_Marks, float, Mapping[str, bool]] | None = None

    def missing(self) -> list[str]:
        """Each thing in words; empty: nothing. The files' part may be TRUSTED_S old."""
        return metrics.missing(self._settings, self._files())

    def _files(self) -> Mapping[str, bool]:
        with self._lock:
            marks = self._marks()  # before the files are read: a change meanwhile shows next time
            now = time.monotonic()
            if self._found is not None:
                known, at, files = self._found
                if known == marks and now - at < TRUSTED_S:
                    return files
            files = metrics.sound_files(self._settings)
            self._found = (marks, now, files)
            return files

    def _marks(self) -> _Marks:
        found: list[tuple[int, ...] | None] = []
        for path in (self._settings.ledger, self._settings.egress):
            try:
                one = path.stat()
            except OSError:
                found.append(None)
                continue
            found.append((one.st_ino, one.st_size, one.st_mode, one.st_mtime_ns, one.st_ctime_ns))
        return tuple(found)
