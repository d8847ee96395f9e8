"""Whatever is read of the profile store is of one moment, and of the database that is there."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from party_client.consent import ConsentRow
from party_client.profile_store import ProfileStore, SegmentCount
from privacy.errors import StoreError
from privacy.hosting.database import reading
from tests.profile_stores import (
    CHURN,
    FIRST,
    NOW,
    OTHER_PURPOSE,
    PROPENSITY,
    PURPOSE,
    SECOND,
    THIRD,
    batch,
    opened,
    sqlite_url,
    yes,
)

ELSEWHERE: list[ConsentRow] = [*yes(["c1"], OTHER_PURPOSE), *yes(["c2"])]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "profile.db")
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def two(url: str) -> Iterator[tuple[ProfileStore, ProfileStore]]:
    """One database in two processes' places: who reads, who writes. c1 has a history."""
    reader, writer = opened(url), opened(url)
    writer.set_consents(None, now=NOW)
    writer.publish(FIRST, [batch([("c1", "high", 0.9), ("c2", "low", 0.1)])])
    writer.publish(SECOND, [batch([("c1", "medium", 0.5)])])
    yield reader, writer
    reader.close()
    writer.close()


def _engine(store: ProfileStore) -> Engine:
    with reading(store._engine) as connection:
        return connection.engine


@contextmanager
def _after_consent_is_read(store: ProfileStore, act: Callable[[], object]) -> Iterator[None]:
    """`act` takes place once, right after `store` has first read what the consents are."""
    done: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        if "consent_states" in statement and not done:
            done.append(statement)
            act()

    engines = {store._engine, _engine(store)}
    for engine in engines:
        event.listen(engine, "after_cursor_execute", look)
    yield
    for engine in engines:
        event.remove(engine, "after_cursor_execute", look)
    assert done


def _meanwhile(writer: ProfileStore) -> None:
    """c1 withdraws for PURPOSE, and then both get other values."""
    writer.set_consents(ELSEWHERE, now=NOW)
    writer.publish(THIRD, [batch([("c1", "high", 0.8), ("c2", "medium", 0.4)])])


def test_counts_are_of_one_moment(two: tuple[ProfileStore, ProfileStore]) -> None:
    reader, writer = two
    before = reader.segments(purpose=PURPOSE, now=NOW)
    with _after_consent_is_read(reader, lambda: _meanwhile(writer)):
        found = reader.segments(purpose=PURPOSE, now=NOW)
    after = reader.segments(purpose=PURPOSE, now=NOW)
    assert after == [SegmentCount(CHURN, "medium", 1)] != before
    assert found in (before, after)


def test_one_count_is_of_one_moment(two: tuple[ProfileStore, ProfileStore]) -> None:
    reader, writer = two
    with _after_consent_is_read(reader, lambda: _meanwhile(writer)):
        assert reader.segment(CHURN, "low", purpose=PURPOSE, now=NOW) == 1  # c2, as it was
    assert reader.segment(CHURN, "low", purpose=PURPOSE, now=NOW) == 0


def test_an_export_is_of_one_moment(two: tuple[ProfileStore, ProfileStore]) -> None:
    reader, writer = two

    def found() -> dict[str, str]:
        rows = reader.export(CHURN, purpose=PURPOSE, now=NOW)
        return {row.customer: row.value for row in rows}

    before = found()
    with _after_consent_is_read(reader, lambda: _meanwhile(writer)):
        meanwhile = found()
    assert found() == {"c2": "medium"}
    assert meanwhile in (before, {"c2": "medium"})


def test_a_history_is_of_one_moment(two: tuple[ProfileStore, ProfileStore]) -> None:
    reader, writer = two
    with _after_consent_is_read(reader, lambda: _meanwhile(writer)):
        found = reader.history("c1", CHURN, purpose=PURPOSE, now=NOW)
    assert [one.value for one in found] == ["high"]  # and not what was replaced after withdrawal
    assert reader.history("c1", CHURN, purpose=PURPOSE, now=NOW) == []


@pytest.mark.parametrize("change", ["opt-out", "withdrawal", "publication"])
def test_a_look_up_is_of_one_moment(two: tuple[ProfileStore, ProfileStore], change: str) -> None:
    reader, writer = two

    def act() -> None:
        if change == "opt-out":
            writer.opt_out("c1", person="p", reason="asked", now=NOW)
        elif change == "withdrawal":
            writer.set_consents(ELSEWHERE, now=NOW)
        else:
            writer.publish(THIRD, [batch([("c1", "low", 0.2)]), batch([], PROPENSITY)])

    before = reader.profile("c1", purpose=PURPOSE, now=NOW)
    with _after_consent_is_read(reader, act):
        found = reader.profile("c1", purpose=PURPOSE, now=NOW)
    after = reader.profile("c1", purpose=PURPOSE, now=NOW)
    assert before != after
    assert found in (before, after)


