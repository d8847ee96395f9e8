"""The coordinator's people, tokens and sessions: in its own database, on SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import inspect, text
from typer.testing import CliRunner

from coordinator import audit_cli, people_cli
from coordinator.people import Elsewhere, admit, open_access
from coordinator.run_store import MIGRATIONS
from coordinator.settings import CoordinatorSettings, load_settings
from coordinator.setup import initialise
from coordinator.sign_in import open_gate, router
from privacy.errors import AccessDenied, ConfigError, LedgerError
from privacy.hosting import web
from privacy.hosting.access import Access, Principal
from privacy.hosting.access_log import AccessLog, AccessRecord, read_page, verify_log
from privacy.hosting.database import open_engine
from privacy.hosting.gate import CSRF_HEADER
from privacy.hosting.migrations import upgrade_engine
from privacy.hosting.people_commands import os_user

PASSWORD = "a long enough password"
KEY = bytes(range(32))
OLD_TOKEN = "the-token-that-init-made-before-there-were-people"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's home as init makes it; copied, because init takes its time."""
    home = tmp_path_factory.mktemp("made") / "home"
    initialise(home, "demo", "data-science")
    return home


@pytest.fixture
def settings(made: Path, tmp_path: Path) -> CoordinatorSettings:
    shutil.copytree(made, tmp_path / "home")
    return load_settings(tmp_path / "home")


@dataclass
class Way:
    """The way in of one coordinator, with a browser in front of it."""

    access: Access
    log: AccessLog
    browser: TestClient
    settings: CoordinatorSettings

    def sign_in(self, name: str = "anna", password: str = PASSWORD) -> int:
        answer = self.browser.post("/v1/session", json={"name": name, "password": password})
        return answer.status_code

    def records(self) -> list[AccessRecord]:
        self.log.flush()
        return read_page(self.settings.audit_log, 1, 50)[0]


@pytest.fixture
def way(settings: CoordinatorSettings) -> Iterator[Way]:
    access, log = open_access(settings), AccessLog(settings.audit_log)
    app = FastAPI()
    web.install(app)
    app.include_router(router(settings, open_gate(settings, access, log)))
    with TestClient(app, base_url="https://127.0.0.1:8470") as browser:
        yield Way(access, log, browser, settings)
    log.close()
    access.close()


# Homes of before ---------------------------------------------------------------------------------


def upgraded(url: str, folder: Path) -> Access:
    """A database of revision 0003 with two tokens of one name, upgraded."""
    folder.mkdir()
    for revision in MIGRATIONS.glob("r000[123]_*.py"):
        shutil.copy(revision, folder)
    engine = open_engine(url)
    upgrade_engine(engine, folder)
    hashed = hmac.new(KEY, b"fedtags token 1\0" + OLD_TOKEN.encode(), hashlib.sha256).hexdigest()
    now = datetime(2026, 3, 1, 12)
    row = text(
        "INSERT INTO api_tokens (token_hash, name, role, created_at, revoked_at)"
        " VALUES (:hash, :name, 'admin', :at, :revoked)"
    )
    with engine.begin() as connection:
        for token_hash, name, at, revoked in (
            (hashed, "admin", now, None),
            ("f" * 64, "admin", now + timedelta(days=1), now + timedelta(days=2)),
            ("e" * 64, "Ann's token", now + timedelta(days=3), None),
        ):
            values = {"hash": token_hash, "name": name, "at": at, "revoked": revoked}
            connection.execute(row, values)
    engine.dispose()
    return Access(url, KEY, MIGRATIONS)


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Access]:
    server = request.param == "postgresql"
    url = request.getfixturevalue("postgresql_url") if server else f"sqlite:///{tmp_path / 'c.db'}"
    access = upgraded(url, tmp_path / "old")
    yield access
    access.close()


def test_a_token_of_an_old_home_goes_on_opening_what_it_opened(old: Access) -> None:
    assert old.principal_of_token(OLD_TOKEN, "local") == Principal(
        "admin", "admin", "token", "local"
    )
    assert not inspect(old.engine).has_table("api_tokens")


