"""The menu: which pages there are, in which order, and which permission opens each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from party_client.console.languages import N_
from party_client.roles import Permission


@dataclass(frozen=True)
class Entry:
    """One page. `permission` None: everybody who is signed in."""

    path: str
    title: str
    permission: Permission | None


MENU: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        N_("Today"),
        (
            Entry("/", N_("Home"), None),
            Entry("/approvals", N_("Approvals"), Permission.SEE_PLANS),
        ),
    ),
    (
        N_("Customers"),
        (
            Entry("/customer", N_("Customer"), Permission.READ_CUSTOMER),
            Entry("/segments", N_("Segments"), Permission.COUNT_SEGMENTS),
            Entry("/catalogue", N_("Tag catalogue"), Permission.SEE_CATALOGUE),
        ),
    ),
    (
        N_("Privacy and proof"),
        (
            Entry("/budget", N_("Budget"), Permission.SEE_BUDGET),
            Entry("/ledger", N_("Ledger"), Permission.SEE_LEDGER),
            Entry("/egress", N_("Egress"), Permission.SEE_EGRESS),
            Entry("/quality", N_("Data quality"), Permission.SEE_QUALITY),
        ),
    ),
    (
        N_("Administration"),
        (
            Entry("/people", N_("People and tokens"), Permission.SEE_PEOPLE),
            Entry("/access-log", N_("Access log"), Permission.SEE_ACCESS),
        ),
    ),
)


def menu_for(
    may: Callable[[Permission], bool], say: Callable[[str], str]
) -> list[tuple[str, list[Entry]]]:
    """The groups and pages that somebody may open, titles translated."""
    groups = []
    for title, entries in MENU:
        open_ones = [
            Entry(one.path, say(one.title), one.permission)
            for one in entries
            if one.permission is None or may(one.permission)
        ]
        if open_ones:
            groups.append((say(title), open_ones))
    return groups
