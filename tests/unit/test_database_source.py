"""A party's own database as a source: real PostgreSQL and MariaDB, DuckDB and SQLite files."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, make_url

from models.plan import Plan, parse_plan
from party_client import database_source, sources
from party_client.source_settings import SourceSettings
from party_client.sources import Source, open_source
from privacy.errors import ConfigError, DataError

TODAY = date(2025, 1, 1)
COLUMNS = {"customer": "who", "time": "day", "amount": "price", "category": "cat"}
ROWS = """
    ('a', '2024-06-01 10:00:00', 1.50, 'dry, food', 1),
    ('b', '2024-06-02 23:30:00', 2.00, NULL, 2),
    ('a', '2024-07-05 09:00:00', 3.25, 'x', 3),
    ('b', '2024-06-02 23:30:00', 2.00, NULL, 2),
    (NULL, '2024-06-02 23:30:00', 2.00, NULL, 4),
    ('c', '2024-06-03 00:00:00', NULL, '''; DROP TABLE log; --', 5)
"""
PLAN = b"""
format = 1
name = "p"
purpose = "churn"
privacy = { epsilon = 1.0 }
task = { kind = "propensity", horizon_days = 30, cutoff = 2024-07-01 }
"""
Database = tuple[str, Callable[[str], None]]


def plan() -> Plan:
    return parse_plan(PLAN)


@pytest.fixture(params=["postgresql", "mariadb", "duckdb", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A url for settings, relative to tmp_path where it names a file, and a way to run SQL."""
    kind = request.param
    if kind in ("postgresql", "mariadb"):
        url = request.getfixturevalue(f"{kind}_url")
        return url, lambda sql: on_server(url, sql)
    if kind == "sqlite":
        return "sqlite:///shop.sqlite", lambda sql: on_sqlite(tmp_path / "shop.sqlite", sql)
    return "duckdb:///shop.duckdb", lambda sql: on_duckdb(tmp_path / "shop.duckdb", sql)


def on_server(url: str, sql: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execution_options(no_parameters=True).exec_driver_sql(sql)
    engine.dispose()


def on_sqlite(path: Path, sql: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(sql)
    connection.close()


def on_duckdb(path: Path, sql: str) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute(sql)


def fill(run: Callable[[str], None], rows: str = ROWS) -> None:
    run(
        "CREATE TABLE log (who VARCHAR(40), day TIMESTAMP NULL, price NUMERIC(12, 2), "
        "cat VARCHAR(40), line INTEGER)"
    )
    run(f"INSERT INTO log VALUES {rows}")


def settings(url: str, **changes: Any) -> SourceSettings:
    given = {"url": url, "columns": COLUMNS} | ({} if "query" in changes else {"table": "log"})
    return SourceSettings.model_validate(given | changes)


def opened(url: str, home: Path, **changes: Any) -> Source:
    return open_source(settings(url, **changes), home, today=TODAY)


def events(source: Source) -> list[tuple[Any, ...]]:
    return source.inspect(
        lambda connection, view: connection.execute(
            "SELECT customer, CAST(time AS VARCHAR), amount_cents, category "
            f"FROM {view.events} ORDER BY ALL"
        ).fetchall()
    )


USABLE = [
    ("a", "2024-06-01 10:00:00", 150, "dry, food"),
    ("a", "2024-07-05 09:00:00", 325, "x"),
    ("b", "2024-06-02 23:30:00", 200, None),
]


def test_a_table_is_read_as_a_file_would_be(database: Database, tmp_path: Path) -> None:
    url, run = database
    fill(run)
    with opened(url, tmp_path) as source:
        assert events(source) == USABLE
        report = source.check()
        training = source.training_examples(plan(), "bank")
    assert report.rows_read == 6
    rejected = {"missing_customer": 1, "missing_amount": 1, "duplicate_row": 1}
    assert report.rejected == training.rejected == rejected
    assert training.customer_ids == ["a", "b"]
    assert training.labels is not None
    assert training.labels.tolist() == [1.0, 0.0]


def test_any_select_is_a_source(database: Database, tmp_path: Path) -> None:
    url, run = database
    fill(run)
    query = """
        WITH sold AS (SELECT * FROM log WHERE price > 1.6 AND cat LIKE '%x%' OR line = 2)
        SELECT DISTINCT who AS member, day AS "paid_at", price * 2 AS euros FROM sold;
    """.replace('"', "`" if url.startswith("mysql") else '"')
    columns = {"customer": "member", "time": "paid_at", "amount": "euros"}
    with opened(url, tmp_path, query=query, columns=columns) as source:
        assert events(source) == [
            ("a", "2024-07-05 09:00:00", 650, None),
            ("b", "2024-06-02 23:30:00", 400, None),
        ]
    with opened(url, tmp_path, query="SELECT * FROM log -- 100% of it") as source:
        assert events(source) == USABLE


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM log",
        "SELECT * FROM log; DELETE FROM log",
        "SELECT * FROM log) x; DELETE FROM log; --",
        "DELETE FROM log RETURNING who, day, price, cat",
    ],
)
def test_a_query_can_change_nothing(query: str, database: Database, tmp_path: Path) -> None:
    url, run = database
    fill(run)
    with opened(url, tmp_path, query=query) as source, pytest.raises(DataError, match="refused"):
        source.check()
    with opened(url, tmp_path) as source:
        assert source.check().rows_read == 6


def test_postgresql_itself_refuses_a_function_that_writes(
    postgresql_url: str, tmp_path: Path
) -> None:
    on_server(postgresql_url, "CREATE SEQUENCE counter")
    query = "SELECT nextval('counter') AS who, now() AS day, 1 AS price, '' AS cat"
    with (
        opened(postgresql_url, tmp_path, query=query) as source,
        pytest.raises(DataError, match="25006"),
    ):
        source.check()


def test_one_impossible_value_costs_its_own_row_only(
    postgresql_url: str, mariadb_url: str, tmp_path: Path
) -> None:
    times = ["infinity", "-infinity", "0044-03-15 10:00:00 BC", "99999-01-01 00:00:00"]
    rows = ", ".join(f"('z{place}', '{time}', 1)" for place, time in enumerate(times))
    on_server(postgresql_url, "CREATE TABLE log (who TEXT, day TIMESTAMPTZ, price NUMERIC)")
    on_server(
        postgresql_url,
        f"INSERT INTO log VALUES {rows}, ('a', '2024-06-01 10:00:00+08', 1), "
        "('y', '2024-06-01', 'NaN'), ('x', '2024-06-01', 'Infinity')",
    )
    columns = {"customer": "who", "time": "day", "amount": "price"}
    with opened(postgresql_url, tmp_path, columns=columns) as source:
        assert events(source) == [("a", "2024-06-01 02:00:00", 100, None)]
        found = source.check().rejected
    assert found == {"impossible_time": 2, "future_time": 2, "unparsable_amount": 2}
    on_server(mariadb_url, "CREATE TABLE log (who BIGINT UNSIGNED, day DATETIME, price DOUBLE)")
    on_server(
        mariadb_url,
        "INSERT IGNORE INTO log VALUES (1, '0000-00-00', 1), "
        "(18446744073709551615, '2024-06-01', 1e0)",
    )
    with opened(mariadb_url, tmp_path, columns=columns) as source:
        assert events(source) == [("18446744073709551615", "2024-06-01 00:00:00", 100, None)]
        assert source.check().rejected == {"impossible_time": 1}


def test_numbers_are_the_customers_that_they_are_in_a_file(
    database: Database, tmp_path: Path
) -> None:
    url, run = database
    run("CREATE TABLE log (who NUMERIC(20, 2), day DATE, price DOUBLE PRECISION)")
    run("INSERT INTO log VALUES (13085, '2024-06-01', 1.1), (13086.5, '2024-06-02', 0.1)")
    columns = {"customer": "who", "time": "day", "amount": "price"}
    with opened(url, tmp_path, columns=columns) as source:
        assert next(row[0:3:2] for row in events(source)) == ("13085", 110)
        customers = source.scoring_examples(plan(), "bank").customer_ids
    assert customers[0] == "13085"
    assert customers[1].rstrip("0") == "13086.5"


def test_bytes_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "shop.sqlite"
    on_sqlite(path, "CREATE TABLE log (who, day, price, cat)")
    on_sqlite(
        path,
        "INSERT INTO log VALUES (CAST(x'ff41' AS TEXT), '2024-06-01', 1, 'x'), "
        "(x'fe42', '2024-06-01', 1, 'x'), (7.0, '2024-06-01', 1, x'ff')",
    )
    with opened("sqlite:///shop.sqlite", tmp_path) as source:
        assert events(source) == [("7", "2024-06-01 00:00:00", 100, None)]
        assert source.check().rejected == {"undecodable_text": 2}


def test_more_rows_than_a_batch_arrive_once_each(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_source, "BATCH", 7)
    url, run = database
    lines = ", ".join(
        f"('c{number % 10}', '2024-06-01 10:00:{number % 60:02}', {number}, 'x', {number})"
        for number in range(1, 50)
    )
    fill(run, lines)
    with opened(url, tmp_path) as source:
        assert source.check().rows_read == 49
        cents = sorted(row[2] for row in events(source))
    assert cents == [100 * number for number in range(1, 50)]


SECRET = "s3cret-word"


@pytest.mark.parametrize(
    ("change", "error", "wanted"),
    [
        ({"table": "secret_4711"}, DataError, r"table 'secret_4711' \(source\.table\) is not"),
        ({"query": "SELECT '4711' + x FROM nowhere"}, DataError, r"source\.query is refused"),
        ({"query": "SELECT who, who FROM log"}, DataError, "refused|two columns one name|'day'"),
        ({"columns": COLUMNS | {"amount": "cost"}}, DataError, r"column 'cost' \(for amount\)"),
        ({"query": "SELECT * FROM log WHERE who = 'q'"}, DataError, "the event log is empty"),
        ({"columns": COLUMNS | {"time": "cat"}}, DataError, "no row of the event log is usable"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_and_no_value_is_shown(
    change: dict[str, Any],
    error: type[Exception],
    wanted: str,
    database: Database,
    tmp_path: Path,
) -> None:
    url, run = database
    fill(run)
    with (
        opened(url, tmp_path, **change) as source,
        pytest.raises(error, match=wanted) as raised,
    ):
        source.check()
    assert raised.value.__cause__ is None
    assert "4711" not in str(raised.value).replace("secret_4711", "")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://somebody@127.0.0.1:1/test",
        "mysql+pymysql://somebody@127.0.0.1:1/test",
        "sqlite:///gone.sqlite",
        "duckdb:///gone.duckdb",
    ],
)
def test_a_database_that_is_not_there_says_what_to_check(url: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    (tmp_path / "password").chmod(0o600)
    with (
        opened(url, tmp_path, password="file:password") as source,
        pytest.raises(
            ConfigError, match=r"source\.url (cannot be reached|does not exist)"
        ) as raised,
    ):
        source.check()
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_wrong_password_is_told_without_it(mariadb_url: str, tmp_path: Path) -> None:
    on_server(mariadb_url, "CREATE TABLE log (who INT)")
    (tmp_path / "password").write_text(SECRET)
    (tmp_path / "password").chmod(0o600)
    with (
        opened(mariadb_url, tmp_path, password="file:password") as source,
        pytest.raises(ConfigError, match="refuses this user") as raised,
    ):
        source.check()
    assert SECRET not in str(raised.value)


def test_a_file_that_is_no_database_and_one_that_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "shop.duckdb").write_bytes(b"customer-4711" * 1000)
    (tmp_path / "shop.sqlite").write_bytes(b"customer-4711" * 1000)
    for url in ("duckdb:///shop.duckdb", "sqlite:///shop.sqlite"):
        with (
            opened(url, tmp_path) as source,
            pytest.raises((ConfigError, DataError)) as raised,
        ):
            source.check()
        assert "4711" not in str(raised.value)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_that_goes_away_while_it_is_read_leaves_nothing_behind(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    numbers = "generate_series(1, 200000) AS r(n)"
    if kind == "mariadb":
        numbers = "(SELECT seq AS n FROM seq_1_to_200000) r"
    on_server(
        url,
        "CREATE TABLE log AS SELECT concat('c', n) AS who, DATE '2024-06-01' AS day, n AS price, "
        f"repeat('x', 200) AS cat FROM {numbers}",
    )
    taken: list[int] = []
    take_in = database_source.take_in

    def kills_after_two_batches(connection: Any, statement: str, batch: Any) -> None:
        take_in(connection, statement, batch)
        taken.append(batch.num_rows)
        if len(taken) == 3:
            end_connections(kind, url)

    monkeypatch.setattr(database_source, "take_in", kills_after_two_batches)
    with opened(url, tmp_path) as source:
        with pytest.raises(DataError, match="went away or broke off while it was read") as raised:
            source.check()
        assert raised.value.__cause__ is None
        assert 0 < sum(taken) < 200_000
        tables = source._db.execute("SHOW TABLES").fetchall()
        assert not {"events", "source_rows", "rejects"} & {name for (name,) in tables}
        monkeypatch.undo()
        assert source.check().customers == 200_000


def end_connections(kind: str, url: str) -> None:
    """End every other connection to this database, as an operator or a restart would."""
    if kind == "postgresql":
        on_server(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        return
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        others = connection.exec_driver_sql(
            "SELECT id FROM information_schema.processlist "
            "WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        ).fetchall()
        for (other,) in others:
            connection.exec_driver_sql(f"KILL {other}")
    engine.dispose()


def test_one_snapshot_is_read_whatever_is_written_meanwhile(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lambda sql: on_server(postgresql_url, sql))
    begin = database_source._begin

    def then_another_writes(connection: Any) -> None:
        begin(connection)
        connection.exec_driver_sql("SELECT 1")  # a snapshot is taken by the first statement
        on_server(postgresql_url, "DELETE FROM log")

    monkeypatch.setattr(database_source, "_begin", then_another_writes)
    with opened(postgresql_url, tmp_path) as source:
        assert source.check().rows_read == 6


def test_rows_from_a_database_are_kept_for_some_minutes_and_check_reads_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, run = database
    fill(run)
    with opened(url, tmp_path) as source:
        assert source.scoring_examples(plan(), "bank").customer_ids == ["a", "b"]
        run("INSERT INTO log VALUES ('d', '2024-06-03 10:00:00', 1, 'x', 9)")
        assert source.scoring_examples(plan(), "bank").customer_ids == ["a", "b"]
        assert source.check().customers == 3
        assert source.scoring_examples(plan(), "bank").customer_ids == ["a", "b", "d"]
        run("INSERT INTO log VALUES ('e', '2024-06-03 10:00:00', 1, 'x', 10)")
        monkeypatch.setattr(sources, "FRESH_SECONDS", -1)
        assert source.scoring_examples(plan(), "bank").customer_ids == ["a", "b", "d", "e"]


def test_a_consent_that_ends_in_the_database_counts_at_the_next_question(
    database: Database, tmp_path: Path
) -> None:
    url, run = database
    fill(run)
    run("CREATE TABLE consent (id VARCHAR(40), ok INTEGER)")
    run("INSERT INTO consent VALUES ('a', 1), ('b', 1)")
    consent = {"table": "consent", "customer": "id", "granted": "ok"}
    with opened(url, tmp_path, consent=consent) as source:
        assert source.scoring_examples(plan(), "bank").customer_ids == ["a", "b"]
        run("UPDATE consent SET ok = 0 WHERE id = 'a'")
        assert source.scoring_examples(plan(), "bank").customer_ids == ["b"]


def test_consents_may_lie_in_another_place_than_the_rows(tmp_path: Path) -> None:
    fill(lambda sql: on_sqlite(tmp_path / "shop.sqlite", sql))
    on_duckdb(tmp_path / "crm.duckdb", "CREATE TABLE c AS SELECT 'a' AS id, true AS ok")
    consent = {"url": "duckdb:///crm.duckdb", "query": "SELECT * FROM c"}
    mapped = {"customer": "id", "granted": "ok"}
    with opened("sqlite:///shop.sqlite", tmp_path, consent=consent | mapped) as source:
        assert source.scoring_examples(plan(), "bank").customer_ids == ["a"]
    (tmp_path / "consent.csv").write_text("id,ok\nb,yes\n")
    in_file = {"path": "consent.csv"} | mapped
    with opened("sqlite:///shop.sqlite", tmp_path, consent=in_file) as source:
        assert source.scoring_examples(plan(), "bank").customer_ids == ["b"]


def test_a_feature_table_may_lie_in_a_database(database: Database, tmp_path: Path) -> None:
    url, run = database
    run("CREATE TABLE clients (client VARCHAR(40), age INTEGER, tariff VARCHAR(9), bad BOOLEAN)")
    run("INSERT INTO clients VALUES ('b', 70, 'gold', true), ('a', 20, 'basic', false)")
    asked = parse_plan(
        b"""
format = 1
name = "p"
purpose = "risk"
task = { kind = "label", label = "bad" }
privacy = { epsilon = 1.0 }
[features]
columns = [{ name = "age", low = 20, high = 70 },
  { name = "tariff", kind = "category", categories = ["basic", "gold"] }]
"""
    )
    values = {"kind": "table", "table": "clients", "columns": {"customer": "client"}}
    with opened(url, tmp_path, **values) as source:
        rows = source.training_examples(asked, "bank")
    assert rows.customer_ids == ["a", "b"]
    assert rows.features.tolist() == [[0, 1, 0], [1, 0, 1]]
    assert rows.labels is not None
    assert rows.labels.tolist() == [0, 1]


def test_a_schema_digest_names_the_form_and_not_the_rows(
    database: Database, tmp_path: Path
) -> None:
    url, run = database
    fill(run)
    with opened(url, tmp_path) as source:
        before = source.schema_digest()
        run("DELETE FROM log WHERE who = 'a'")
        assert source.schema_digest() == before
        run("ALTER TABLE log ADD COLUMN note VARCHAR(9)")
        assert source.schema_digest() != before
    with opened(url, tmp_path, columns=COLUMNS | {"channel": "note"}) as source:
        assert source.schema_digest() != before


def test_a_table_in_a_schema_of_its_own_is_named_with_a_point(
    postgresql_url: str, tmp_path: Path
) -> None:
    on_server(postgresql_url, "CREATE SCHEMA sales")
    fill(lambda sql: on_server(postgresql_url, sql.replace(" log ", ' sales."Odd ""name" ')))
    with opened(postgresql_url, tmp_path, table='sales.Odd "name') as source:
        assert source.check().rows_read == 6


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"url": f"postgresql+psycopg://me:{SECRET}@host/db"}, "password never stands in the url"),
        ({"url": f"mysql+pymysql://me@host/db?password={SECRET}"}, "password never stands in the"),
        ({"url": "oracle://me@host/db"}, "begins with one of"),
        ({"url": "postgresql+psycopg://me@host"}, "names no database"),
        ({"url": f"me:{SECRET}"}, "not a database url"),
        ({"password": SECRET}, "should match pattern"),
        ({"path": "log.csv"}, "exactly one of path, table and query"),
        ({"query": "SELECT 1"}, "exactly one of path, table and query"),
        ({"table": None}, "exactly one of path, table and query"),
        ({"url": None}, "need the url of a database"),
        ({"table": None, "path": "log.csv"}, "files have no url"),
        ({"encoding": "gbk"}, "encoding: for text files only"),
        ({"decimal": ","}, "decimal"),
        ({"customer_ids": "phone", "region": "XX"}, "two capital letters"),
        ({"region": "CN"}, 'for customer_ids = "phone" only'),
    ],
)
def test_settings_of_a_database_that_cannot_be_right_are_refused(
    changes: dict[str, Any], wanted: str
) -> None:
    given = {"url": "sqlite:///shop.sqlite", "table": "log", "columns": COLUMNS}
    with pytest.raises(ValidationError, match=wanted) as raised:
        SourceSettings.model_validate(given | changes)
    described = str(raised.value.errors(include_input=False, include_url=False))
    assert SECRET not in described


def test_a_place_shows_no_password() -> None:
    place = database_source.Place(
        make_url("postgresql+psycopg://me@host/db").set(password=SECRET),
        *("log", None, "source", Path(), Path()),
    )
    assert SECRET not in repr(place)