def test_old_tokens_get_names_of_their_own_and_an_end(old: Access) -> None:
    found = {one.name: one for one in old.tokens()}
    assert set(found) == {"admin", "admin-2", "token"}
    created = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert found["admin"].expires_at == created + timedelta(days=3650)
    assert found["admin-2"].revoked_at == created + timedelta(days=2)
    old.revoke_token("admin")
    assert old.principal_of_token(OLD_TOKEN, "local") is None


def test_people_and_sessions_work_in_the_coordinators_own_database(old: Access) -> None:
    old.add_person("anna", "party-operator:" + "b" * 31, PASSWORD)
    admit(old, Elsewhere("https://login.example", "u1", "eve@x.example", "reviewer"))
    assert [(one.name, one.elsewhere) for one in old.people()] == [
        ("anna", False),
        ("eve@x.example", True),
    ]


# What init makes ---------------------------------------------------------------------------------


def test_init_makes_one_admin_token_and_begins_the_audit_log_with_it(
    settings: CoordinatorSettings,
) -> None:
    access = open_access(settings)
    secret = settings.api_token.read_text().strip()
    found = access.principal_of_token(secret, "local")
    assert found is not None
    assert (found.name, found.role) == ("admin", "admin")
    assert access.people() == []
    access.close()
    [record] = read_page(settings.audit_log, 1, 50)[0]
    assert (record.who, record.detail) == (os_user().name, "create token admin as admin")
    assert secret not in settings.audit_log.read_text()


def test_init_on_postgresql_puts_everything_there_and_takes_no_database_twice(
    postgresql_url: str, tmp_path: Path
) -> None:
    settings = initialise(
        tmp_path / "one", "demo", "data-science", database_url=postgresql_url
    ).settings
    assert settings.database_url == postgresql_url
    assert list(settings.home.glob("*.db")) == []
    access = open_access(settings)
    assert access.principal_of_token(settings.api_token.read_text().strip(), "local") is not None
    access.close()
    with pytest.raises(ConfigError, match="holds a coordinator already"):
        initialise(tmp_path / "two", "demo", "data-science", database_url=postgresql_url)
    assert list((tmp_path / "two").iterdir()) == []


# Signing in --------------------------------------------------------------------------------------


