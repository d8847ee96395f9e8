"""Consent and opt-out in the profile store: what they take away, and what stays away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from party_client.consent import ConsentRow
from party_client.opt_out import earlier_rows
from party_client.profile_store import ProfileStore
from party_client.profile_tables import (
    consents,
    customers,
    opt_outs,
    participations,
    publication_tags,
    tag_history,
    tag_values,
)
from privacy.errors import StoreError
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
    catalogue,
    many,
    opened,
    sqlite_url,
    yes,
)

EVERYBODY = ["c1", "c2", "c3"]
ROWS = [batch([(one, "high", 0.9) for one in EVERYBODY])]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ProfileStore]:
    """An empty store on each of the three."""
    if request.param == "sqlite":
        url = sqlite_url(tmp_path / "profile.db")
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    store = opened(url, events=True)
    yield store
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    store = opened(sqlite_url(tmp_path / "profile.db"), events=True)
    yield store
    store.close()


def seen(store: ProfileStore, purpose: str = PURPOSE, now: datetime = NOW) -> set[str]:
    """Who has a readable churn tag; profile, export and count must agree."""
    found = {one.customer for one in store.export(CHURN, purpose=purpose, now=now)}
    assert store.segment(CHURN, None, purpose=purpose, now=now) == len(found)
    for customer in EVERYBODY:
        profile = store.profile(customer, purpose=purpose, now=now)
        assert bool(profile.tags) == (customer in found)
    return found


def rows_of(store: ProfileStore, *tables: object) -> list[int]:
    with store._engine.connect() as connection:
        return [
            connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]
            for table in tables
        ]


# Consent -----------------------------------------------------------------------------------------


def test_nothing_is_written_or_read_before_consent_is_known(store: ProfileStore) -> None:
    assert not store.consent_known()
    for attempt in (
        lambda: store.publish(FIRST, ROWS),
        lambda: store.profile("c1", purpose=PURPOSE),
        lambda: store.segments(purpose=PURPOSE),
        lambda: list(store.export(CHURN, purpose=PURPOSE)),
        lambda: store.history("c1", CHURN, purpose=PURPOSE),
    ):
        with pytest.raises(StoreError, match="consent refresh"):
            attempt()
    store.set_consents(None, now=NOW)
    assert store.consent_known()
    assert store.publish(FIRST, ROWS).written == 3


def test_consent_is_for_a_purpose_and_a_row_for_all_stands_where_none_names_it(
    each: ProfileStore,
) -> None:
    yesterday = NOW - timedelta(days=1)
    each.set_consents(
        [
            ConsentRow("c1", "*", True, yesterday, None, None),
            ConsentRow("c1", OTHER_PURPOSE, False, yesterday, None, None),
            ConsentRow("c2", PURPOSE, True, yesterday, None, None),
            ConsentRow("c3", "*", False, yesterday, None, None),
            ConsentRow("c3", OTHER_PURPOSE, True, yesterday, None, None),
        ],
        now=NOW,
    )
    done = each.publish(FIRST, ROWS)
    assert (done.written, done.without_consent) == (3, 0)
    assert seen(each, PURPOSE) == {"c1", "c2"}
    assert seen(each, OTHER_PURPOSE) == {"c3"}


@pytest.mark.parametrize(
    ("row", "before", "after"),
    [
        (ConsentRow("c1", "*", True, NOW, None, None), False, True),
        (ConsentRow("c1", "*", True, None, NOW, None), True, False),
        (ConsentRow("c1", "*", True, None, None, NOW), True, False),
    ],
    ids=["granted", "expired", "withdrawn"],
)
def test_a_consent_stands_from_when_it_is_granted_until_it_ends(
    each: ProfileStore, row: ConsentRow, before: bool, after: bool
) -> None:
    each.set_consents(None, now=NOW)
    each.publish(FIRST, ROWS)
    moment = timedelta(microseconds=1)
    standing = NOW - moment if before else NOW
    each.set_consents([row], now=standing)
    for now, wanted in ((NOW - moment, before), (NOW, after)):
        assert seen(each, now=now) == ({"c1"} if wanted else set())


def test_nobody_is_published_without_consent_to_a_purpose_of_the_tag(each: ProfileStore) -> None:
    each.set_consents([*yes(["c1"]), *yes(["c2"], "research")], now=NOW)
    done = each.publish(FIRST, ROWS)
    assert (done.written, done.without_consent) == (1, 2)
    assert seen(each) == {"c1"}


def test_who_withdraws_loses_tags_history_and_the_sealed_id(each: ProfileStore) -> None:
    each.set_consents(yes(EVERYBODY), now=NOW)
    each.publish(FIRST, ROWS)
    each.publish(SECOND, [batch([(one, "low", 0.1) for one in EVERYBODY])])
    assert rows_of(each, tag_values, tag_history, customers) == [3, 3, 3]
    each.set_consents([*yes(["c1"]), ConsentRow("c2", "*", False, None, None, None)], now=NOW)
    assert seen(each) == {"c1"}
    assert rows_of(each, tag_values, tag_history, customers) == [1, 1, 1]
    assert [one.type for one in each.pending_events()][-1] == "consent.changed"
    each.set_consents(yes(EVERYBODY), now=NOW)
    assert seen(each) == {"c1"}  # what was removed does not come back by itself
    each.publish(THIRD, ROWS)
    assert seen(each) == set(EVERYBODY)


def test_who_withdraws_from_one_purpose_loses_the_tags_that_serve_no_other(
    tmp_path: Path,
) -> None:
    overlay = tmp_path / "catalogue.toml"
    overlay.write_text('format = 1\n[tags.purchase_propensity]\npurposes = ["marketing"]\n')
    store = opened(sqlite_url(tmp_path / "profile.db"), known=catalogue(overlay))
    store.set_consents(yes(["c1"]), now=NOW)
    rows = [batch([("c1", "high", 0.9)]), batch([("c1", "high", 0.9)], PROPENSITY)]
    store.publish(FIRST, rows)
    store.set_consents(yes(["c1"], OTHER_PURPOSE), now=NOW)
    assert rows_of(store, tag_values) == [1]
    assert store.profile("c1", purpose=OTHER_PURPOSE, now=NOW).tags[0].tag == CHURN
    store.close()


def test_a_state_of_consent_has_one_receipt_and_another_state_another(
    store: ProfileStore,
) -> None:
    receipts = []
    states = [yes(EVERYBODY), list(reversed(yes(EVERYBODY))), yes(["c1"]), None]
    for number, rows in enumerate(states):
        store.set_consents(rows, now=NOW)
        store.publish(replace(FIRST, run_id=f"run-{number}"), [batch([("c1", "low", 0.1)])])
        (record,) = store.profile("c1", purpose=PURPOSE, now=NOW).tags
        receipts.append(record.provenance.consent_receipt)
    assert receipts[0] == receipts[1]
    assert len(set(receipts)) == 3


def test_two_rows_for_one_customer_and_purpose_are_refused(each: ProfileStore) -> None:
    each.set_consents(yes(["c1"]), now=NOW)
    with pytest.raises(StoreError):
        each.set_consents([*yes(["c1"]), *yes(["c1"])], now=NOW)
    assert rows_of(each, consents) == [1]


def test_no_id_is_kept_of_who_consents_to_nothing_that_was_published(each: ProfileStore) -> None:
    each.set_consents([*yes(["c1"]), *yes(["c2"], "research")], now=NOW)
    each.publish(FIRST, [batch([("c1", "high", 0.9)])])
    assert each.publish(SECOND, ROWS).without_consent == 2
    assert rows_of(each, tag_values, customers) == [1, 1]
    assert seen(each) == {"c1"}
    each.set_consents(yes(EVERYBODY), now=NOW)
    each.publish(THIRD, ROWS)
    assert seen(each) == set(EVERYBODY)
    assert rows_of(each, customers) == [3]


# Opt-out -----------------------------------------------------------------------------------------


def test_an_opt_out_takes_tags_and_history_and_leaves_a_tombstone(each: ProfileStore) -> None:
    each.set_consents(yes(EVERYBODY), now=NOW)
    each.publish(FIRST, ROWS)
    each.publish(SECOND, [batch([(one, "low", 0.1) for one in EVERYBODY])])
    done = each.opt_out("c2", person="ann", reason="asked by letter", now=NOW)
    assert (done.customer, done.at, done.models, done.repeated) == ("c2", NOW, (), False)
    assert seen(each) == {"c1", "c3"}
    assert rows_of(each, tag_values, tag_history, customers, opt_outs) == [2, 2, 2, 1]
    assert each.opted_out() == {"c2"}
    profile = each.profile("c2", purpose=PURPOSE, now=NOW)
    assert (profile.opted_out, profile.tags) == (True, ())
    assert each.history("c2", CHURN, purpose=PURPOSE, now=NOW) == []


def test_no_later_import_or_publication_brings_the_tags_back(each: ProfileStore) -> None:
    each.set_consents(yes(EVERYBODY), now=NOW)
    each.opt_out("c2", person="ann", reason="asked", now=NOW)
    each.set_consents(yes(EVERYBODY), now=NOW)
    done = each.publish(FIRST, ROWS)
    assert (done.written, done.opted_out) == (2, 1)
    assert seen(each) == {"c1", "c3"}
    each.set_consents(None, now=NOW)
    assert each.publish(SECOND, ROWS).opted_out == 1
    assert seen(each) == {"c1", "c3"}
    assert rows_of(each, customers) == [2]


def test_an_opt_out_lists_the_models_that_the_customer_took_part_in(each: ProfileStore) -> None:
    each.record_participation("run-1", "churn", "a" * 64, trained=["c1", "c2"], evaluated=["c3"])
    each.record_participation("run-2", "churn", "a" * 64, trained=["c1"], evaluated=["c2"])
    each.record_participation("run-3", "other", "d" * 64, trained=["c3"], evaluated=[])
    each.name_model("run-1", "e" * 64)
    found = each.opt_out("c2", person="ann", reason="asked", now=NOW).models
    assert [(one.run_id, one.plan, one.role, one.model_digest) for one in found] == [
        ("run-1", "churn", "trained", "e" * 64),
        ("run-2", "churn", "evaluated", None),
    ]
    assert [one.run_id for one in each.participations("c3")] == ["run-1", "run-3"]
    assert each.participations("nobody") == ()


def test_taking_part_is_noted_once_however_often_a_run_comes_back(each: ProfileStore) -> None:
    for members in (["c1", "c2"], ["c2", "c3"], ["c1"]):
        each.record_participation("run-1", "churn", "a" * 64, trained=members, evaluated=[])
    for customer in EVERYBODY:
        assert [one.run_id for one in each.participations(customer)] == ["run-1"]
    assert rows_of(each, participations) == [2]


def test_many_members_are_kept_in_parts_and_found_in_each(store: ProfileStore) -> None:
    members = [f"m{number}" for number in range(250_000)]
    store.record_participation("run-1", "churn", "a" * 64, trained=members, evaluated=[])
    assert rows_of(store, participations) == [4]
    for number in (0, 1, 99_999, 100_000, 249_999):
        assert len(store.participations(f"m{number}")) == 1
    assert store.participations("m250000") == ()


def test_opting_out_twice_keeps_the_first_day(each: ProfileStore) -> None:
    each.opt_out("c1", person="ann", reason="asked", now=NOW)
    again = each.opt_out("c1", person="bob", reason="again", now=NOW + timedelta(days=9))
    assert (again.at, again.repeated) == (NOW, True)
    assert rows_of(each, opt_outs) == [1]
    assert [one.type for one in each.pending_events()] == ["customer.opted_out"]


def test_somebody_unknown_may_opt_out_in_advance(each: ProfileStore) -> None:
    each.opt_out("c1'; drop table opt_outs; --", person="ann", reason="asked", now=NOW)
    assert each.opted_out() == {"c1'; drop table opt_outs; --"}


def test_an_opt_out_after_very_many_publications_takes_all_history(each: ProfileStore) -> None:
    """More of them than a statement of any database takes values."""
    each.set_consents(None, now=NOW)
    each.publish(FIRST, ROWS)
    last = 70_000
    with each._engine.begin() as connection:
        (first,) = connection.execute(select(publication_tags)).all()
        more = [first._asdict() | {"publication_id": number} for number in range(2, last + 1)]
        for start in range(0, len(more), 10_000):
            connection.execute(insert(publication_tags), more[start : start + 10_000])
        (row,) = connection.execute(select(tag_values).limit(1)).all()
        columns = {column.name for column in tag_history.c}
        kept = {name: value for name, value in row._asdict().items() if name in columns}
        earlier = [
            kept | {"customer_key": each._key(one), "publication_id": number, "replaced_by": last}
            for number in (1, 2, last // 2, last)
            for one in EVERYBODY
        ]
        connection.execute(insert(tag_history), earlier)
    each.opt_out("c2", person="ann", reason="asked", now=NOW)
    assert rows_of(each, tag_values, tag_history) == [2, 8]


def test_an_opt_out_that_fails_changes_nothing(
    store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event comes last; without it nothing else may stay."""
    from party_client import outbox

    def fails(*_: object, **__: object) -> None:
        raise StoreError("the disk is full")

    store.set_consents(None, now=NOW)
    store.publish(FIRST, ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "add_event", fails)
        with pytest.raises(StoreError):
            store.opt_out("c2", person="ann", reason="asked", now=NOW)
    assert seen(store) == set(EVERYBODY)
    assert store.opted_out() == frozenset()


def test_an_opt_out_does_not_wait_for_much_history(store: ProfileStore) -> None:
    """Its rows are looked up by their whole key."""
    store.set_consents(None, now=NOW)
    store.publish(FIRST, [many(3000)])
    store.publish(SECOND, [many(3000, "high", 0.9)])
    with store._engine.connect() as connection:
        asked = earlier_rows().params(key=b"")
        kwargs = {"literal_binds": True, "render_postcompile": True}
        shown = asked.compile(connection, compile_kwargs=kwargs).string
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {shown}").all()
    assert "USING PRIMARY KEY (publication_id=? AND tag_id=? AND customer_key=?)" in str(plan)
    store.opt_out("c00007", person="ann", reason="asked", now=NOW)
    assert rows_of(store, tag_values, tag_history) == [2999, 2999]
