"""The profile store: tags of one run together or not at all, history, expiry, on each database."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, select, text

from party_client.profile_records import TagRecord
from party_client.profile_store import ProfileStore, TagBatch
from party_client.profile_tables import customers, metadata, tag_history
from privacy.errors import ConfigError, DataError, StoreError
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
)

ROWS = [
    batch([("c1", "high", 0.9), ("c2", "low", 0.1)]),
    batch([("c2", "medium", 0.5)], PROPENSITY),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "profile.db"


@pytest.fixture
def store(file: Path) -> Iterator[ProfileStore]:
    store = opened(sqlite_url(file))
    store.set_consents(None, now=NOW)
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database on each of the three."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "profile.db")
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def each(url: str) -> Iterator[ProfileStore]:
    store = opened(url)
    store.set_consents(None, now=NOW)
    yield store
    store.close()


def shown(store: ProfileStore, customer: str) -> dict[str, tuple[str, str]]:
    profile = store.profile(customer, purpose=PURPOSE, now=NOW)
    return {one.tag: (one.value, one.provenance.run_id) for one in profile.tags}


def exported(store: ProfileStore, **options: str) -> list[TagRecord]:
    return list(store.export(CHURN, purpose=PURPOSE, now=NOW, **options))


def earlier(store: ProfileStore, customer: str, tag: str = CHURN) -> list[tuple[str, str, str]]:
    return [
        (one.value, one.provenance.run_id, str(one.replaced_by))
        for one in store.history(customer, tag, purpose=PURPOSE, now=NOW)
    ]


# On each database --------------------------------------------------------------------------------


def test_a_tag_is_read_with_its_provenance_and_reasons(each: ProfileStore) -> None:
    each.publish(FIRST, ROWS)
    (record,) = each.profile("c1", purpose=PURPOSE, now=NOW).tags
    assert (record.customer, record.tag, record.value, record.score) == ("c1", CHURN, "high", 0.9)
    assert record.reasons == ("recency", "frequency", "tenure")
    assert record.valid_until == FIRST.valid_until
    source = record.provenance
    for name in ("run_id", "kind", "plan_digest", "model_digest", "parties", "epsilon", "as_of"):
        assert getattr(source, name) == getattr(FIRST, name)
    assert source.published_at == FIRST.published_at
    assert len(source.consent_receipt) == 64
    tags = each.profile("c2", purpose=PURPOSE, now=NOW).tags
    assert [one.tag for one in tags] == [CHURN, PROPENSITY]
    assert each.profile("nobody", purpose=PURPOSE, now=NOW).tags == ()


def test_a_later_run_replaces_and_the_history_keeps_what_was(each: ProfileStore) -> None:
    each.publish(FIRST, ROWS)
    each.publish(SECOND, [batch([("c2", "medium", 0.4), ("c3", "low", 0.2)])])
    each.publish(THIRD, [batch([("c2", "high", 0.8)])])
    assert shown(each, "c1") == {CHURN: ("high", "run-1")}
    assert shown(each, "c2") == {CHURN: ("high", "run-3"), PROPENSITY: ("medium", "run-1")}
    assert earlier(each, "c2") == [("medium", "run-2", "run-3"), ("low", "run-1", "run-2")]
    assert earlier(each, "c1") == []


def test_what_says_the_same_again_is_renewed_without_history(each: ProfileStore) -> None:
    each.publish(FIRST, [batch([("c1", "high", 0.9), ("c2", "low", 0.1)])])
    each.publish(SECOND, [batch([("c1", "high", 0.9), ("c2", "low", 0.2)])])
    assert earlier(each, "c1") == []
    assert earlier(each, "c2") == [("low", "run-1", "run-2")]
    (record,) = each.profile("c1", purpose=PURPOSE, now=NOW).tags
    assert (record.provenance.run_id, record.valid_until) == ("run-2", SECOND.valid_until)


def test_an_export_since_a_run_has_only_values_that_a_later_run_changed(
    each: ProfileStore,
) -> None:
    each.publish(FIRST, [batch([("c1", "high", 0.9), ("c2", "low", 0.1)])])
    each.publish(SECOND, [batch([("c1", "high", 0.8), ("c2", "medium", 0.5), ("c3", "low", 0.1)])])
    assert {one.customer for one in exported(each, since="run-1")} == {"c2", "c3"}
    assert exported(each, since="run-2") == []
    with pytest.raises(StoreError, match="no run of this name"):
        exported(each, since="run-9")


def test_a_value_of_none_takes_the_tag_away_into_the_history(each: ProfileStore) -> None:
    each.publish(FIRST, [batch([("c1", "high", 0.9), ("c2", "low", 0.1)])])
    each.publish(SECOND, [TagBatch(CHURN, ["c1", "c2", "c3"], [None, "low", None], None)])
    assert shown(each, "c1") == {}
    assert shown(each, "c2") == {CHURN: ("low", "run-2")}
    assert shown(each, "c3") == {}
    each.publish(THIRD, [batch([("c1", "low", 0.2)])])
    assert earlier(each, "c1") == [("high", "run-1", "run-2")]


def test_publishing_a_run_again_changes_nothing(each: ProfileStore) -> None:
    assert each.publish(FIRST, ROWS).written == 3
    assert each.publish(FIRST, [batch([("c1", "low", 0.2)])]).written == 0
    assert shown(each, "c1") == {CHURN: ("high", "run-1")}
    assert earlier(each, "c1") == []


def test_a_failure_midway_publishes_nothing(each: ProfileStore) -> None:
    def broken() -> Iterator[TagBatch]:
        yield many(3000)
        raise DataError("the source went away")

    each.publish(FIRST, [many(10)])
    with pytest.raises(DataError):
        each.publish(SECOND, broken())
    assert {one.provenance.run_id for one in exported(each)} == {"run-1"}
    each.publish(SECOND, [many(10, "high", 0.9)])
    assert {one.provenance.run_id for one in exported(each)} == {"run-2"}
    assert earlier(each, "c00003") == [("low", "run-1", "run-2")]


@pytest.mark.parametrize("apart", [1, 1500])
def test_two_rows_for_one_customer_publish_nothing(each: ProfileStore, apart: int) -> None:
    with pytest.raises(StoreError, match="two rows for one customer") as caught:
        each.publish(FIRST, [many(apart), many(1, "high", 0.9)])
    assert "c00000" not in str(caught.value)
    assert exported(each) == []
    each.publish(FIRST, [many(1)])
    assert len(exported(each)) == 1


def test_ids_that_look_like_sql_or_differ_in_case_are_just_ids(each: ProfileStore) -> None:
    names = ["'; drop table tag_values; --", "A1", "a1", "客户-7", "%", "_", "a\tb\\N\n", " "]
    each.publish(FIRST, [batch([(name, "low", 0.1) for name in names])])
    for name in names:
        assert shown(each, name) == {CHURN: ("low", "run-1")}
    assert {one.customer for one in exported(each)} == set(names)


def test_segments_count_exactly(each: ProfileStore) -> None:
    each.publish(FIRST, ROWS)
    counts = {(one.tag, one.value): one.count for one in each.segments(purpose=PURPOSE, now=NOW)}
    assert counts == {(CHURN, "high"): 1, (CHURN, "low"): 1, (PROPENSITY, "medium"): 1}
    assert each.segment(CHURN, None, purpose=PURPOSE, now=NOW) == 2
    assert each.segment(CHURN, "high", purpose=PURPOSE, now=NOW) == 1
    assert each.segment(CHURN, "high", purpose="nothing", now=NOW) == 0


def test_an_expired_tag_is_not_read(each: ProfileStore) -> None:
    each.publish(FIRST, ROWS)
    assert FIRST.valid_until is not None
    last = NOW + (FIRST.valid_until - NOW.date())
    assert len(each.profile("c1", purpose=PURPOSE, now=last).tags) == 1
    after = last + timedelta(days=1)
    assert each.profile("c1", purpose=PURPOSE, now=after).tags == ()
    assert list(each.export(CHURN, purpose=PURPOSE, now=after)) == []
    assert each.segments(purpose=PURPOSE, now=after) == []


def test_many_tags_of_the_same_customers_go_in_together(each: ProfileStore) -> None:
    first = many(2500)
    same = replace(first, tag=PROPENSITY)
    assert same.customers is first.customers
    assert each.publish(FIRST, [first, same]).written == 5000
    assert each.publish(SECOND, [replace(first, scores=[0.3] * 2500), same]).written == 5000
    assert shown(each, "c02499") == {CHURN: ("low", "run-2"), PROPENSITY: ("low", "run-2")}
    assert [len(earlier(each, "c00007", tag)) for tag in (CHURN, PROPENSITY)] == [1, 0]


def test_no_plain_id_stands_in_the_database(each: ProfileStore) -> None:
    each.publish(FIRST, [batch([("very-secret-id", "low", 0.1)])])
    each.opt_out("another-secret-id", person="ann", reason="a-secret-reason", now=NOW)
    with each._engine.connect() as connection:
        for table in metadata.sorted_tables:
            assert b"secret" not in repr(connection.execute(select(table)).all()).encode(), table
    assert [one.customer for one in exported(each)] == ["very-secret-id"]


def test_the_migrations_make_the_tables_that_the_code_uses(
    each: ProfileStore, tmp_path: Path
) -> None:
    made = inspect(each._engine)
    names = set(made.get_table_names()) - {"alembic_version"}
    assert names == {table.name for table in metadata.sorted_tables}
    if each._engine.dialect.name != "sqlite":
        schema = "code_makes"
        with each._engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
        wanted_engine = each._engine.execution_options(schema_translate_map={None: schema})
    else:
        schema = None
        wanted_engine = create_engine(f"sqlite:///{tmp_path / 'fresh.db'}")
    metadata.create_all(wanted_engine)
    wanted = inspect(wanted_engine)
    try:
        for name in names:
            for aspect in ("get_columns", "get_pk_constraint", "get_unique_constraints"):
                found = repr(getattr(made, aspect)(name))
                expected = repr(getattr(wanted, aspect)(name, schema=schema))
                assert found == expected.replace(f"{schema}.", ""), (name, aspect)
    finally:
        if schema is not None:
            tail = " CASCADE" if each._engine.dialect.name == "postgresql" else ""
            with each._engine.begin() as connection:
                connection.execute(text(f"DROP SCHEMA {schema}{tail}"))


def test_who_is_in_no_later_local_publication_of_a_tag_loses_it_into_the_history(
    each: ProfileStore,
) -> None:
    each.publish(FIRST, ROWS)
    first, second = (
        replace(FIRST, run_id=f"local-{number}", kind="local", plan_digest=None)
        for number in (1, 2)
    )
    each.publish(first, [TagBatch("new_customer", ["c1", "c2", "c3"], ["yes"] * 3)])
    each.publish(second, [TagBatch("new_customer", ["c2"], ["yes"])])
    assert shown(each, "c1") == {CHURN: ("high", "run-1")}
    assert shown(each, "c2")["new_customer"] == ("yes", "local-2")
    assert earlier(each, "c1", "new_customer") == [("yes", "local-1", "local-2")]
    assert earlier(each, "c2", "new_customer") == []
    each.publish(SECOND, [batch([("c1", "low", 0.1)])])
    assert shown(each, "c2")[PROPENSITY] == ("medium", "run-1"), "a joint run is of its cohort"


# On SQLite ---------------------------------------------------------------------------------------


def test_a_new_file_is_readable_by_its_owner_only(store: ProfileStore, file: Path) -> None:
    store.publish(FIRST, ROWS)
    modes = {stat.S_IMODE(one.stat().st_mode) for one in file.parent.iterdir()}
    assert modes == {0o600}


def test_a_run_is_never_published_over_by_another_model(store: ProfileStore) -> None:
    store.publish(FIRST, ROWS)
    for other in (
        replace(FIRST, model_digest="d" * 64),
        replace(FIRST, plan_digest="d" * 64),
        replace(FIRST, kind="local"),
    ):
        with pytest.raises(StoreError, match="never published over"):
            store.publish(other, ROWS)


@pytest.mark.parametrize(
    "broken",
    [
        batch([("", "low", 0.1)]),
        batch([("x" * 256, "low", 0.1)]),
        batch([("secret\ud800", "low", 0.1)]),
        batch([("secret", "low", 0.1)], "religion"),
        batch([("secret", "low", 0.1)], "prediction"),
        batch([("secret", "lowest", 0.1)]),
        batch([("secret", "low", float("nan"))]),
        batch([("secret", "low", 1.5)]),
        TagBatch(CHURN, ["secret"], ["low", "low"]),
        TagBatch(CHURN, ["secret"], ["low"], None, ["x" * 256]),
    ],
)
def test_a_row_that_is_not_a_tag_publishes_nothing(store: ProfileStore, broken: TagBatch) -> None:
    with pytest.raises(StoreError) as caught:
        store.publish(FIRST, [*ROWS, broken])
    assert "secret" not in str(caught.value)
    assert shown(store, "c1") == {}


@pytest.mark.parametrize("state", ["draft", "frozen", "retired"])
def test_only_listed_tags_are_written_and_only_listed_and_frozen_ones_read(
    store: ProfileStore, file: Path, tmp_path: Path, state: str
) -> None:
    store.publish(FIRST, ROWS)
    overlay = tmp_path / "catalogue.toml"
    overlay.write_text(f'format = 1\n[tags.churn_risk]\nstate = "{state}"\n')
    other = opened(sqlite_url(file), known=catalogue(overlay))
    try:
        assert (shown(other, "c1") != {}) == (state == "frozen")
        with pytest.raises(StoreError, match="catalogue lists"):
            other.publish(SECOND, ROWS)
    finally:
        other.close()


def test_local_tags_last_as_long_as_the_catalogue_says(store: ProfileStore) -> None:
    local = replace(FIRST, run_id="local-1", kind="local", plan_digest=None, valid_until=None)
    store.publish(local, [TagBatch(CHURN, ["c1"], ["low"])])
    (record,) = store.profile("c1", purpose=PURPOSE, now=NOW).tags
    assert record.valid_until == NOW.date() + timedelta(days=store.catalogue[CHURN].valid_days)
    assert (record.score, record.reasons, record.provenance.kind) == (None, (), "local")


def test_a_tag_is_read_for_its_purposes_only(
    store: ProfileStore, file: Path, tmp_path: Path
) -> None:
    overlay = tmp_path / "catalogue.toml"
    overlay.write_text('format = 1\n[tags.purchase_propensity]\npurposes = ["marketing"]\n')
    other = opened(sqlite_url(file), known=catalogue(overlay))
    other.publish(FIRST, ROWS)
    tags = other.profile("c2", purpose=OTHER_PURPOSE, now=NOW).tags
    assert [one.tag for one in tags] == [CHURN]
    assert other.profile("c2", purpose="nothing", now=NOW).tags == ()
    assert list(other.export(PROPENSITY, purpose=OTHER_PURPOSE, now=NOW)) == []
    assert len(list(other.export(PROPENSITY, purpose=PURPOSE, now=NOW))) == 1
    other.close()


def test_an_export_sees_one_run_though_another_is_published_meanwhile(
    store: ProfileStore, file: Path
) -> None:
    store.publish(FIRST, [many(5000)])
    export = store.export(CHURN, purpose=PURPOSE, now=NOW)
    runs = [next(export).provenance.run_id]
    other = opened(sqlite_url(file))
    other.publish(SECOND, [many(5000, "high", 0.9)])
    other.close()
    runs += [record.provenance.run_id for record in export]
    assert runs == ["run-1"] * 5000


def test_a_reopened_store_still_holds_its_tags(store: ProfileStore, file: Path) -> None:
    store.publish(FIRST, ROWS)
    again = opened(sqlite_url(file))
    assert shown(again, "c1") == shown(store, "c1") != {}
    again.close()


def test_changing_the_cipher_leaves_old_rows_readable(store: ProfileStore, file: Path) -> None:
    store.publish(FIRST, ROWS)
    other = opened(sqlite_url(file), cipher="sm4-gcm")
    other.publish(SECOND, [batch([("c9", "low", 0.1)])])
    assert {one.customer for one in exported(other)} == {"c1", "c2", "c9"}
    with other._engine.connect() as connection:
        used = {bytes(blob)[1] for (blob,) in connection.execute(select(customers.c.sealed))}
    assert used == {1, 2}
    assert {one.customer for one in exported(store)} == {"c1", "c2", "c9"}
    other.close()


def test_another_key_than_the_stores_is_refused_when_it_is_opened(
    store: ProfileStore, file: Path
) -> None:
    with pytest.raises(StoreError, match=r"store\.key is not the key"):
        opened(sqlite_url(file), secret=bytes(32))
    assert store.profile("c1", purpose=PURPOSE).tags == ()


def test_a_flipped_bit_of_a_sealed_id_is_found_when_it_is_read(
    store: ProfileStore, file: Path
) -> None:
    store.publish(FIRST, ROWS)
    with closing(sqlite3.connect(file)) as connection, connection:
        ((key, sealed),) = connection.execute(
            "select customer_key, sealed from customers limit 1"
        ).fetchall()
        broken = sealed[:-1] + bytes([sealed[-1] ^ 1])
        connection.execute("update customers set sealed = ? where customer_key = ?", (broken, key))
    with pytest.raises(StoreError, match="was altered or moved"):
        exported(store)


def test_a_store_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"profile_store\.url"):
        opened(sqlite_url(tmp_path / "missing" / "profile.db"))
    (tmp_path / "text.db").write_text("not a database, whatever its name says")
    with pytest.raises(StoreError):
        opened(sqlite_url(tmp_path / "text.db"))
    with pytest.raises(ConfigError):
        opened("oracle+unknown://x")


def test_a_store_written_by_a_newer_version_is_refused(store: ProfileStore, file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("update alembic_version set version_num = '9999'")
    with pytest.raises(StoreError, match="newer version"):
        opened(sqlite_url(file))


def test_a_database_error_gives_no_customers_data_away(store: ProfileStore, file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("drop table tag_history")
    with pytest.raises(StoreError) as caught:
        store.publish(FIRST, [batch([("very-secret", "low", 0.1)])])
    assert "very-secret" not in str(caught.value)
    assert shown(store, "very-secret") == {}


def test_history_begins_where_it_began(store: ProfileStore) -> None:
    """Each publication's rows lie together: history grows at its end."""
    store.publish(FIRST, [many(20)])
    store.publish(SECOND, [many(20, "high", 0.9)])
    store.publish(THIRD, [many(20, "medium", 0.5)])
    with store._engine.connect() as connection:
        found = connection.execute(select(tag_history.c.publication_id)).scalars().all()
    assert found == sorted(found)
    assert len(found) == 40
