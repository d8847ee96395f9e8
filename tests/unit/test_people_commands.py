"""`fedtags-party people` and `token`: the commands that both services share, at the party."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from party_client.cli import app
from party_client.settings import PartySettings
from party_client.setup import initialise
from privacy.errors import ConfigError
from privacy.hosting.access_log import read_page

PASSWORD = "a long enough password"


@pytest.fixture
def party(tmp_path: Path) -> PartySettings:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return initialise(tmp_path / "home", "bank", 6000)


def run(party: PartySettings, *line: str) -> str:
    result = CliRunner().invoke(app, ["--home", str(party.home), *line])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_people_and_tokens_of_a_party_are_managed_by_commands(
    party: PartySettings, tmp_path: Path
) -> None:
    password = ("--password-file", str(tmp_path / "password"))
    run(party, "people", "add", "anna", "--role", "marketer", *password)
    run(party, "people", "set-role", "anna", "--role", "operator")
    secret = json.loads(
        run(party, "token", "create", "crm", "--role", "marketer", "--format", "json")
    )["secret"]
    [person] = json.loads(run(party, "people", "list", "--format", "json"))
    assert (person["name"], person["role"], person["has_password"]) == ("anna", "operator", True)
    assert "operator" in run(party, "people", "list")
    details = [one.detail for one in read_page(party.access_log, 1, 50)[0]]
    assert details == [
        "create token crm as marketer",
        "anna becomes operator",
        "add anna as marketer",
    ]
    assert json.loads(run(party, "access", "verify", "--format", "json"))["verified"] is True
    written = party.access_log.read_text()
    assert secret not in written
    assert PASSWORD not in written


@pytest.mark.parametrize("role", ["reviewers", "data-scientist", "party-operator:bank", ""])
def test_a_role_of_the_coordinator_is_none_of_a_partys(
    party: PartySettings, tmp_path: Path, role: str
) -> None:
    password = ("--password-file", str(tmp_path / "password"))
    with pytest.raises(ConfigError, match="admin, operator, marketer, reviewer"):
        run(party, "people", "add", "anna", "--role", role, *password)
    assert not party.access_log.exists()


def test_a_short_password_is_refused(party: PartySettings, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short")
    line = ("people", "add", "anna", "--role", "admin", "--password-file", str(tmp_path / "short"))
    with pytest.raises(ConfigError, match="12 to 256"):
        run(party, *line)
