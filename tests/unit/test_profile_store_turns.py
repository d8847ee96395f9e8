"""Two writers of one profile store: the second waits for the first and sees all that it wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from party_client import profile_database
from party_client.consent import ConsentRow
from party_client.profile_store import ProfileStore, TagBatch
from party_client.profile_tables import customers, tag_history, tag_values
from privacy.errors import StoreError
from privacy.hosting.database import open_engine
from privacy.hosting.sealing import Column
from tests.profile_stores import (
    CHURN,
    FIRST,
    NOW,
    PURPOSE,
    SECOND,
    batch,
    opened,
    sqlite_url,
    yes,
)

EVERYBODY = ["c1", "c2"]
ROWS = [batch([(one, "high", 0.9) for one in EVERYBODY])]
LONG_ENOUGH = 1.0  # seconds in which a write that need not wait is done


@dataclass
class Meanwhile:
    """Begins `act` in another thread where it stands in what is written, and holds the writer up
    until `act` is done or has shown that it waits."""

    act: Callable[[], object]
    done: Future[object] = field(default_factory=Future)
    waited: bool = False

    def begin(self) -> None:
        threads = ThreadPoolExecutor(1)
        self.done = threads.submit(self.act)
        self.waited = not wait([self.done], LONG_ENOUGH).done
        threads.shutdown(wait=False)


@dataclass
class Slow:
    """Seals as `column` does, but another writer begins before."""

    column: Column
    meanwhile: Meanwhile

    def seal(self, key: bytes, text: str) -> bytes:
        self.meanwhile.begin()
        return self.column.seal(key, text)


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "profile.db")
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def two(url: str) -> Iterator[tuple[ProfileStore, ProfileStore]]:
    """One database opened twice, as the node and a person's command do."""
    stores = opened(url), opened(url)
    stores[0].set_consents(None, now=NOW)
    yield stores
    for store in stores:
        store.close()


def rows_of(store: ProfileStore, customer: str) -> list[int]:
    """How many current tags, earlier ones and sealed ids are kept of a customer."""
    key = store._key(customer)
    with store._engine.connect() as connection:
        return [
            connection.execute(
                select(func.count()).select_from(table).where(table.c.customer_key == key)
            ).scalar_one()
            for table in (tag_values, tag_history, customers)
        ]


def held(meanwhile: Meanwhile) -> Iterator[TagBatch]:
    yield from ROWS
    meanwhile.begin()


def test_an_opt_out_during_a_publication_waits_and_takes_what_it_wrote(
    two: tuple[ProfileStore, ProfileStore],
) -> None:
    one, other = two
    one.publish(FIRST, [batch([(each, "low", 0.1) for each in EVERYBODY])])
    asked = Meanwhile(lambda: other.opt_out("c1", person="ann", reason="asked", now=NOW))
    one.publish(SECOND, held(asked))
    asked.done.result(60)
    assert asked.waited
    assert one.opted_out() == {"c1"}
    assert rows_of(one, "c1") == [0, 0, 0]
    assert rows_of(one, "c2") == [1, 1, 1]


def test_a_publication_during_an_opt_out_waits_and_leaves_the_customer_out(
    two: tuple[ProfileStore, ProfileStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    began = Meanwhile(lambda: other.publish(FIRST, ROWS))
    monkeypatch.setattr(one, "_reason", Slow(one._reason, began))
    one.opt_out("c1", person="ann", reason="asked", now=NOW)
    began.done.result(60)
    assert began.waited
    assert rows_of(one, "c1") == [0, 0, 0]
    assert rows_of(one, "c2") == [1, 0, 1]


def test_a_withdrawal_during_a_publication_waits_and_takes_what_it_wrote(
    two: tuple[ProfileStore, ProfileStore],
) -> None:
    one, other = two
    one.set_consents(yes(EVERYBODY), now=NOW)
    withdrawn = Meanwhile(lambda: other.set_consents(yes(["c2"]), now=NOW))
    one.publish(FIRST, held(withdrawn))
    withdrawn.done.result(60)
    assert withdrawn.waited
    assert rows_of(one, "c1") == [0, 0, 0]
    assert rows_of(one, "c2") == [1, 0, 1]


def test_of_two_consent_refreshes_at_once_the_later_one_holds(
    two: tuple[ProfileStore, ProfileStore],
) -> None:
    one, other = two
    later = Meanwhile(lambda: other.set_consents(yes(["c2"]), now=NOW))

    def rows() -> Iterator[ConsentRow]:
        yield from yes(EVERYBODY)
        later.begin()

    one.set_consents(rows(), now=NOW)
    later.done.result(60)
    assert later.waited
    assert one.publish(FIRST, ROWS).without_consent == 1
    (record,) = one.profile("c2", purpose=PURPOSE, now=NOW).tags
    other.set_consents(yes(["c2"]), now=NOW)
    other.publish(SECOND, ROWS)
    (again,) = one.profile("c2", purpose=PURPOSE, now=NOW).tags
    assert record.provenance.consent_receipt == again.provenance.consent_receipt
    assert one.profile("c1", purpose=PURPOSE, now=NOW).tags == ()


def test_a_note_of_who_takes_part_does_not_wait_for_a_publication_on_a_server(
    two: tuple[ProfileStore, ProfileStore],
) -> None:
    one, other = two
    noted = Meanwhile(
        lambda: other.record_participation("run-9", "p", "a" * 64, trained=["c1"], evaluated=[])
    )
    one.publish(FIRST, held(noted))
    noted.done.result(60)
    assert noted.waited == (one._engine.dialect.name == "sqlite")
    assert len(one.participations("c1")) == 1


def test_the_store_waits_ten_minutes_and_other_databases_fifteen_seconds(url: str) -> None:
    store, plain = opened(url), open_engine(url)
    name = plain.dialect.name
    asked = {
        "sqlite": "PRAGMA busy_timeout",
        "postgresql": "SELECT setting FROM pg_settings WHERE name = 'lock_timeout'",
        "mysql": "SELECT @@SESSION.innodb_lock_wait_timeout",
        "mariadb": "SELECT @@SESSION.innodb_lock_wait_timeout",
    }[name]
    found = []
    for engine in (store._engine, plain):
        with engine.connect() as connection:
            found.append(int(connection.execute(text(asked)).scalar_one()))
    if name == "sqlite":
        assert found == [600_000, 15_000]
    elif name == "postgresql":
        assert found == [0, 0]  # for ever
    else:
        assert found[0] == 600
    plain.dispose()
    store.close()


def test_a_write_whose_wait_ends_says_to_repeat_and_can_be_repeated(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_database, "BUSY_SECONDS", 1)
    one, other = opened(url), opened(url)
    one.set_consents(None, now=NOW)

    def blocked() -> Iterator[TagBatch]:
        yield from ROWS
        if other._engine.dialect.name == "postgresql":
            _impatient(other)
        with pytest.raises(StoreError, match=r"busy with another change.*repeat it"):
            other.opt_out("c1", person="ann", reason="asked", now=NOW)

    assert one.publish(FIRST, blocked()).written == 2
    assert one.opted_out() == frozenset()
    other.opt_out("c1", person="ann", reason="asked", now=NOW)
    assert rows_of(one, "c1") == [0, 0, 0]
    assert {each.customer for each in one.export(CHURN, purpose=PURPOSE, now=NOW)} == {"c2"}
    one.close()
    other.close()


def _impatient(store: ProfileStore) -> None:
    """PostgreSQL waits for ever unless its operator says otherwise."""
    with store._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f"ALTER DATABASE {name} SET lock_timeout = '1s'"))
    store._engine.dispose()
