"""Local tags: rules over facts, for consenting customers only, published whole."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.tag_catalogue import Catalogue, load_catalogue, shipped_catalogue
from party_client.cli import app
from party_client.local_tags import LocalTags, computed_tags, local_tags, refresh_local_tags
from party_client.profile_store import ProfileStore
from party_client.readers import Connection, connect
from party_client.source_settings import ConsentSettings, SourceSettings
from party_client.sources import Source, open_source
from party_client.tag_schedule import LastRefresh, due_tags, events_digest, read_last, write_last
from privacy.errors import DataError, StoreError
from privacy.hosting.sealing import Sealing

TODAY = date(2025, 7, 1)
NOW = datetime(2025, 7, 1, 9, tzinfo=UTC)


def catalogue(folder: Path, text: str) -> Catalogue:
    path = folder / "catalogue.toml"
    path.write_text("format = 1\n" + text, encoding="utf-8")
    return load_catalogue(path)


def own_tag(name: str, value_type: str, values: Sequence[str], rule: str) -> str:
    return f"""
[tags.{name}]
display_name = "{name}"
display_name_zh = "标签"
dimension = "value"
owner = "test"
value_type = "{value_type}"
values = {json.dumps(values)}
values_zh = {json.dumps(values)}
purposes = ["marketing"]
description = "A test."
description_zh = "测试。"
rule = {rule}
"""


# Rules -------------------------------------------------------------------------------------------


@pytest.fixture
def duckdb(tmp_path: Path) -> Iterator[Connection]:
    connection = connect("500MB", 2, tmp_path / "spill")
    connection.execute(
        "CREATE TABLE events (customer VARCHAR, time TIMESTAMP, amount_cents BIGINT, "
        "type VARCHAR, category VARCHAR, channel VARCHAR)"
    )
    yield connection
    connection.close()


def bought(connection: Connection, customer: str, *ages: int, cents: int = 1000) -> None:
    connection.execute(
        "INSERT INTO events SELECT ?, TIMESTAMP '2025-07-01 12:00:00' - to_days(unnest(?::INT[])), "
        "?, NULL, 'food', 'web'",
        [customer, list(ages), cents],
    )


def values(found: LocalTags, tag: str) -> dict[str, str | None]:
    column = next(one for one in found.columns if one.tag == tag)
    return {
        customer: column.words[code] if code >= 0 else None
        for customer, code in zip(found.customers, column.codes.tolist(), strict=True)
    }


def shipped(connection: Connection, *names: str) -> LocalTags:
    tags = [shipped_catalogue().tag(name) for name in names]
    return computed_tags(connection, "events", tags, TODAY)


def test_a_band_takes_the_upper_value_on_its_edge(duckdb: Connection) -> None:
    for customer, age in (("a", 7), ("b", 8), ("c", 30), ("d", 31), ("e", 365), ("f", 366)):
        bought(duckdb, customer, age)
    assert values(shipped(duckdb, "recency_band"), "recency_band") == {
        "a": "up_to_7_days",
        "b": "8_to_30_days",
        "c": "8_to_30_days",
        "d": "31_to_90_days",
        "e": "181_to_365_days",
        "f": "over_365_days",
    }


def test_a_customer_without_the_fact_has_no_value(duckdb: Connection) -> None:
    bought(duckdb, "a", 5)
    bought(duckdb, "b", 5, 15, 25, 35)
    found = shipped(duckdb, "repurchase_cycle", "frequency_trend")
    assert values(found, "repurchase_cycle") == {"a": None, "b": "8_to_14_days"}
    assert values(found, "frequency_trend") == {"a": None, "b": None}


def test_quantiles_are_of_this_partys_customers(duckdb: Connection) -> None:
    for number in range(1, 101):
        bought(duckdb, f"c{number:03}", 5, cents=number * 100)
    tiers = values(shipped(duckdb, "value_tier"), "value_tier")
    counts = {name: list(tiers.values()).count(name) for name in set(tiers.values())}
    assert counts == {"basic": 50, "silver": 30, "gold": 15, "platinum": 5}
    assert tiers["c100"] == "platinum"
    assert tiers["c001"] == "basic"


def test_equal_facts_have_equal_values(duckdb: Connection) -> None:
    for number in range(10):
        bought(duckdb, f"c{number}", 5)
    assert len(set(values(shipped(duckdb, "rfm_monetary"), "rfm_monetary").values())) == 1


def test_churn_warning_is_a_fall_to_half_or_less(duckdb: Connection) -> None:
    bought(duckdb, "half", 10, 100, 110)
    bought(duckdb, "none", 100, 110)
    bought(duckdb, "more_than_half", 10, 20, 100, 110, 120)
    bought(duckdb, "too_few_before", 100)
    assert values(shipped(duckdb, "churn_warning"), "churn_warning") == {
        "half": "yes",
        "none": "yes",
        "more_than_half": None,
        "too_few_before": None,
    }


def test_life_cycle_goes_by_the_customers_own_gaps(duckdb: Connection) -> None:
    weekly = (0, 7, 14, 21, 28)  # 75th and 90th percentile of the gaps: 7 days
    for customer, since in (("active", 6), ("at_risk", 7), ("still_at_risk", 13), ("lost", 14)):
        bought(duckdb, customer, *(since + one for one in weekly))
    bought(duckdb, "new", 3)
    bought(duckdb, "back", 3, 200)
    found = values(shipped(duckdb, "life_cycle_stage"), "life_cycle_stage")
    assert found == {
        "active": "active",
        "at_risk": "at_risk",
        "still_at_risk": "at_risk",
        "lost": "lost",
        "new": "new",
        "back": "reactivated",
    }


def test_all_customers_gaps_count_where_there_are_too_few_own(duckdb: Connection) -> None:
    for number in range(10):
        bought(duckdb, f"monthly{number}", *(1 + 30 * one for one in range(10)))
    bought(duckdb, "once_lately", 59)
    bought(duckdb, "once_long_ago", 60)
    found = values(shipped(duckdb, "life_cycle_stage"), "life_cycle_stage")
    assert found["monthly0"] == "active"
    assert found["once_lately"] == "at_risk", "below twice the 30 days of all others"
    assert found["once_long_ago"] == "lost"


def test_the_first_case_that_holds_gives_the_value(duckdb: Connection, tmp_path: Path) -> None:
    rule = """{ kind = "cases", otherwise = "rest", cases = [
        { value = "a", when = [{ fact = "recency_days", at_most = 5 }] },
        { value = "b", when = [{ fact = "recency_days", above = 5, below = 9 }] },
        { value = "c", when = [
            { fact = "tenure_days", at_least = { fact = "recency_days", times = 2 } },
        ] },
    ] }"""
    made = catalogue(tmp_path, own_tag("stage", "enum", ["a", "b", "c", "rest"], rule))
    for customer, ages in (("a", [5, 90]), ("b", [6]), ("c", [9, 18]), ("d", [9, 17])):
        bought(duckdb, customer, *ages)
    found = computed_tags(duckdb, "events", [made.tag("stage")], TODAY)
    assert values(found, "stage") == {"a": "a", "b": "b", "c": "c", "d": "rest"}


def test_a_quantile_bound_is_of_all(duckdb: Connection) -> None:
    for number in range(1, 21):
        bought(duckdb, f"c{number:02}", 5, cents=number * 100)
    found = values(shipped(duckdb, "big_ticket_buyer"), "big_ticket_buyer")
    assert [one for one, value in found.items() if value] == ["c20"]


def test_buying_nothing_is_no_distinction_however_many_buy_nothing(duckdb: Connection) -> None:
    for number in range(60):
        bought(duckdb, f"idle{number:02}", 400 + number % 5)
    for number in range(40):
        bought(duckdb, f"busy{number:02}", 5, 10, 20, 40, cents=1000 + number)
    names = ("rfm_frequency", "rfm_monetary", "value_tier", "rfm_segment", "big_ticket_buyer")
    found = shipped(duckdb, *names)
    of_idle = {name: values(found, name)["idle00"] for name in names}
    assert of_idle == dict(zip(names, ("1", "1", "basic", "low_value_fading", None), strict=True))
    assert values(found, "rfm_monetary")["busy39"] == "5"
    assert values(found, "value_tier")["busy39"] == "platinum"
    assert values(found, "rfm_segment")["busy39"] == "champions"


def test_five_customers_who_differ_have_the_five_scores(duckdb: Connection) -> None:
    for number in range(1, 6):
        bought(duckdb, f"c{number}", *range(1, 1 + number), cents=1000)
    wanted = {f"c{number}": str(number) for number in range(1, 6)}
    for name in ("rfm_monetary", "rfm_frequency"):
        assert values(shipped(duckdb, name), name) == wanted


def test_what_most_customers_spent_is_no_large_spend(duckdb: Connection) -> None:
    for number in range(10):
        bought(duckdb, f"c{number}", 400, cents=1000)
    bought(duckdb, "more", 400, cents=5000)
    found = values(shipped(duckdb, "win_back_candidate"), "win_back_candidate")
    assert [customer for customer, value in found.items() if value] == ["more"]


def test_growth_potential_stops_above_the_fourth_fifth(duckdb: Connection) -> None:
    for number in range(1, 6):
        bought(duckdb, f"c{number}", 10, 20, 100, cents=1000 * number)
    found = values(shipped(duckdb, "growth_potential"), "growth_potential")
    assert [customer for customer, value in found.items() if value] == ["c1", "c2", "c3", "c4"]


def test_one_price_for_all_is_no_premium(duckdb: Connection) -> None:
    for number in range(10):
        bought(duckdb, f"c{number}", 5, 15, 25, 35, 45)
    found = values(shipped(duckdb, "premium_preference"), "premium_preference")
    assert set(found.values()) == {None}
    bought(duckdb, "dear", 5, 15, 25, 35, 45, cents=5000)
    found = values(shipped(duckdb, "premium_preference"), "premium_preference")
    assert [customer for customer, value in found.items() if value] == ["dear"]


def test_a_text_is_the_partys_own_word(duckdb: Connection) -> None:
    bought(duckdb, "a", 5)
    duckdb.execute(
        "INSERT INTO events VALUES ('b', '2025-06-01 10:00', 100, NULL, '家电', 'O''App')"
    )
    found = shipped(duckdb, "preferred_category", "preferred_channel", "favourite_weekday")
    assert values(found, "preferred_category") == {"a": "food", "b": "家电"}
    assert values(found, "preferred_channel") == {"a": "web", "b": "O'App"}
    assert values(found, "favourite_weekday") == {"a": "thursday", "b": "sunday"}


def test_every_shipped_local_tag_is_computed_and_gives_only_its_values(duckdb: Connection) -> None:
    for number in range(60):
        bought(duckdb, f"c{number}", *range(1 + number, 700, 3 + number), cents=100 + number)
    tags = [tag for tag in shipped_catalogue().tags if tag.computed]
    found = computed_tags(duckdb, "events", tags, TODAY)
    assert [column.tag for column in found.columns] == [tag.name for tag in tags]
    for batch in found.batches():
        tag = shipped_catalogue().tag(batch.tag)
        assert all(value is None or tag.accepts(value) for value in batch.values)


def test_a_log_over_many_years_is_read(duckdb: Connection) -> None:
    bought(duckdb, "a", 1, 8_000, 50_000)
    assert values(shipped(duckdb, "tenure_band"), "tenure_band") == {"a": "over_3_years"}
    assert values(shipped(duckdb, "first_purchase_year"), "first_purchase_year") == {"a": "1888"}
    assert values(shipped(duckdb, "acquisition_category"), "acquisition_category") == {"a": "food"}


def test_a_log_without_customers_gives_no_values(duckdb: Connection) -> None:
    tags = [tag for tag in shipped_catalogue().tags if tag.computed]
    found = list(computed_tags(duckdb, "events", tags, TODAY).batches())
    assert [one.tag for one in found] == [tag.name for tag in tags]
    assert not any(one.customers or one.values for one in found)


# With a source and a store -----------------------------------------------------------------------


def source(home: Path, opted_out: Sequence[str] = ()) -> Source:
    home.mkdir(exist_ok=True)
    lines = ["id,when,paid"]
    for customer in ("anna", "ben", "carl", "dora"):
        lines += [f"{customer},2025-06-{day:02},{day}.50" for day in (3, 10, 20)]
    (home / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    consent = [
        "id,what,ok",
        "anna,marketing,yes",
        "ben,retention,yes",
        "carl,research,yes",
        "dora,marketing,yes",
    ]
    (home / "consent.csv").write_text("\n".join(consent) + "\n", encoding="utf-8")
    settings = SourceSettings(
        path="events.csv",
        columns={"customer": "id", "time": "when", "amount": "paid"},
        consent=ConsentSettings(path="consent.csv", customer="id", purpose="what", granted="ok"),
    )
    return open_source(settings, home, today=TODAY, opted_out=lambda: opted_out)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProfileStore]:
    opened = ProfileStore(
        f"sqlite:///{tmp_path / 'profile.db'}",
        Sealing(bytes(32), "aes-256-gcm"),
        shipped_catalogue(),
    )
    yield opened
    opened.close()


def test_only_who_consents_to_a_purpose_of_the_tag_is_computed(tmp_path: Path) -> None:
    tag = shipped_catalogue().tag("recency_band")
    assert tag.purposes == ("marketing", "retention")
    with source(tmp_path / "home") as events:
        assert local_tags(events, [tag], TODAY).customers == ["anna", "ben", "dora"]
    with source(tmp_path / "home", opted_out=["anna"]) as events:
        assert local_tags(events, [tag], TODAY).customers == ["ben", "dora"]


def test_a_refresh_publishes_every_listed_local_tag(tmp_path: Path, store: ProfileStore) -> None:
    with source(tmp_path / "home") as events:
        done = refresh_local_tags(events, store, store.catalogue, party="shop", now=NOW)
        schema = events.schema_digest()
    assert set(done.tags) == {tag.name for tag in shipped_catalogue().tags if tag.computed}
    profile = store.profile("anna", purpose="marketing", now=NOW)
    found = {record.tag: record for record in profile.tags}
    assert found["recency_band"].value == "8_to_30_days"
    assert found["new_customer"].value == "yes"
    assert "dormant" not in found, "a flag is stored for those to whom it applies"
    record = found["new_customer"]
    assert record.score is None
    assert record.provenance.kind == "local"
    assert record.provenance.epsilon == 0
    assert record.provenance.plan_digest is None
    assert record.provenance.run_id == done.run_id
    assert record.valid_until == TODAY + timedelta(
        days=shipped_catalogue()["new_customer"].valid_days
    )
    named = hashlib.sha256(f"{store.catalogue.digest}:{schema}".encode()).hexdigest()
    assert record.provenance.model_digest == named
    assert store.profile("ben", purpose="marketing", now=NOW).tags == ()
    assert store.profile("carl", purpose="retention", now=NOW).tags == ()


def test_a_tag_that_no_longer_applies_goes(tmp_path: Path, store: ProfileStore) -> None:
    later = NOW + timedelta(days=40)
    with source(tmp_path / "home") as events:
        refresh_local_tags(events, store, store.catalogue, party="shop", now=NOW)
        refresh_local_tags(events, store, store.catalogue, party="shop", now=later)
    names = {record.tag for record in store.profile("anna", purpose="marketing", now=later).tags}
    assert "new_customer" not in names
    assert "recency_band" in names


@pytest.mark.parametrize("erased", [["anna"], ["anna", "ben", "dora"]])
def test_who_is_no_longer_in_the_log_loses_all_local_tags(
    tmp_path: Path, store: ProfileStore, erased: list[str]
) -> None:
    log = tmp_path / "home" / "events.csv"
    with source(tmp_path / "home") as events:
        refresh_local_tags(events, store, store.catalogue, party="shop", now=NOW)
        lines = log.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.split(",")[0] not in erased]
        log.write_text("\n".join(kept) + "\n", encoding="utf-8")
        refresh_local_tags(events, store, store.catalogue, party="shop", now=NOW)
    for customer in ("anna", "dora"):
        tags = store.profile(customer, purpose="marketing", now=NOW).tags
        assert bool(tags) == (customer not in erased)
    assert len(store.history("anna", "new_customer", purpose="marketing", now=NOW)) == 1


def test_tags_that_are_not_listed_or_not_asked_for_are_not_computed(
    tmp_path: Path, store: ProfileStore
) -> None:
    made = catalogue(tmp_path, '[tags.recency_band]\nstate = "frozen"\n')
    wanted = ("recency_band", "new_customer", "churn_risk")
    with source(tmp_path / "home") as events:
        done = refresh_local_tags(events, store, made, party="shop", now=NOW, only=wanted)
        nothing = refresh_local_tags(events, store, made, party="shop", now=NOW, only=())
    assert done.tags == ("new_customer",)
    assert nothing.run_id is None
    assert nothing.tags == ()


def test_a_feature_table_has_no_local_tags(tmp_path: Path, store: ProfileStore) -> None:
    (tmp_path / "table.csv").write_text("id,visits\nanna,3\n", encoding="utf-8")
    settings = SourceSettings(kind="table", path="table.csv", columns={"customer": "id"})
    with (
        open_source(settings, tmp_path, today=TODAY) as table,
        pytest.raises(DataError, match="connect an event log"),
    ):
        refresh_local_tags(table, store, store.catalogue, party="shop", now=NOW)


# When a tag is due -------------------------------------------------------------------------------


def test_event_tags_are_due_when_the_source_changed_and_all_by_half_their_validity() -> None:
    all_tags = shipped_catalogue()
    computed = {tag.name for tag in all_tags.tags if tag.computed}
    last = LastRefresh(rules=all_tags.digest, events="e1", days=dict.fromkeys(computed, TODAY))
    event = {tag.name for tag in all_tags.tags if tag.computed and tag.update == "event"}
    assert due_tags(all_tags, LastRefresh(), "e1", TODAY) == computed
    assert due_tags(all_tags, last, "e1", TODAY) == set()
    assert due_tags(all_tags, last, "e2", TODAY) == event
    assert 0 < len(event) < len(computed)
    in_a_week = due_tags(all_tags, last, "e1", TODAY + timedelta(days=7))
    assert in_a_week == {
        tag.name for tag in all_tags.tags if tag.computed and tag.valid_days // 2 <= 7
    }
    assert due_tags(all_tags, last.model_copy(update={"rules": "x"}), "e1", TODAY) == computed


def test_the_digest_of_events_sees_a_new_event_and_a_withdrawn_consent(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with source(home) as events:
        first = events_digest(events, shipped_catalogue())
        assert events_digest(events, shipped_catalogue()) == first
    lines = (home / "events.csv").read_text(encoding="utf-8").splitlines()
    (home / "events.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n", encoding="utf-8")
    settings = source(tmp_path / "other")._settings
    with open_source(settings, home, today=TODAY) as events:
        assert events_digest(events, shipped_catalogue()) == first, "the order does not matter"
    with (home / "events.csv").open("a", encoding="utf-8") as file:
        file.write("anna,2025-06-29,7\n")
    with open_source(settings, home, today=TODAY) as events:
        second = events_digest(events, shipped_catalogue())
    assert second != first
    with (home / "consent.csv").open("a", encoding="utf-8") as file:
        file.write("dora,marketing,no\n")
    with open_source(settings, home, today=TODAY) as events:
        assert events_digest(events, shipped_catalogue()) != second


def test_what_was_computed_is_noted_privately_and_a_damaged_note_is_told(tmp_path: Path) -> None:
    assert read_last(tmp_path) == LastRefresh()
    write_last(tmp_path, shipped_catalogue(), "e1", ("new_customer",), TODAY)
    write_last(tmp_path, shipped_catalogue(), "e2", ("dormant",), TODAY + timedelta(days=1))
    last = read_last(tmp_path)
    assert last.days == {"new_customer": TODAY, "dormant": TODAY + timedelta(days=1)}
    assert last.events == "e2"
    path = tmp_path / "local_tags.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="remove it"):
        read_last(tmp_path)


# The commands ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "party"
    run(folder, "init", "--party", "shop", "--public-size", "100")
    text = (folder / "party.toml").read_text(encoding="utf-8")
    (folder / "party.toml").write_text(
        text[: text.index("[source]")] + '[source]\npath = "events.csv"\n'
        'columns = { customer = "id", time = "when", amount = "paid" }\n',
        encoding="utf-8",
    )
    day = datetime.now(UTC).date() - timedelta(days=3)
    (folder / "events.csv").write_text(f"id,when,paid\nanna,{day},5\n", encoding="utf-8")
    return folder


def run(folder: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["--home", str(folder), *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_refresh_writes_tags_once_and_due_only_what_is_due(home: Path) -> None:
    first = json.loads(run(home, "tags", "refresh", "--format", "json"))
    assert len(first["tags"]) >= 60
    assert first["written"] > 10
    assert "new_customer" in run(home, "tags", "show", "anna", "--purpose", "marketing")
    assert "no tag is due" in run(home, "tags", "refresh", "--due")
    with (home / "events.csv").open("a", encoding="utf-8") as file:
        file.write("ben,2024-01-01,5\n")
    due = json.loads(run(home, "tags", "refresh", "--due", "--format", "json"))
    assert "long_lost" in due["tags"]
    assert "value_tier" not in due["tags"]


def test_the_catalogue_is_listed_with_the_partys_changes(home: Path) -> None:
    (home / "catalogue.toml").write_text(
        'format = 1\n[tags.night_buyer]\nstate = "draft"\n', encoding="utf-8"
    )
    listed = json.loads(run(home, "tags", "catalogue", "--format", "json"))
    states = {entry["name"]: entry["state"] for entry in listed["entries"]}
    assert states["night_buyer"] == "draft"
    assert states["churn_risk"] == "listed"
    assert "night_buyer" in run(home, "tags", "catalogue").replace("\n", "")
    done = json.loads(run(home, "tags", "refresh", "--format", "json"))
    assert "night_buyer" not in done["tags"]
