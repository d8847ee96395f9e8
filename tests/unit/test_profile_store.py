"""The profile store: tags of one run together or not at all, history, consent, expiry."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, select

from party_client.profile_store import ProfileStore, Publication, TagRow
from party_client.profile_tables import metadata, tag_history
from privacy.errors import ConfigError, DataError, StoreError

TODAY = date(2024, 7, 1)
FIRST = Publication(
    run_id="run-1",
    plan_digest="a" * 64,
    model_digest="b" * 64,
    parties=("bank", "retailer", "shop"),
    epsilon=1.9,
    delta=1e-5,
    published_at=datetime(2024, 6, 30, 12, 0, 5, tzinfo=UTC),
    as_of=date(2024, 6, 30),
    valid_until=TODAY + timedelta(days=90),
)
SECOND = replace(
    FIRST, run_id="run-2", model_digest="c" * 64, valid_until=TODAY + timedelta(days=120)
)
ROWS: list[TagRow] = [
    ("c1", "churn_risk", "high", 0.9),
    ("c2", "churn_risk", "low", 0.1),
    ("c2", "purchase_propensity", "medium", 0.5),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "profile.db"


@pytest.fixture
def store(file: Path) -> Iterator[ProfileStore]:
    opened = ProfileStore(f"sqlite:///{file}")
    yield opened
    opened.close()


def seen(store: ProfileStore, customer: str) -> dict[str, tuple[str, str, str]]:
    return {
        record.tag: (record.value, record.publication.run_id, record.status)
        for record in store.show(customer, today=TODAY)
    }


def history(file: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(
            "select customer, tag, value, run_id, replaced_by from tag_history order by id"
        ).fetchall()


def test_a_tag_is_shown_with_its_provenance(store: ProfileStore) -> None:
    store.publish(FIRST, ROWS)
    (record,) = store.show("c1", today=TODAY)
    assert (record.customer, record.tag, record.value, record.score) == (
        "c1",
        "churn_risk",
        "high",
        0.9,
    )
    assert record.publication == FIRST
    assert record.valid_until == FIRST.valid_until
    assert [one.tag for one in store.show("c2")] == ["churn_risk", "purchase_propensity"]
    assert store.show("nobody") == []


def test_a_new_file_is_readable_by_its_owner_only(store: ProfileStore, file: Path) -> None:
    store.publish(FIRST, ROWS)
    modes = {stat.S_IMODE(one.stat().st_mode) for one in file.parent.iterdir()}
    assert modes == {0o600}


def test_a_later_run_replaces_and_the_history_keeps_what_was(
    store: ProfileStore, file: Path
) -> None:
    store.publish(FIRST, ROWS)
    store.publish(SECOND, [("c2", "churn_risk", "medium", 0.4)])
    assert seen(store, "c1") == {"churn_risk": ("high", "run-1", "valid")}
    assert seen(store, "c2") == {
        "churn_risk": ("medium", "run-2", "valid"),
        "purchase_propensity": ("medium", "run-1", "valid"),
    }
    assert history(file) == [("c2", "churn_risk", "low", "run-1", "run-2")]


def test_publishing_a_run_again_changes_nothing(store: ProfileStore, file: Path) -> None:
    store.publish(FIRST, ROWS)
    store.publish(FIRST, [("c1", "churn_risk", "low", 0.2)])
    assert seen(store, "c1") == {"churn_risk": ("high", "run-1", "valid")}
    assert history(file) == []


def test_a_run_is_never_published_over_by_another_model(store: ProfileStore) -> None:
    store.publish(FIRST, ROWS)
    with pytest.raises(StoreError, match="never published over"):
        store.publish(replace(FIRST, model_digest="d" * 64), ROWS)
    with pytest.raises(StoreError, match="never published over"):
        store.publish(replace(FIRST, plan_digest="d" * 64), ROWS)


def many(count: int) -> list[TagRow]:
    return [(f"c{number:05}", "churn_risk", "low", 0.25) for number in range(count)]


@pytest.mark.parametrize("position", [0, 2500])
def test_a_failure_midway_publishes_nothing(store: ProfileStore, file: Path, position: int) -> None:
    def broken() -> Iterator[TagRow]:
        for number, row in enumerate(many(3000)):
            if number == position:
                raise DataError("the source went away")
            yield row

    store.publish(FIRST, many(10))
    with pytest.raises(DataError):
        store.publish(SECOND, broken())
    assert {one.publication.run_id for one in store.export("churn_risk", today=TODAY)} == {"run-1"}
    assert history(file) == []
    store.publish(SECOND, many(10))
    assert {one.publication.run_id for one in store.export("churn_risk", today=TODAY)} == {"run-2"}


@pytest.mark.parametrize("apart", [1, 1500])
def test_two_rows_for_one_customer_publish_nothing(store: ProfileStore, apart: int) -> None:
    rows = many(apart)
    with pytest.raises(StoreError, match="two rows for one customer") as caught:
        store.publish(FIRST, [*rows, rows[0]])
    assert "c00000" not in str(caught.value)
    assert list(store.export("churn_risk", today=TODAY)) == []


@pytest.mark.parametrize(
    "row",
    [
        ("", "churn_risk", "low", 0.1),
        ("x" * 256, "churn_risk", "low", 0.1),
        ("secret", "religion", "low", 0.1),
        ("secret", "churn_risk", "lowest", 0.1),
        ("secret", "churn_risk", "low", float("nan")),
        ("secret", "churn_risk", "low", 1.5),
    ],
)
def test_a_row_that_is_not_a_tag_publishes_nothing(store: ProfileStore, row: TagRow) -> None:
    with pytest.raises(StoreError) as caught:
        store.publish(FIRST, [*ROWS, row])
    assert "secret" not in str(caught.value)
    assert store.show("c1") == []


def test_a_customer_without_consent_loses_tags_and_history(store: ProfileStore, file: Path) -> None:
    store.publish(FIRST, ROWS)
    store.publish(SECOND, [("c2", "churn_risk", "medium", 0.4)])
    third = replace(FIRST, run_id="run-3")
    store.publish(third, [("c1", "churn_risk", "low", 0.1)], consented={"c1"})
    assert seen(store, "c2") == {}
    assert seen(store, "c1") == {"churn_risk": ("low", "run-3", "valid")}
    assert {row[0] for row in history(file)} == {"c1"}


def test_a_withdrawn_consent_counts_when_a_run_is_published_again(store: ProfileStore) -> None:
    store.publish(FIRST, ROWS, consented={"c1", "c2"})
    store.publish(FIRST, [], consented={"c1"})
    assert seen(store, "c1")
    assert not seen(store, "c2")


def test_no_tag_is_ever_written_without_consent(store: ProfileStore) -> None:
    with pytest.raises(StoreError, match="without consent") as caught:
        store.publish(FIRST, ROWS, consented={"c1"})
    assert "c2" not in str(caught.value)
    assert store.show("c1") == []


def test_withdrawal_reaches_customers_in_any_number(store: ProfileStore) -> None:
    rows = many(2500)
    store.publish(FIRST, rows)
    store.withdraw(customer for customer, *_ in rows[1:])
    store.withdraw(["never seen"])
    assert [one.customer for one in store.export("churn_risk", today=TODAY)] == ["c00000"]


def test_ids_that_look_like_sql_or_differ_in_case_are_just_ids(store: ProfileStore) -> None:
    names = ["'; drop table tag_values; --", "A1", "a1", "客户-7", "%", "_"]
    store.publish(FIRST, [(name, "churn_risk", "low", 0.1) for name in names])
    for name in names:
        assert [one.customer for one in store.show(name)] == [name]
    store.withdraw(["%", "a1"])
    assert {one.customer for one in store.export("churn_risk", today=TODAY)} == set(names) - {
        "%",
        "a1",
    }


def test_an_expired_tag_is_marked_and_not_exported(store: ProfileStore) -> None:
    store.publish(FIRST, ROWS)
    last = FIRST.valid_until
    assert store.show("c1", today=last)[0].status == "valid"
    assert len(list(store.export("churn_risk", today=last))) == 2
    after = last + timedelta(days=1)
    assert store.show("c1", today=after)[0].status == "expired"
    assert list(store.export("churn_risk", today=after)) == []


def test_export_picks_a_tag_or_a_value_in_order(store: ProfileStore) -> None:
    store.publish(FIRST, [*ROWS, *many(2100)])
    every = [one.customer for one in store.export("churn_risk", today=TODAY)]
    assert len(every) == 2102
    assert every == sorted(every)
    assert [one.customer for one in store.export("churn_risk", "high", today=TODAY)] == ["c1"]
    assert [one.customer for one in store.export("purchase_propensity", today=TODAY)] == ["c2"]


def test_an_export_sees_one_run_though_another_is_published_meanwhile(
    store: ProfileStore, file: Path
) -> None:
    store.publish(FIRST, many(3000))
    export = store.export("churn_risk", today=TODAY)
    runs = [next(export).publication.run_id]
    other = ProfileStore(f"sqlite:///{file}")
    other.publish(SECOND, many(3000))
    other.close()
    runs += [record.publication.run_id for record in export]
    assert runs == ["run-1"] * 3000


def test_the_migrations_make_the_tables_that_the_code_uses(
    store: ProfileStore, tmp_path: Path
) -> None:
    fresh = create_engine(f"sqlite:///{tmp_path / 'fresh.db'}")
    metadata.create_all(fresh)
    made, wanted = inspect(store._engine), inspect(fresh)
    names = sorted(wanted.get_table_names())
    assert sorted(made.get_table_names()) == sorted([*names, "alembic_version"])
    for name in names:
        for aspect in ("get_columns", "get_pk_constraint", "get_foreign_keys", "get_indexes"):
            assert repr(getattr(made, aspect)(name)) == repr(getattr(wanted, aspect)(name)), name


def test_a_reopened_store_still_holds_its_tags(store: ProfileStore, file: Path) -> None:
    store.publish(FIRST, ROWS)
    again = ProfileStore(f"sqlite:///{file}")
    assert again.show("c1", today=TODAY) == store.show("c1", today=TODAY)
    again.close()


def test_a_store_that_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"profile_store\.url"):
        ProfileStore(f"sqlite:///{tmp_path / 'missing' / 'profile.db'}")
    (tmp_path / "text.db").write_text("not a database, whatever its name says")
    with pytest.raises(StoreError):
        ProfileStore(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(ConfigError):
        ProfileStore("oracle+unknown://x")


def test_a_store_written_by_a_newer_version_is_refused(store: ProfileStore, file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("update alembic_version set version_num = '9999'")
    with pytest.raises(StoreError, match="newer version"):
        ProfileStore(f"sqlite:///{file}")


def test_a_database_error_gives_no_customers_data_away(store: ProfileStore, file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("drop table tag_history")
    with pytest.raises(StoreError) as caught:
        store.publish(FIRST, [("very-secret", "churn_risk", "low", 0.1)])
    assert "very-secret" not in str(caught.value)
    assert store.show("very-secret") == []


VECTOR = Path(__file__).parents[1] / "vectors" / "profile_store_r0001.db"


def test_a_database_of_the_first_version_can_be_read_and_written(file: Path) -> None:
    """tests/vectors/make_profile_store.py wrote it; later versions must go on reading it."""
    file.write_bytes(VECTOR.read_bytes())
    store = ProfileStore(f"sqlite:///{file}")
    (churn, propensity) = store.show("customer-2", today=date(2024, 7, 1))
    assert (churn.value, churn.publication.run_id, churn.status) == ("high", "run-2", "valid")
    assert (propensity.value, propensity.publication.run_id) == ("medium", "run-1")
    assert churn.publication.parties == ("bank", "retailer", "shop")
    with store._engine.connect() as connection:
        (earlier,) = connection.execute(select(tag_history)).all()
    assert (earlier.customer, earlier.value, earlier.replaced_by) == ("customer-2", "low", "run-2")
    store.publish(replace(FIRST, run_id="run-3"), [("customer-2", "churn_risk", "low", 0.1)])
    assert store.show("customer-2", today=TODAY)[0].publication.run_id == "run-3"
    store.close()