def test_a_session_opens_with_a_password_and_ends_when_its_person_signs_out(way: Way) -> None:
    way.access.add_person("anna", "party-operator:bank", PASSWORD)
    answer = way.browser.post("/v1/session", json={"name": "anna", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("__host-fedtags-coordinator-8470=")
    for flag in ("httponly", "secure", "samesite=strict", "path=/"):
        assert flag in cookie
    who = way.browser.get("/v1/session").json()
    assert (who["name"], who["role"], who["party"]) == ("anna", "party-operator:bank", "bank")
    header = {CSRF_HEADER: who["csrf"]}
    assert way.browser.delete("/v1/session").status_code == 403
    assert way.browser.delete("/v1/session", headers=header).status_code == 204
    assert way.browser.get("/v1/session").status_code == 401
    assert way.browser.delete("/v1/session").status_code == 204
    assert [(one.who, one.what, one.allowed) for one in way.records()[:2]] == [
        ("anna", "sign out", True),
        ("anna", "sign in", True),
    ]


def test_a_wrong_password_an_unknown_name_and_another_sites_form_are_refused(way: Way) -> None:
    way.access.add_person("anna", "admin", PASSWORD)
    assert way.sign_in("anna", "not this one, surely") == 401
    assert way.sign_in("my password by mistake") == 401
    foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    body = {"name": "anna", "password": PASSWORD}
    assert way.browser.post("/v1/session", json=body, headers=foreign).status_code == 403
    assert way.browser.post("/v1/session", json=body | {"role": "admin"}).status_code == 422
    assert [(one.who, one.allowed) for one in way.records()[:2]] == [
        ("unknown", False),
        ("anna", False),
    ]
    assert "by mistake" not in way.settings.audit_log.read_text()


def test_after_ten_failures_no_password_is_looked_at(way: Way) -> None:
    way.access.add_person("anna", "admin", PASSWORD)
    assert {way.sign_in("anna", f"wrong password {number}") for number in range(10)} == {401}
    assert way.sign_in() == 429


def test_a_new_password_ends_all_sessions_of_the_person(way: Way) -> None:
    way.access.add_person("anna", "admin", PASSWORD)
    assert way.sign_in() == 200
    header = {CSRF_HEADER: way.browser.get("/v1/session").json()["csrf"]}
    change = {"current": PASSWORD, "new": "another good password"}
    assert way.browser.post("/v1/session/password", json=change).status_code == 403
    wrong = change | {"current": "not this one, surely"}
    assert way.browser.post("/v1/session/password", json=wrong, headers=header).status_code == 401
    done = way.browser.post("/v1/session/password", json=change, headers=header)
    assert done.status_code == 204
    assert way.browser.get("/v1/session").status_code == 401
    assert (way.sign_in(), way.sign_in("anna", "another good password")) == (401, 200)


def test_a_role_changes_from_the_next_request_on_and_a_removed_person_is_out(way: Way) -> None:
    way.access.add_person("anna", "admin", PASSWORD)
    way.access.add_person("ben", "admin", PASSWORD)
    assert way.sign_in() == 200
    way.access.set_role("anna", "reviewer", keep="admin")
    assert way.browser.get("/v1/session").json()["role"] == "reviewer"
    with pytest.raises(ConfigError, match="last admin"):
        way.access.remove_person("ben", keep="admin")
    way.access.remove_person("anna")
    assert way.browser.get("/v1/session").status_code == 401


def test_a_token_says_who_it_is_and_has_no_csrf_value(way: Way) -> None:
    _, secret = way.access.create_token("ci", "data-scientist", created_by="anna")
    bearer = {"authorization": f"Bearer {secret}"}
    who = way.browser.get("/v1/session", headers=bearer).json()
    assert (who["name"], who["kind"], who["csrf"]) == ("ci", "token", None)
    change = {"current": PASSWORD, "new": "another good password"}
    answer = way.browser.post("/v1/session/password", json=change, headers=bearer)
    assert answer.status_code == 401
    way.access.revoke_token("ci")
    assert way.browser.get("/v1/session", headers=bearer).status_code == 401


def test_without_a_provider_in_the_settings_there_is_no_way_to_one(way: Way) -> None:
    assert way.browser.get("/v1/session/oidc").status_code == 404
    assert way.browser.get("/v1/session/oidc/callback?code=x&state=y").status_code == 404


# Whom a provider vouches for ---------------------------------------------------------------------


def vouched(subject: str = "u1", name: str = "eve@x.example", role: str = "reviewer") -> Elsewhere:
    return Elsewhere("https://login.example", subject, name, role)


def roles(way: Way) -> dict[str, str]:
    return {one.name: one.role for one in way.access.people() if one.state == "active"}


def test_the_providers_word_makes_a_person_and_each_time_the_role(way: Way) -> None:
    assert admit(way.access, vouched()) == "eve@x.example"
    assert roles(way) == {"eve@x.example": "reviewer"}
    admit(way.access, vouched(role="admin"))
    assert roles(way) == {"eve@x.example": "admin"}
    assert way.sign_in("eve@x.example", "") == 401


def test_a_person_keeps_the_name_of_the_first_time(way: Way) -> None:
    admit(way.access, vouched())
    assert admit(way.access, vouched(name="married@x.example")) == "eve@x.example"
    assert set(roles(way)) == {"eve@x.example"}


def test_another_subject_or_provider_never_becomes_the_person_of_that_name(way: Way) -> None:
    admit(way.access, vouched())
    with pytest.raises(AccessDenied, match="belongs to somebody else"):
        admit(way.access, vouched(subject="u2", role="admin"))
    other = Elsewhere("https://other.example", "u1", "eve@x.example", "admin")
    with pytest.raises(AccessDenied, match="belongs to somebody else"):
        admit(way.access, other)
    assert roles(way) == {"eve@x.example": "reviewer"}


def test_the_providers_word_never_opens_a_person_with_a_password(way: Way) -> None:
    way.access.add_person("anna", "admin", PASSWORD)
    with pytest.raises(AccessDenied, match="belongs to somebody else"):
        admit(way.access, vouched(name="anna"))
    assert (roles(way), way.sign_in()) == ({"anna": "admin"}, 200)


def test_a_removed_person_stays_out_whatever_the_provider_says(way: Way) -> None:
    admit(way.access, vouched())
    way.access.remove_person("eve@x.example")
    with pytest.raises(AccessDenied, match="removed here"):
        admit(way.access, vouched(name="eve2@x.example", role="admin"))
    way.access.add_person("eve@x.example", "reviewer")
    assert admit(way.access, vouched()) == "eve@x.example"


def test_a_removed_password_persons_name_passes_to_whom_the_provider_gives_it(way: Way) -> None:
    way.access.add_person("anna", "admin", PASSWORD)
    way.access.remove_person("anna")
    assert admit(way.access, vouched(name="anna")) == "anna"
    assert roles(way) == {"anna": "reviewer"}
    assert way.sign_in() == 401


@pytest.mark.parametrize("name", ["", "Eve", "os:root", "eve smith", "<b>", "e" * 64, "эва"])
def test_a_name_that_cannot_be_used_here_is_refused(way: Way, name: str) -> None:
    with pytest.raises(AccessDenied, match="name_claim"):
        admit(way.access, vouched(name=name))
    assert way.access.people() == []


# Commands ----------------------------------------------------------------------------------------


@dataclass
class Commands:
    """The commands on one home."""

    home: Path

    def __call__(self, *line: str) -> str:
        app = typer.Typer()

        @app.callback()
        def main(context: typer.Context) -> None:
            context.obj = self.home

        app.add_typer(people_cli.people_app, name="people")
        app.add_typer(people_cli.token_app, name="token")
        app.add_typer(audit_cli.app, name="audit")
        result = CliRunner().invoke(app, list(line))
        if result.exception is not None:
            raise result.exception
        return result.stdout


@pytest.fixture
def command(settings: CoordinatorSettings, tmp_path: Path) -> Commands:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return Commands(settings.home)


def test_people_are_managed_by_commands_and_every_change_is_in_the_audit_log(
    command: Commands, tmp_path: Path
) -> None:
    password = ("--password-file", str(tmp_path / "password"))
    command("people", "add", "anna", "--role", "data-scientist", *password)
    command("people", "set-role", "anna", "--role", "party-operator:bank")
    command("people", "set-password", "anna", *password)
    command("token", "create", "ci", "--role", "reviewer", "--days", "7")
    command("token", "revoke", "ci")
    command("people", "remove", "anna")
    [person] = json.loads(command("people", "list", "--format", "json"))
    assert (person["role"], person["state"]) == ("party-operator:bank", "removed")
    tokens = json.loads(command("token", "list", "--format", "json"))
    assert [(one["name"], one["revoked_at"] is None) for one in tokens] == [
        ("admin", True),
        ("ci", False),
    ]
    records = json.loads(command("audit", "list", "--format", "json"))
    assert [one["detail"] for one in reversed(records)] == [
        "create token admin as admin",
        "add anna as data-scientist",
        "anna becomes party-operator:bank",
        "new password for anna",
        "create token ci as reviewer",
        "revoke token ci",
        "remove anna",
    ]
    assert {one["who"] for one in records} == {os_user().name}
    verified = json.loads(command("audit", "verify", "--format", "json"))
    assert verified["verified"] is True
    assert PASSWORD not in (command.home / "audit.jsonl").read_text()


def test_a_word_that_is_no_role_is_refused_before_anything_changes(command: Commands) -> None:
    before = (command.home / "audit.jsonl").read_bytes()
    for line in (
        ("people", "add", "eve", "--role", "king"),
        ("token", "create", "eve", "--role", "party-operator:"),
    ):
        with pytest.raises(ConfigError, match="party-operator:PARTY"):
            command(*line)
    assert json.loads(command("people", "list", "--format", "json")) == []
    assert (command.home / "audit.jsonl").read_bytes() == before


def test_one_altered_byte_of_the_audit_log_is_found(
    command: Commands, settings: CoordinatorSettings
) -> None:
    raw = settings.audit_log.read_bytes()
    settings.audit_log.write_bytes(raw.replace(b"create token admin", b"create token adm1n"))
    with pytest.raises(LedgerError, match=r"audit\.jsonl"):
        command("audit", "verify")
    settings.audit_log.write_bytes(raw)
    assert verify_log(settings.audit_log)[0] == 2
