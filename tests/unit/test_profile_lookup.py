"""A look-up keeps in memory what never changes, and nothing that does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from party_client import profile_lookup
from party_client.profile_store import ProfileStore
from privacy.errors import StoreError
from privacy.hosting.database import reading
from tests.profile_stores import (
    CHURN,
    FIRST,
    NOW,
    PROPENSITY,
    PURPOSE,
    SECOND,
    batch,
    opened,
    sqlite_url,
    yes,
)

ROWS = [("c1", "high", 0.9), ("c2", "low", 0.1)]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[ProfileStore]:
    store = opened(sqlite_url(tmp_path / "profile.db"))
    yield store
    store.close()


@pytest.fixture
def reader(tmp_path: Path, writer: ProfileStore) -> Iterator[ProfileStore]:
    """The same store in another process's place."""
    store = opened(sqlite_url(tmp_path / "profile.db"))
    yield store
    store.close()


def _tags(store: ProfileStore, customer: str = "c1") -> dict[str, tuple[str, str]]:
    profile = store.profile(customer, purpose=PURPOSE, now=NOW)
    return {one.tag: (one.value, one.provenance.run_id) for one in profile.tags}


def test_what_another_process_publishes_is_seen_at_the_next_look_up(
    writer: ProfileStore, reader: ProfileStore
) -> None:
    with pytest.raises(StoreError, match="consent refresh"):
        _tags(reader)
    writer.set_consents(None, now=NOW)
    assert _tags(reader) == {}
    writer.publish(FIRST, [batch(ROWS)])
    assert _tags(reader) == {CHURN: ("high", "run-1")}
    writer.publish(SECOND, [batch([("c1", "low", 0.2)]), batch(ROWS, PROPENSITY)])
    assert _tags(reader) == {CHURN: ("low", "run-2"), PROPENSITY: ("high", "run-2")}
    assert _tags(reader, "c2") == {CHURN: ("low", "run-1"), PROPENSITY: ("low", "run-2")}


def test_a_withdrawal_and_an_opt_out_hold_from_the_next_look_up_on(
    writer: ProfileStore, reader: ProfileStore
) -> None:
    writer.set_consents(yes(["c1", "c2"]), now=NOW)
    writer.publish(FIRST, [batch(ROWS)])
    assert _tags(reader, "c1")
    assert _tags(reader, "c2")
    writer.set_consents(yes(["c2"]), now=NOW)
    writer.opt_out("c2", person="p", reason="asked", now=NOW)
    found = reader.profile("c1", purpose=PURPOSE, now=NOW)
    assert (found.consent, found.opted_out, found.tags) == (False, False, ())
    found = reader.profile("c2", purpose=PURPOSE, now=NOW)
    assert (found.opted_out, found.tags) == (True, ())


def test_a_tag_expires_though_its_publication_is_in_memory(writer: ProfileStore) -> None:
    writer.set_consents(None, now=NOW)
    writer.publish(FIRST, [batch(ROWS)])
    assert FIRST.valid_until is not None
    for days, seen in ((90, 1), (91, 0), (90, 1)):
        moment = NOW + timedelta(days=days)
        assert len(writer.profile("c1", purpose=PURPOSE, now=moment).tags) == seen


def test_a_repeated_look_up_is_one_statement(writer: ProfileStore) -> None:
    writer.set_consents(yes(["c1", "c2"]), now=NOW)
    writer.publish(FIRST, [batch(ROWS)])
    _tags(writer)
    said: list[str] = []
    with reading(writer._engine) as connection:
        engine = connection.engine
    event.listen(engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    assert _tags(writer, "c2") == {CHURN: ("low", "run-1")}
    assert len(said) == 1


def test_reasons_beyond_what_is_kept_are_read_each_time(
    writer: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_lookup, "MOST_REASONS", 0)
    writer.set_consents(None, now=NOW)
    writer.publish(FIRST, [batch(ROWS)])
    for _ in range(2):
        [tag] = writer.profile("c1", purpose=PURPOSE, now=NOW).tags
        assert tag.reasons == ("recency", "frequency", "tenure")
