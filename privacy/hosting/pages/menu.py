"""The menu: which pages there are, in which order, and which permission opens each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Entry:
    """One page. `permission` None: everybody who is signed in."""

    path: str
    title: str
    permission: StrEnum | None


Group = tuple[str, tuple[Entry, ...]]


def menu_for(
    menu: Sequence[Group], may: Callable[[StrEnum], bool], say: Callable[[str], str]
) -> list[tuple[str, list[Entry]]]:
    """The groups and pages that somebody may open, titles translated."""
    groups = []
    for title, entries in menu:
        open_ones = [
            Entry(one.path, say(one.title), one.permission)
            for one in entries
            if one.permission is None or may(one.permission)
        ]
        if open_ones:
            groups.append((say(title), open_ones))
    return groups
