"""Signing in: sessions, their two ends, and how often somebody may try."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from privacy.errors import NotSignedIn, RateLimited
from privacy.hosting import passwords
from privacy.hosting.access import Access
from privacy.hosting.access_tables import failures, sessions
from privacy.hosting.sessions import (
    ABSOLUTE,
    IDLE,
    MOST_BY_ADDRESS,
    MOST_BY_NAME,
    WINDOW,
    Sessions,
    same_secret,
)

PASSWORD = "a long enough password"


@pytest.fixture
def access(tmp_path: Path) -> Iterator[Access]:
    opened = Access(f"sqlite:///{tmp_path / 'access.db'}", bytes(range(32)))
    opened.add_person("anna", "operator", PASSWORD)
    yield opened
    opened.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, access: Access) -> None:
    """Password checks at the lowest cost, for tests of what counts them."""
    from argon2 import PasswordHasher

    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(1, 8, 1))
    passwords._nobody.cache_clear()
    access.set_password("anna", PASSWORD)


def shift(access: Access, seen: timedelta, created: timedelta) -> None:
    """Let every session be older than it is."""
    with access.engine.begin() as connection:
        for row in connection.execute(sessions.select()).all():
            connection.execute(
                update(sessions).values(
                    seen_at=row.seen_at - seen, created_at=row.created_at - created
                )
            )


def test_a_session_knows_its_person_and_the_role_of_now(access: Access) -> None:
    held = Sessions(access)
    opened = held.sign_in("anna", PASSWORD, "10.0.0.9")
    found = held.find(opened.secret, "10.0.0.9")
    assert found is not None
    assert (found.principal.name, found.principal.role) == ("anna", "operator")
    assert found.principal.kind == "person"
    assert found.csrf == opened.session.csrf
    access.set_role("anna", "marketer")
    changed = held.find(opened.secret, "10.0.0.9")
    assert changed is not None
    assert changed.principal.role == "marketer"


def test_two_sessions_share_neither_secret_nor_csrf_token(access: Access) -> None:
    held = Sessions(access)
    one, two = (held.sign_in("anna", PASSWORD, "local") for _ in range(2))
    assert one.secret != two.secret
    assert one.session.csrf != two.session.csrf


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("anna", "a wrong password"),
        ("nobody", PASSWORD),
        ("anna", ""),
        ("", ""),
        ("anna", "x" * 9999),
    ],
)
def test_whatever_was_wrong_the_answer_is_one(access: Access, name: str, password: str) -> None:
    with pytest.raises(NotSignedIn, match=r"^the name or the password is wrong$"):
        Sessions(access).sign_in(name, password, "local")


def test_who_was_removed_or_has_no_password_cannot_sign_in(access: Access) -> None:
    access.add_person("bob", "operator")
    held = Sessions(access)
    with pytest.raises(NotSignedIn):
        held.sign_in("bob", PASSWORD, "local")
    opened = held.sign_in("anna", PASSWORD, "local")
    access.remove_person("anna")
    assert held.find(opened.secret, "local") is None
    with pytest.raises(NotSignedIn):
        held.sign_in("anna", PASSWORD, "local")


def test_a_session_ends_when_nobody_uses_it(access: Access) -> None:
    held = Sessions(access)
    opened = held.sign_in("anna", PASSWORD, "local")
    shift(access, seen=IDLE - timedelta(minutes=2), created=timedelta(0))
    assert held.find(opened.secret, "local") is not None  # and counts from now on again
    shift(access, seen=IDLE - timedelta(minutes=2), created=timedelta(0))
    assert held.find(opened.secret, "local") is not None
    shift(access, seen=IDLE, created=timedelta(0))
    assert held.find(opened.secret, "local") is None


def test_a_session_ends_after_its_longest_time_however_much_it_is_used(access: Access) -> None:
    held = Sessions(access)
    opened = held.sign_in("anna", PASSWORD, "local")
    shift(access, seen=timedelta(0), created=ABSOLUTE)
    assert held.find(opened.secret, "local") is None


def test_signing_out_and_a_new_password_end_sessions(access: Access) -> None:
    held = Sessions(access)
    one, two = (held.sign_in("anna", PASSWORD, "local") for _ in range(2))
    held.sign_out(one.secret)
    assert held.find(one.secret, "local") is None
    assert held.find(two.secret, "local") is not None
    access.set_password("anna", "another long password")
    assert held.find(two.secret, "local") is None


def test_the_database_does_not_hold_a_sessions_secret(access: Access, tmp_path: Path) -> None:
    opened = Sessions(access).sign_in("anna", PASSWORD, "local")
    access.close()
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert opened.secret.encode() not in held
    assert opened.session.csrf.encode() not in held


@pytest.mark.usefixtures("quick")
def test_too_many_failures_of_a_name_stop_it_with_the_right_password_too(access: Access) -> None:
    held = Sessions(access)
    for number in range(MOST_BY_NAME):
        with pytest.raises(NotSignedIn):
            held.sign_in("anna", "a wrong password", f"10.0.0.{number}")
    with pytest.raises(RateLimited):
        held.sign_in("anna", PASSWORD, "10.0.1.1")
    access.add_person("bob", "operator", PASSWORD)
    assert held.sign_in("bob", PASSWORD, "10.0.1.1").session.principal.name == "bob"


@pytest.mark.usefixtures("quick")
def test_the_limit_outlives_a_restart_and_ends_by_itself(access: Access) -> None:
    for _ in range(MOST_BY_NAME):
        with pytest.raises(NotSignedIn):
            Sessions(access).sign_in("anna", "a wrong password", "local")
    with pytest.raises(RateLimited):
        Sessions(access).sign_in("anna", PASSWORD, "local")
    with access.engine.begin() as connection:
        connection.execute(update(failures).values(since=failures.c.since))
        for row in connection.execute(failures.select()).all():
            connection.execute(
                update(failures)
                .where(failures.c.subject == row.subject)
                .values(since=row.since - WINDOW)
            )
    assert Sessions(access).sign_in("anna", PASSWORD, "local").session.principal.name == "anna"


@pytest.mark.usefixtures("quick")
def test_too_many_failures_from_an_address_stop_every_name_there(access: Access) -> None:
    held = Sessions(access)
    for number in range(MOST_BY_ADDRESS):
        with pytest.raises(NotSignedIn):
            held.sign_in(f"name{number}", "a wrong password", "10.0.0.9")
    with pytest.raises(RateLimited):
        held.sign_in("anna", PASSWORD, "10.0.0.9")
    assert held.sign_in("anna", PASSWORD, "10.0.0.8").session.principal.name == "anna"


@pytest.mark.usefixtures("quick")
def test_success_forgives_the_name_but_not_the_address(access: Access) -> None:
    held = Sessions(access)
    for _ in range(MOST_BY_NAME - 1):
        with pytest.raises(NotSignedIn):
            held.sign_in("anna", "a wrong password", "local")
    held.sign_in("anna", PASSWORD, "local")
    with access.engine.connect() as connection:
        (left,) = connection.execute(failures.select()).all()
    assert left.failed == MOST_BY_NAME - 1


def test_of_a_flood_of_attempts_only_a_few_wait(access: Access) -> None:
    held = Sessions(access)
    answers: list[str] = []

    def attempt(number: int) -> None:
        try:
            held.sign_in(f"name{number}", "a wrong password", f"10.0.0.{number}")
        except (NotSignedIn, RateLimited) as error:
            answers.append(type(error).__name__)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(24)]
    with passwords.password_turn():  # somebody is being checked
        for thread in threads:
            thread.start()
        while len(answers) < 24 - passwords.MOST_WAITING:
            assert any(thread.is_alive() for thread in threads)
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert answers.count("RateLimited") >= 24 - passwords.MOST_WAITING
    assert len(answers) == 24


def test_secrets_are_compared_whatever_they_hold() -> None:
    assert same_secret("abc", "abc")
    assert not same_secret("abd", "abc")
    assert not same_secret("", "abc")
    assert not same_secret("\udcff安", "abc")
