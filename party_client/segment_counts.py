"""How many customers have each value of each tag, small counts withheld.

The counts of one purpose are kept for half a minute: a page that is loaded again must not group a
whole store again, and two looks around one customer's change often show the same.
"""

from __future__ import annotations

import threading
import time

from models.tag_catalogue import Catalogue, CatalogueTag
from party_client.desk_views import SegmentView
from party_client.profile_store import ProfileStore
from party_client.withholding import withheld

KEPT_SECONDS = 30.0


class SegmentCounts:
    """Counts over one store. Safe between threads; one thread counts, others wait for it."""

    def __init__(self, store: ProfileStore, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, list[SegmentView]]] = {}

    def of(self, purpose: str) -> list[SegmentView]:
        """Every value of every tag that may be read for `purpose`, in the catalogue's order."""
        with self._lock:
            counted_at, found = self._kept.get(purpose, (0.0, []))
            if not found or time.monotonic() - counted_at > KEPT_SECONDS:
                found = self._count(purpose)
                self._kept[purpose] = (time.monotonic(), found)
            return list(found)

    def forget(self) -> None:
        """Count anew at the next question."""
        with self._lock:
            self._kept.clear()

    def _count(self, purpose: str) -> list[SegmentView]:
        counts: dict[str, dict[str, int]] = {}
        for one in self._store.segments(purpose=purpose):
            counts.setdefault(one.tag, {})[one.value] = one.count
        return [
            view
            for tag in self._catalogue.tags
            if tag.readable and purpose in tag.purposes
            for view in _views(tag, counts.get(tag.name, {}), purpose)
        ]


def _views(tag: CatalogueTag, counts: dict[str, int], purpose: str) -> list[SegmentView]:
    # A value that nobody has is listed like one that few have.
    shown = withheld(dict.fromkeys(tag.values, 0) | counts)
    return [
        SegmentView(
            tag=tag.name,
            display_name=tag.display_name,
            display_name_zh=tag.display_name_zh,
            dimension=tag.dimension,
            value=value,
            value_zh=tag.value_zh(value),
            purpose=purpose,
            customers=count,
        )
        for value, count in shown.items()
        # A free text that few have may itself name them.
        if count is not None or value in tag.values
    ]
