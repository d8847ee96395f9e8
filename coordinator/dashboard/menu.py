"""The menu: which pages there are, in which order, and which permission opens each."""

from __future__ import annotations

from coordinator.roles import Permission
from privacy.hosting.pages.languages import N_
from privacy.hosting.pages.menu import Entry, Group

MENU: tuple[Group, ...] = (
    (
        N_("Today"),
        (
            Entry("/", N_("Home"), None),
            Entry("/alerts", N_("Alerts"), Permission.SEE_ALERTS),
        ),
    ),
    (
        N_("Modelling"),
        (
            Entry("/launch", N_("Launch"), Permission.START_RUN),
            Entry("/runs", N_("Runs"), Permission.SEE_RUNS),
            Entry("/compare", N_("Compare"), Permission.SEE_RUNS),
            Entry("/tags", N_("Tags and models"), Permission.SEE_TAGS),
        ),
    ),
    (
        N_("Privacy and proof"),
        (
            Entry("/privacy", N_("Privacy"), Permission.SEE_BUDGETS),
            Entry("/evidence", N_("Evidence"), Permission.SEE_EVIDENCE),
            Entry("/audit", N_("Audit log"), Permission.SEE_AUDIT),
        ),
    ),
    (
        N_("Administration"),
        (
            Entry("/parties", N_("Parties"), Permission.SEE_PARTIES),
            Entry("/people", N_("People and tokens"), Permission.SEE_PEOPLE),
        ),
    ),
)
