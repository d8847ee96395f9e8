"""`fedtags-coordinator people` and `token`: who may use this coordinator's API and pages.

What they change is in the audit log (`coordinator.audit_cli`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.roles import Permission, Role, parse_role
from coordinator.settings import load_settings
from privacy.hosting import people_commands
from privacy.hosting.people_commands import AccessCommands

if TYPE_CHECKING:
    from privacy.hosting.access import Access


@contextmanager
def _access(home: Path) -> Iterator[Access]:
    from coordinator.people import open_access

    access = open_access(load_settings(home))
    try:
        yield access
    finally:
        access.close()


_commands = AccessCommands(
    access=_access,
    log=lambda home: load_settings(home).audit_log,
    manage=Permission.MANAGE_PEOPLE.value,
    check_role=parse_role,
    roles=f"{Role.ADMIN}, {Role.DATA_SCIENTIST}, {Role.REVIEWER} or {Role.PARTY_OPERATOR}:PARTY.",
)

people_app = people_commands.people_app(
    _commands, "People who may use this coordinator's API and pages."
)
token_app = people_commands.token_app(_commands)
