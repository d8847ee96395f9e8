"""What one page hands to the next without an address or a disk knowing it.

A customer's id must not stand in an address (browsers, proxies and logs keep those), so a search is
a POST that leads to a page under a random handle. In memory only: a restart forgets all.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

KEPT_S = 30 * 60
MOST = 2000


class Kept:
    """Values by random handle, each for one session only, for KEPT_S seconds, at most MOST."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._values: OrderedDict[tuple[str, str], tuple[float, object]] = OrderedDict()

    def keep(self, session: str, value: object) -> str:
        """Keep `value`; returns its handle, 128 random bits."""
        handle = secrets.token_urlsafe(16)
        with self._lock:
            self._forget_old()
            self._values[session, handle] = (self._clock(), value)
            while len(self._values) > MOST:
                self._values.popitem(last=False)
        return handle

    def find(self, session: str, handle: str) -> object | None:
        """The value, or None for a handle that is unknown, another session's, or too old."""
        with self._lock:
            self._forget_old()
            found = self._values.get((session, handle))
        return None if found is None else found[1]

    def take(self, session: str, handle: str) -> object | None:
        """As `find`, and never again."""
        with self._lock:
            self._forget_old()
            found = self._values.pop((session, handle), None)
        return None if found is None else found[1]

    def _forget_old(self) -> None:
        oldest = self._clock() - KEPT_S
        while self._values and next(iter(self._values.values()))[0] < oldest:
            self._values.popitem(last=False)
