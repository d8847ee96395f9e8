"""A database that goes away, or has no room left, in the middle of a publication."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from party_client.profile_store import ProfileStore, TagBatch
from privacy.errors import StoreError
from tests.profile_stores import (
    CHURN,
    FIRST,
    NOW,
    PROPENSITY,
    PURPOSE,
    SECOND,
    batch,
    many,
    opened,
    sqlite_url,
)


def runs(store: ProfileStore) -> set[str]:
    found = store.export(CHURN, purpose=PURPOSE, now=NOW)
    return {record.provenance.run_id for record in found}


@pytest.mark.parametrize("after", [0, 1])
def test_a_server_that_goes_away_in_a_publication_publishes_nothing_and_it_can_be_repeated(
    postgresql_url: str, after: int
) -> None:
    store = opened(postgresql_url)
    store.set_consents(None, now=NOW)
    store.publish(FIRST, [many(3000)])
    admin = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")

    def interrupted() -> Iterator[TagBatch]:
        for number, tag in enumerate((CHURN, PROPENSITY)):
            if number == after:
                with admin.connect() as connection:
                    ended = connection.execute(
                        text(
                            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                        )
                    ).scalar_one()
                    assert ended > 0
            rows = many(3000, "high", 0.9)
            yield TagBatch(tag, rows.customers, rows.values, rows.scores, rows.reasons)

    with pytest.raises(StoreError) as caught:
        store.publish(SECOND, interrupted())
    assert "c0" not in str(caught.value)
    assert runs(store) == {"run-1"}
    assert store.history("c00000", CHURN, purpose=PURPOSE, now=NOW) == []
    again = [many(3000, "high", 0.9), batch([("c00000", "low", 0.1)], PROPENSITY)]
    assert store.publish(SECOND, again).written == 3001
    assert runs(store) == {"run-2"}
    admin.dispose()
    store.close()


def test_a_server_that_goes_away_in_an_export_ends_it_with_an_error(postgresql_url: str) -> None:
    store = opened(postgresql_url)
    store.set_consents(None, now=NOW)
    store.publish(FIRST, [many(20_000)])
    export = store.export(CHURN, purpose=PURPOSE, now=NOW)
    next(export)
    admin = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ).all()
    with pytest.raises(StoreError):
        list(export)
    assert runs(store) == {"run-1"}
    admin.dispose()
    store.close()


@pytest.mark.parametrize("room", [1, 20, 60])
def test_a_full_disk_publishes_nothing_and_the_store_goes_on(tmp_path: Path, room: int) -> None:
    """SQLite answers SQLITE_FULL as it does on a full disk; `room`: pages that are left."""
    file = tmp_path / "profile.db"
    store = opened(sqlite_url(file))
    store.set_consents(None, now=NOW)
    store.publish(FIRST, [many(500)])
    with store._engine.connect() as connection:  # the one that the pool keeps
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + room}")
    with pytest.raises(StoreError, match="space"):
        store.publish(SECOND, [many(20_000, "high", 0.9)])
    assert runs(store) == {"run-1"}
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    assert store.publish(SECOND, [many(20_000, "high", 0.9)]).written == 20_000
    assert runs(store) == {"run-2"}
    store.close()
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_full_disk_keeps_an_opt_out_whole(tmp_path: Path) -> None:
    store = opened(sqlite_url(tmp_path / "profile.db"))
    store.set_consents(None, now=NOW)
    store.publish(FIRST, [many(500)])
    reason = "x" * 200_000
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreError):
        store.opt_out("c00001", person="ann", reason=reason, now=NOW)
    assert store.profile("c00001", purpose=PURPOSE, now=NOW).tags
    assert store.opted_out() == frozenset()
    store.close()
