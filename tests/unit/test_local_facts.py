"""Facts from DuckDB are what a plain reading of their descriptions gives."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from models.facts import FACTS
from party_client.local_facts import NEW_YEAR, QIXI, facts_of
from party_client.readers import Connection, connect
from tests.local_facts_oracle import Event, customer_facts, own_gaps

TODAY = date(2025, 7, 1)
Log = dict[str, list[Event]]


@pytest.fixture
def duckdb(tmp_path: Path) -> Iterator[Connection]:
    connection = connect("500MB", 2, tmp_path / "spill")
    yield connection
    connection.close()


def load(connection: Connection, log: Log, shuffle: int | None = None) -> None:
    connection.execute(
        "CREATE OR REPLACE TABLE events (customer VARCHAR, time TIMESTAMP, amount_cents BIGINT, "
        "type VARCHAR, category VARCHAR, channel VARCHAR)"
    )
    rows = [(customer, *event) for customer, events in log.items() for event in events]
    if shuffle is not None:
        random.Random(shuffle).shuffle(rows)
    columns = [list(column) for column in zip(*rows, strict=True)]
    connection.execute(
        "INSERT INTO events SELECT unnest(?::VARCHAR[]), unnest(?::TIMESTAMP[]), "
        "unnest(?::BIGINT[]), unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), unnest(?::VARCHAR[])",
        columns,
    )


def facts(connection: Connection, today: date = TODAY) -> dict[str, dict[str, Any]]:
    with facts_of(connection, "events", today) as table:
        found = connection.execute(f"SELECT * FROM {table}")
        names = [one[0] for one in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return {row.pop("customer"): row for row in rows}


def market(seed: int, customers: int = 40) -> Log:
    """Random logs: dense and sparse, with equal times, midnights, returns and missing words."""
    draw = random.Random(seed)
    log: Log = {}
    for number in range(customers):
        events: list[Event] = []
        for _ in range(draw.choice([1, 2, 3, 8, 30, 120])):
            moment = datetime(2025, 7, 2) - timedelta(
                days=draw.randrange(0, draw.choice([40, 200, 900])),
                minutes=draw.choice([0, draw.randrange(1440)]),
            )
            cents = draw.choice([100, 250, 250, 999, 5000, 12345, -300])
            kind = draw.choice([None, "purchase", "purchase", "return", "sale"])
            category = draw.choice([None, "food", "toys", "家电", "books"])
            events.append((moment, cents, kind, category, draw.choice([None, "web", "app"])))
        log[f"c{number}"] = events
    return log


@pytest.mark.parametrize("seed", range(4))
def test_every_fact_is_what_its_description_says(duckdb: Connection, seed: int) -> None:
    log = market(seed)
    load(duckdb, log)
    found = facts(duckdb)
    everything = [event for events in log.values() for event in events]
    gaps = [gap for events in log.values() for gap in own_gaps(events, TODAY)]
    buyers = 0
    for customer, events in log.items():
        if not any(
            e[1] >= 0 and e[2] not in ("return", "refund") and e[0].date() < TODAY for e in events
        ):
            assert customer not in found, "who never bought has no facts"
            continue
        buyers += 1
        wanted = customer_facts(events, everything, gaps, TODAY)
        assert set(wanted) == set(FACTS)
        for name, value in wanted.items():
            if isinstance(value, float):
                assert found[customer][name] == pytest.approx(value), (customer, name)
            else:
                assert found[customer][name] == value, (customer, name)
    assert buyers == len(found) > 30


def test_the_order_of_rows_changes_nothing(duckdb: Connection) -> None:
    log = market(7)
    results = []
    for shuffle in (None, 1, 2):
        load(duckdb, log, shuffle)
        results.append(facts(duckdb))
    assert results[0] == results[1] == results[2]


def test_what_is_from_today_on_is_not_read(duckdb: Connection) -> None:
    before = (datetime(2025, 6, 30, 23, 59), 100, None, "food", "web")
    later = (datetime(2025, 7, 1), 99_999, None, "toys", "app")
    load(duckdb, {"a": [before]})
    alone = facts(duckdb)
    load(duckdb, {"a": [before, later], "b": [later]})
    assert facts(duckdb) == alone


@pytest.mark.parametrize("word", ["health", "宗教用品", "x" * 65, " toys", "a\nb", ""])
def test_a_category_that_may_be_no_value_is_left_out(duckdb: Connection, word: str) -> None:
    day = datetime(2025, 6, 1, 12)
    load(duckdb, {"a": [(day, 100, None, word, word)] * 3 + [(day, 100, None, "books", "web")]})
    found = facts(duckdb)["a"]
    texts = [found[name] for name, fact in FACTS.items() if fact.kind == "text"]
    assert word not in texts
    assert found["top_category"] == found["top_spend_category"] == "books"
    assert found["top_channel"] == "web"
    assert found["categories_365"] == 1
    assert found["purchases_365"] == 4, "the purchases themselves count"


def test_nothing_is_left_behind(duckdb: Connection) -> None:
    load(duckdb, market(1, 5))
    facts(duckdb)
    names = [row[0] for row in duckdb.execute("SHOW ALL TABLES").fetchall()]
    tables = [row[2] for row in duckdb.execute("SHOW ALL TABLES").fetchall()]
    assert [name for name in (*names, *tables) if name.startswith("local_")] == []


def test_a_log_without_a_purchase_has_no_facts(duckdb: Connection) -> None:
    load(duckdb, {"a": [(datetime(2025, 6, 1), -100, None, None, None)]})
    assert facts(duckdb) == {}


def test_the_calendar_has_every_year_once() -> None:
    for days, first, last in ((NEW_YEAR, (1, 21), (2, 20)), (QIXI, (7, 31), (8, 30))):
        found = [date.fromisoformat(one) for one in days.split()]
        assert [day.year for day in found] == list(range(2008, 2041))
        assert all(first <= (day.month, day.day) <= last for day in found)


def _moons(days: Sequence[str], shift: int) -> list[float]:
    """How far from a mean new moon each day is, in days (the mean one is off by up to 0.6)."""
    origin = datetime(2000, 1, 6, 18, 14) + timedelta(hours=8)
    month = 29.530588861
    ages = [
        (datetime.fromisoformat(one) - timedelta(days=shift) + timedelta(hours=12) - origin)
        / timedelta(days=1)
        % month
        for one in days
    ]
    return [min(age, month - age) for age in ages]


def test_the_calendars_months_begin_at_a_new_moon() -> None:
    assert max(_moons(NEW_YEAR.split(), 0)) < 1.2
    assert max(_moons(QIXI.split(), 6)) < 1.2
