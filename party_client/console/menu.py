"""The menu: which pages there are, in which order, and which permission opens each."""

from __future__ import annotations

from party_client.roles import Permission
from privacy.hosting.pages.languages import N_
from privacy.hosting.pages.menu import Entry, Group

MENU: tuple[Group, ...] = (
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
