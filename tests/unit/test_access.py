"""People and API tokens: who there is, what opens the door, and what the database holds of it."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from privacy.errors import ConfigError, NotFound
from privacy.hosting.access import Access, Principal
from privacy.hosting.access_tables import metadata, tokens
from privacy.hosting.database import open_engine, utc_now

KEY = bytes(range(32))
PASSWORD = "a long enough password"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "access.db"


@pytest.fixture
def access(file: Path) -> Iterator[Access]:
    opened = Access(f"sqlite:///{file}", KEY)
    yield opened
    opened.close()


def everything(file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in file.parent.iterdir())


def test_a_token_opens_the_door_for_its_role_until_it_is_revoked(access: Access) -> None:
    _, secret = access.create_token("crm", "operator", created_by="anna")
    assert access.principal_of_token(secret, "10.0.0.9") == Principal(
        "crm", "operator", "token", "10.0.0.9"
    )
    access.revoke_token("crm")
    assert access.principal_of_token(secret, "10.0.0.9") is None
    assert access.revoke_token("crm").revoked_at is not None


@pytest.mark.parametrize("given", ["", "fedtags_", "x" * 5000, "fedtags_\udcff", "' OR 1=1 --"])
def test_an_unknown_token_opens_nothing(access: Access, given: str) -> None:
    access.create_token("crm", "operator", created_by="anna")
    assert access.principal_of_token(given, "local") is None


def test_a_token_ends_by_itself(access: Access) -> None:
    token, secret = access.create_token("crm", "operator", created_by="anna", days=1)
    assert token.expires_at - token.created_at == timedelta(days=1)
    past = (utc_now() - timedelta(seconds=1)).replace(tzinfo=None)
    with access.engine.begin() as connection:
        connection.execute(update(tokens).values(expires_at=past))
    assert access.principal_of_token(secret, "local") is None


def test_the_day_of_use_is_noted(access: Access) -> None:
    _, secret = access.create_token("crm", "operator", created_by="anna")
    assert access.tokens()[0].last_used is None
    access.principal_of_token(secret, "local")
    assert access.tokens()[0].last_used == utc_now().date()


def test_a_tokens_name_is_not_used_again(access: Access) -> None:
    access.create_token("crm", "operator", created_by="anna")
    access.revoke_token("crm")
    with pytest.raises(ConfigError, match="not used again"):
        access.create_token("crm", "admin", created_by="anna")


def test_the_database_holds_neither_tokens_nor_passwords(access: Access, file: Path) -> None:
    _, secret = access.create_token("crm", "operator", created_by="anna")
    access.add_person("anna", "admin", PASSWORD)
    access.principal_of_token(secret, "local")
    access.close()
    held = everything(file)
    assert secret.encode() not in held
    assert secret.removeprefix("fedtags_").encode() not in held
    assert PASSWORD.encode() not in held
    with closing(sqlite3.connect(file)) as connection:
        ((stored,),) = connection.execute("select password_hash from people")
    assert stored.startswith("$argon2id$")


def test_a_token_is_known_under_its_own_key_only(access: Access, file: Path) -> None:
    _, secret = access.create_token("crm", "operator", created_by="anna")
    other = Access(f"sqlite:///{file}", bytes(32))
    assert other.principal_of_token(secret, "local") is None
    other.close()


def test_tokens_are_256_bits_and_never_the_same(access: Access) -> None:
    made = {access.create_token(f"t{n}", "operator", created_by="a")[1] for n in range(20)}
    assert len(made) == 20
    assert {len(secret.removeprefix("fedtags_")) for secret in made} == {43}  # 32 bytes in base 64


def test_a_new_database_is_its_owners_alone(access: Access, file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name", ["", "Anna", "1anna", "anna ", "an na", "a" * 64, "anna;drop", "安娜"]
)
def test_a_name_that_could_be_mistaken_is_refused(access: Access, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        access.add_person(name, "admin")
    with pytest.raises(ConfigError, match="name"):
        access.create_token(name, "admin", created_by="anna")


@pytest.mark.parametrize("password", ["short", "x" * 257])
def test_a_password_outside_its_bounds_is_refused(access: Access, password: str) -> None:
    with pytest.raises(ConfigError, match="password"):
        access.add_person("anna", "admin", password)
    assert access.people() == []


def test_a_removed_person_stays_listed_and_can_come_back(access: Access) -> None:
    access.add_person("anna", "operator", PASSWORD)
    with pytest.raises(ConfigError, match="there already"):
        access.add_person("anna", "admin")
    access.remove_person("anna")
    (removed,) = access.people()
    assert (removed.state, removed.has_password) == ("removed", False)
    assert access.add_person("anna", "marketer").role == "marketer"


def test_removing_a_person_names_the_tokens_that_stay(access: Access) -> None:
    access.add_person("anna", "operator")
    access.create_token("crm", "operator", created_by="anna")
    access.create_token("old", "operator", created_by="anna")
    access.create_token("other", "operator", created_by="bob")
    access.revoke_token("old")
    assert access.remove_person("anna") == ("crm",)


def test_the_last_of_a_role_that_must_stay_cannot_go(access: Access) -> None:
    access.add_person("anna", "admin")
    access.add_person("bob", "operator")
    with pytest.raises(ConfigError, match="last admin"):
        access.remove_person("anna", keep="admin")
    with pytest.raises(ConfigError, match="last admin"):
        access.set_role("anna", "operator", keep="admin")
    access.set_role("bob", "admin", keep="admin")
    access.remove_person("anna", keep="admin")
    assert [one.name for one in access.people() if one.state == "active"] == ["bob"]


def test_who_is_not_there_cannot_be_changed(access: Access) -> None:
    for change in (
        lambda: access.set_role("nobody", "admin"),
        lambda: access.set_password("nobody", PASSWORD),
        lambda: access.remove_person("nobody"),
        lambda: access.revoke_token("nothing"),
    ):
        with pytest.raises(NotFound):
            change()


def test_the_migrations_make_the_tables_of_the_code(access: Access) -> None:
    with access.engine.connect() as connection:
        for table in metadata.sorted_tables:
            connection.execute(select(table)).all()


@pytest.mark.parametrize("server", ["postgresql_url", "mariadb_url"])
def test_another_database_serves_as_well(server: str, request: pytest.FixtureRequest) -> None:
    access = Access(request.getfixturevalue(server), KEY)
    access.add_person("anna", "admin", PASSWORD)
    _, secret = access.create_token("crm", "operator", created_by="anna")
    found = access.principal_of_token(secret, "local")
    assert found is not None
    assert found.role == "operator"
    with pytest.raises(ConfigError, match="not used again"):
        access.create_token("crm", "operator", created_by="anna")
    access.close()


def test_opening_the_access_drops_no_lock_that_others_hold_on_its_file(tmp_path: Path) -> None:
    """Closing any descriptor of a file ends all of a process' POSIX locks on it: another process
    would then believe that it is alone with the database, and delete a log that is in use."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (value INTEGER)"))
    Access(url, b"k" * 32).close()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO kept VALUES (1)"))
    other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM kept')"
    closing = f"{other}; c.close()"
    subprocess.run([sys.executable, "-c", closing, str(tmp_path / "shared.db")], check=True)
    assert (tmp_path / "shared.db-wal").exists()
    engine.dispose()
