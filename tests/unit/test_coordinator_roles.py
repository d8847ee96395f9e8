"""What each of the coordinator's four roles may do, and that nothing else is a role."""

from __future__ import annotations

import pytest

from coordinator.roles import (
    MAY,
    READING,
    Permission,
    Role,
    kind_of,
    may,
    may_see,
    parse_role,
    party_of,
)
from privacy.errors import ConfigError

CHANGING = {
    Permission.INVITE_PARTY,
    Permission.REMOVE_PARTY,
    Permission.START_RUN,
    Permission.CONTROL_RUN,
    Permission.HANDLE_ALERT,
    Permission.MANAGE_PEOPLE,
}


def test_every_permission_either_reads_or_changes() -> None:
    assert set(Permission) == READING | CHANGING
    assert not READING & CHANGING


def test_an_admin_may_do_everything() -> None:
    assert all(may("admin", one) for one in Permission)


def test_a_reviewer_reads_everything_and_changes_nothing() -> None:
    assert {one for one in Permission if may("reviewer", one)} == READING


def test_a_data_scientist_runs_plans_and_manages_neither_parties_nor_people() -> None:
    assert may("data-scientist", Permission.START_RUN)
    assert may("data-scientist", Permission.CONTROL_RUN)
    assert {one for one in Permission if not may("data-scientist", one)} == {
        Permission.INVITE_PARTY,
        Permission.REMOVE_PARTY,
        Permission.MANAGE_PEOPLE,
        Permission.SEE_PEOPLE,
        Permission.SEE_AUDIT,
    }


def test_a_party_operator_only_reads_and_only_about_the_own_party() -> None:
    role = "party-operator:bank"
    assert {one for one in Permission if may(role, one)} <= READING
    assert (party_of(role), may_see(role, "bank"), may_see(role, "shop")) == ("bank", True, False)
    for hidden in (Permission.SEE_PEOPLE, Permission.SEE_AUDIT, Permission.SEE_METRICS):
        assert not may(role, hidden)


def test_every_other_role_sees_each_party_and_is_of_none() -> None:
    for role in ("admin", "data-scientist", "reviewer"):
        assert party_of(role) is None
        assert may_see(role, "bank")


@pytest.mark.parametrize(
    "role",
    [
        "",
        "king",
        "Admin",
        "admin ",
        "admin:bank",
        "admin:",
        "reviewer:bank",
        "party-operator",
        "party-operator:",
        "party-operator:Bank",
        "party-operator:bank\n",
        "party-operator:bank:shop",
        "party-operator:" + "b" * 32,
    ],
)
def test_a_word_that_is_no_role_may_nothing(role: str) -> None:
    assert kind_of(role) is None
    assert not any(may(role, one) for one in Permission)
    assert not may_see(role, "bank")
    assert party_of(role) is None
    with pytest.raises(ConfigError, match="party-operator:PARTY"):
        parse_role(role)


@pytest.mark.parametrize("role", [*list(Role)[:3], "party-operator:bank-2"])
def test_a_role_is_its_own_name(role: str) -> None:
    assert parse_role(role) == role


def test_every_role_has_its_permissions_written_down() -> None:
    assert set(MAY) == set(Role)
