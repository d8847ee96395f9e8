"""Who may do what at the coordinator. Everything that API, commands and pages can do needs one
permission.

admin                   all of it
data-scientist          plans, runs, models and tags; manages neither parties nor people
reviewer                reads everything, takes evidence packs, and changes nothing
party-operator:PARTY    reads what concerns that one party, and changes nothing

A party operator's permissions hold for the own party only. `may` says what kind of thing somebody
may do at all; whoever answers must also keep to `party_of` and `may_see`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from privacy.errors import ConfigError
from privacy.identity import PARTY_PATTERN


class Role(StrEnum):
    """What a person or an API token is for. A party operator's role names the party besides."""

    ADMIN = "admin"
    DATA_SCIENTIST = "data-scientist"
    REVIEWER = "reviewer"
    PARTY_OPERATOR = "party-operator"


class Permission(StrEnum):
    """One thing that somebody may do; also the word for it in the audit log."""

    SEE_FEDERATION = "see the federation"
    SEE_PARTIES = "see parties"
    INVITE_PARTY = "invite a party"
    REMOVE_PARTY = "remove a party"
    CHECK_PLAN = "check a plan"
    START_RUN = "start a run"
    SEE_RUNS = "see runs"
    CONTROL_RUN = "stop or resume a run"
    SEE_MODELS = "see models"
    SEE_BUDGETS = "see budgets"
    SEE_TAGS = "see tags"
    SEE_EVIDENCE = "see evidence"
    TAKE_EVIDENCE = "take an evidence pack"
    SEE_ALERTS = "see alerts"
    HANDLE_ALERT = "handle an alert"
    SEE_METRICS = "see metrics"
    SEE_PEOPLE = "see people and tokens"
    MANAGE_PEOPLE = "manage people and tokens"
    SEE_AUDIT = "see the audit log"


# What somebody does with them leaves everything as it was.
READING = frozenset(
    {
        Permission.SEE_FEDERATION,
        Permission.SEE_PARTIES,
        Permission.CHECK_PLAN,
        Permission.SEE_RUNS,
        Permission.SEE_MODELS,
        Permission.SEE_BUDGETS,
        Permission.SEE_TAGS,
        Permission.SEE_EVIDENCE,
        Permission.TAKE_EVIDENCE,
        Permission.SEE_ALERTS,
        Permission.SEE_METRICS,
        Permission.SEE_PEOPLE,
        Permission.SEE_AUDIT,
    }
)

MAY: Mapping[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission),
    Role.DATA_SCIENTIST: (READING - {Permission.SEE_PEOPLE, Permission.SEE_AUDIT})
    | {Permission.START_RUN, Permission.CONTROL_RUN, Permission.HANDLE_ALERT},
    Role.REVIEWER: READING,
    Role.PARTY_OPERATOR: frozenset(
        {
            Permission.SEE_FEDERATION,
            Permission.SEE_PARTIES,
            Permission.SEE_RUNS,
            Permission.SEE_BUDGETS,
            Permission.SEE_TAGS,
            Permission.SEE_EVIDENCE,
            Permission.SEE_ALERTS,
        }
    ),
}


def may(role: str, permission: Permission) -> bool:
    """Whether `role` has `permission`; a role that is not known has none."""
    kind = kind_of(role)
    return kind is not None and permission in MAY[kind]


def kind_of(role: str) -> Role | None:
    """Which of the four roles this is; None if it is none of them."""
    word, colon, party = role.partition(":")
    if word == Role.PARTY_OPERATOR:
        return Role.PARTY_OPERATOR if re.fullmatch(PARTY_PATTERN, party) else None
    if colon or word not in tuple(Role):
        return None
    return Role(word)


def party_of(role: str) -> str | None:
    """The one party that a party operator is for. None for every other role: where `may` allows
    it at all, it may be done for each party."""
    return role.partition(":")[2] if kind_of(role) is Role.PARTY_OPERATOR else None


def may_see(role: str, party: str) -> bool:
    """Whether somebody of `role` may see what is told about `party` alone."""
    kind = kind_of(role)
    return kind is not None and (kind is not Role.PARTY_OPERATOR or party_of(role) == party)


def parse_role(name: str) -> str:
    """`name`, if it is a role's. Raises ConfigError."""
    if kind_of(name) is None:
        raise ConfigError(
            f"role: {Role.ADMIN}, {Role.DATA_SCIENTIST}, {Role.REVIEWER} or "
            f"{Role.PARTY_OPERATOR}:PARTY"
        )
    return name