def test_after_a_read_of_one_moment_the_next_one_is_of_its_own(
    two: tuple[ProfileStore, ProfileStore],
) -> None:
    reader, writer = two
    customers = [f"c{number}" for number in range(3000)]  # more than one page
    writer.publish(THIRD, [batch([(one, "high", 0.9) for one in customers])])
    rows = reader.export(CHURN, purpose=PURPOSE, now=NOW)
    next(rows)
    writer.opt_out("c1", person="p", reason="asked", now=NOW)
    assert reader.profile("c1", purpose=PURPOSE, now=NOW).opted_out
    rows.close()  # type: ignore[attr-defined]
    assert reader.segment(CHURN, "high", purpose=PURPOSE, now=NOW) == 2999
    writer.opt_out("c2", person="p", reason="asked", now=NOW)
    assert reader.segment(CHURN, "high", purpose=PURPOSE, now=NOW) == 2998
    assert reader.profile("c2", purpose=PURPOSE, now=NOW).opted_out


def test_a_customer_without_reasons_has_none(two: tuple[ProfileStore, ProfileStore]) -> None:
    reader, writer = two
    writer.publish(THIRD, [replace(batch([("c1", "low", 0.2)]), reasons=[""])])
    [tag] = reader.profile("c1", purpose=PURPOSE, now=NOW).tags
    assert (tag.value, tag.reasons) == ("low", ())


# Another database in the place of the one that was opened ----------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "profile.db"


@pytest.fixture
def store(file: Path) -> Iterator[ProfileStore]:
    store = opened(sqlite_url(file))
    store.set_consents(None, now=NOW)
    store.publish(FIRST, [batch([("c1", "high", 0.9)])])
    yield store
    store.close()


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


def _seen(store: ProfileStore) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [
        (one.tag, one.value, one.provenance.run_id, one.reasons)
        for one in store.profile("c1", purpose=PURPOSE, now=NOW).tags
    ]


@pytest.mark.parametrize("looked", [True, False], ids=["looked up between", "not looked up"])
def test_what_was_restored_is_not_taken_for_what_was_there(
    store: ProfileStore, file: Path, tmp_path: Path, looked: bool
) -> None:
    """Numbers of publications, tags and reasons are given out a second time then."""
    _copy(file, tmp_path / "backup")
    rows = [("c1", "low", 0.1)]
    store.publish(SECOND, [replace(batch(rows, PROPENSITY), reasons=["tenure"])])
    assert (PROPENSITY, "low", "run-2", ("tenure",)) in _seen(store)
    with closing(opened(sqlite_url(file))) as other:
        _copy(tmp_path / "backup", file)
        if looked:
            assert len(_seen(store)) == 1
        other.publish(THIRD, [replace(batch(rows), reasons=["recency"])])
        assert _seen(store) == _seen(other) == [(CHURN, "low", "run-3", ("recency",))]


def test_another_file_in_the_databases_place_is_the_database(
    store: ProfileStore, file: Path, tmp_path: Path
) -> None:
    _copy(file, tmp_path / "backup")
    store.opt_out("c1", person="p", reason="asked", now=NOW)
    assert store.profile("c1", purpose=PURPOSE, now=NOW).opted_out
    for side in ("-wal", "-shm"):
        file.with_name(file.name + side).unlink()
    os.replace(tmp_path / "backup", file)
    assert _seen(store) == [(CHURN, "high", "run-1", ("recency", "frequency", "tenure"))]
    store.opt_out("c1", person="p", reason="asked again", now=NOW)
    with closing(opened(sqlite_url(file))) as other:
        assert other.opted_out() == {"c1"}  # not written into the file that is gone
    assert _seen(store) == []


def test_a_database_that_is_gone_is_not_answered_from_and_not_made_anew(
    store: ProfileStore, file: Path
) -> None:
    assert _seen(store)
    shutil.move(file, file.with_name("aside"))
    for ask in (store.consent_known, lambda: store.set_consents(None, now=NOW)):
        with pytest.raises(StoreError, match="is gone"):
            ask()
    assert not file.exists()
    shutil.move(file.with_name("aside"), file)
    assert _seen(store)


def test_nothing_is_written_by_a_reading_connection(store: ProfileStore) -> None:
    with reading(store._engine) as connection, pytest.raises(Exception, match="readonly"):
        connection.exec_driver_sql("DELETE FROM opt_outs")
