"""The pages of a demo that is left up: who may sign in, where, and waiting for Ctrl-C.

People are added by the same `people add` commands as anywhere; each gets a random password that is
shown once and written nowhere.
"""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from coordinator.roles import Role as CoordinatorRole
from coordinator.settings import load_settings as coordinator_settings
from party_client.roles import Role as PartyRole
from party_client.settings import load_settings as party_settings
from simulations.demo import Command, FinishedDemo

_PASSWORD_BYTES = 12
_LOOK_S = 0.2


@dataclass(frozen=True)
class Login:
    """Somebody who may sign in, and the password that was made for this demo."""

    name: str
    role: str
    password: str


@dataclass(frozen=True)
class Pages:
    """One service's pages: whose, where, and who may sign in."""

    of: str
    address: str
    people: Sequence[Login]
    authority: Path | None = None


def let_people_in(finished: FinishedDemo) -> list[Pages]:
    """Add people at the coordinator and at each party's node; the services must be up.

    The coordinator gets a data scientist, a reviewer and an operator of each party; each party's
    own console an operator and a reviewer.
    """
    home = finished.folder / "coordinator"
    settings = coordinator_settings(home)
    operators = {
        f"{party}-operator": f"{CoordinatorRole.PARTY_OPERATOR}:{party}"
        for party in finished.scenario.sources
    }
    roles = {
        "scientist": CoordinatorRole.DATA_SCIENTIST.value,
        "reviewer": CoordinatorRole.REVIEWER.value,
        **operators,
    }
    people = _add(Command("fedtags-coordinator", home), roles)
    found = [Pages("coordinator", f"{settings.control_url}/", people, settings.ca_certificate)]
    for party in finished.scenario.sources:
        home = finished.folder / party
        own = {"operator": PartyRole.OPERATOR.value, "reviewer": PartyRole.REVIEWER.value}
        web = party_settings(home).web
        people = _add(Command("fedtags-party", home), own)
        found.append(Pages(party, f"http://{web.host}:{web.port}/", people))
    return found


def as_text(found: Sequence[Pages]) -> str:
    """What a person needs to open the pages."""
    lines = ["", "Everything stays up until Ctrl-C. Passwords are shown this once."]
    for pages in found:
        lines += ["", f"{pages.of}: {pages.address}"]
        if pages.authority is not None:
            lines.append(f"  a browser warns unless it trusts {pages.authority}")
        names, roles = (
            max(len(getattr(one, part)) for one in pages.people) for part in ("name", "role")
        )
        lines += [
            f"  {one.name:{names}}  {one.role:{roles}}  password {one.password}"
            for one in pages.people
        ]
    return "\n".join([*lines, ""])


def wait_for_signal() -> None:
    """Return after SIGINT or SIGTERM."""
    came: list[int] = []

    def note(number: int, _frame: object) -> None:
        came.append(number)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not came:
            time.sleep(_LOOK_S)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _add(service: Command, roles: dict[str, str]) -> list[Login]:
    people = []
    with TemporaryDirectory(prefix="fedtags-demo-") as folder:  # only its owner may enter
        file = Path(folder) / "password"
        for name, role in roles.items():
            password = secrets.token_urlsafe(_PASSWORD_BYTES)
            file.write_text(f"{password}\n", encoding="utf-8")
            service("people", "add", name, "--role", role, "--password-file", str(file))
            people.append(Login(name, role, password))
    return people
