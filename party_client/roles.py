"""Who may do what at a party's node. Everything that API and console can do needs one permission.

admin       all of it, and people, tokens and the access log
operator    runs the node: everything but those
marketer    looks up customers whose id he knows, and counts; sees no full id, exports nothing
reviewer    reads everything but single customers, and changes nothing
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from privacy.errors import ConfigError


class Role(StrEnum):
    """What a person or an API token is for."""

    ADMIN = "admin"
    OPERATOR = "operator"
    MARKETER = "marketer"
    REVIEWER = "reviewer"


class Permission(StrEnum):
    """One thing that somebody may do; also the word for it in the access log."""

    SEE_NODE = "see the node"
    READ_CUSTOMER = "read a customer"
    SEE_FULL_ID = "see full customer ids"
    COUNT_SEGMENTS = "count segments"
    EXPORT = "export a segment"
    EXPORT_MODEL = "export a model"
    OPT_OUT = "opt a customer out"
    REFRESH_CONSENT = "refresh consents"
    SEE_PLANS = "see plans"
    DECIDE = "decide on a plan"
    SEE_BUDGET = "see the budget"
    SEE_LEDGER = "see the ledger"
    SEE_EGRESS = "see the egress log"
    SEE_QUALITY = "see data quality"
    SEE_CATALOGUE = "see the catalogue"
    SEE_PEOPLE = "see people and tokens"
    MANAGE_PEOPLE = "manage people and tokens"
    SEE_ACCESS = "see the access log"


_OPERATOR = frozenset(Permission) - {
    Permission.SEE_PEOPLE,
    Permission.MANAGE_PEOPLE,
    Permission.SEE_ACCESS,
}

MAY: Mapping[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission),
    Role.OPERATOR: _OPERATOR,
    Role.MARKETER: frozenset(
        {Permission.READ_CUSTOMER, Permission.COUNT_SEGMENTS, Permission.SEE_CATALOGUE}
    ),
    Role.REVIEWER: frozenset(
        {
            Permission.SEE_NODE,
            Permission.COUNT_SEGMENTS,
            Permission.SEE_PLANS,
            Permission.SEE_BUDGET,
            Permission.SEE_LEDGER,
            Permission.SEE_EGRESS,
            Permission.SEE_QUALITY,
            Permission.SEE_CATALOGUE,
            Permission.SEE_PEOPLE,
            Permission.SEE_ACCESS,
        }
    ),
}


def may(role: str, permission: Permission) -> bool:
    """Whether `role` has `permission`; a role that is not known has none."""
    try:
        return permission in MAY[Role(role)]
    except ValueError:
        return False


def parse_role(name: str) -> Role:
    """The role of this name. Raises ConfigError."""
    try:
        return Role(name)
    except ValueError:
        raise ConfigError(f"role: one of {', '.join(Role)}") from None
