"""What is known of each customer from the event log: every fact of models/facts.py, by DuckDB.

A few statements over the events, out of core: no row comes into Python. Facts and local tags may
look across this party's own customers; nothing here feeds a training row. Every result is the same
whatever the order of rows and threads: sums are of integers, ties are broken by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta

from models.catalogue import IS_RETURN
from models.facts import FACTS
from models.forbidden import forbidden
from models.tag_catalogue import MAX_TEXT
from party_client.local_fact_columns import (
    CODES,
    FACT_COLUMNS,
    WORDS,
    big_sales,
    code,
    month_day,
    packed,
)
from party_client.readers import Connection, data_errors

FACTS_TABLE = "local_facts"
_PRICES = "local_prices"
_PURCHASES = "local_purchases"
_DAYS = "local_days"
_GAPS = "local_gaps"
_CUSTOMERS = "local_customers"
_WINDOWS = "local_windows"
_PARTS = {  # by their names in `FACT_COLUMNS`, where `_WINDOWS` is w
    "l": "local_lines",
    "p": "local_past",
    "g": "local_rhythm",
    "s": "local_switches",
    "cat": "local_categories",
    "ch": "local_channels",
}
_LATE = "age + gap <= 730"

# The first day of the Chinese year, and the 7th of its 7th month (Qixi), from 2008 on. After 2040
# the tags of these two occasions go to nobody.
NEW_YEAR = (
    "2008-02-07 2009-01-26 2010-02-14 2011-02-03 2012-01-23 2013-02-10 2014-01-31 2015-02-19 "
    "2016-02-08 2017-01-28 2018-02-16 2019-02-05 2020-01-25 2021-02-12 2022-02-01 2023-01-22 "
    "2024-02-10 2025-01-29 2026-02-17 2027-02-06 2028-01-26 2029-02-13 2030-02-03 2031-01-23 "
    "2032-02-11 2033-01-31 2034-02-19 2035-02-08 2036-01-28 2037-02-15 2038-02-04 2039-01-24 "
    "2040-02-12"
)
QIXI = (
    "2008-08-07 2009-08-26 2010-08-16 2011-08-06 2012-08-23 2013-08-13 2014-08-02 2015-08-20 "
    "2016-08-09 2017-08-28 2018-08-17 2019-08-07 2020-08-25 2021-08-14 2022-08-04 2023-08-22 "
    "2024-08-10 2025-08-29 2026-08-19 2027-08-08 2028-08-26 2029-08-16 2030-08-05 2031-08-24 "
    "2032-08-12 2033-08-01 2034-08-20 2035-08-10 2036-08-28 2037-08-17 2038-08-07 2039-08-26 "
    "2040-08-14"
)


@contextmanager
def facts_of(connection: Connection, events: str, today: date) -> Iterator[str]:
    """A table with `customer` and every fact, NULL where it is absent; gone afterwards.

    `events` is a relation as `SourceView.events`. Only what was before `today` is read; a customer
    without a purchase before it has no row. Raises DataError.
    """
    try:
        with data_errors("the event log"):
            _number_words(connection, events)
            for name, sql in _statements(events, today):
                connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}")
        yield FACTS_TABLE
    finally:
        tables = (WORDS, _CUSTOMERS, _PRICES, _PURCHASES, _DAYS, _GAPS, _WINDOWS)
        for name in (*tables, *_PARTS.values(), FACTS_TABLE):
            connection.execute(f"DROP TABLE IF EXISTS {name}")


def _number_words(connection: Connection, events: str) -> None:
    """Number the categories and channels by name; `usable`: it may be a tag's value."""
    found = connection.execute(
        f"SELECT DISTINCT category FROM {events} UNION SELECT DISTINCT channel FROM {events}"
    ).fetchall()
    words = sorted((word for (word,) in found if word is not None), reverse=True)
    usable = [_may_be_value(word) for word in words]
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {WORDS} AS SELECT unnest(?::VARCHAR[]) AS word, "
        "unnest(?::BOOLEAN[]) AS usable, unnest(?::INTEGER[]) AS code",
        [words, usable, list(range(1, len(words) + 1))],
    )


def _may_be_value(word: str) -> bool:
    return (
        0 < len(word) <= MAX_TEXT
        and word.isprintable()
        and word == word.strip()
        and forbidden(word) is None
    )


def _statements(events: str, today: date) -> Iterator[tuple[str, str]]:
    """Name and SELECT of every table, in order."""
    yield (
        _CUSTOMERS,
        f"""
        SELECT customer, row_number() OVER ()::INTEGER AS number
        FROM (SELECT DISTINCT customer FROM {events})""",
    )
    yield _PURCHASES, _purchases_sql(events, today)
    yield _PRICES, _prices_sql()
    yield _PARTS["l"], _lines_sql(today)
    yield _PARTS["p"], _past_sql()
    yield (
        _DAYS,
        f"""
        SELECT number, age, sum(cents)::BIGINT AS cents, max(channel) AS channel
        FROM {_PURCHASES} WHERE NOT returned GROUP BY number, age""",
    )
    yield (
        _GAPS,
        f"""
        SELECT number, age, gap FROM (
            SELECT number, age,
                   lag(age) OVER (PARTITION BY number ORDER BY age DESC) - age AS gap
            FROM {_DAYS}) WHERE gap IS NOT NULL""",
    )
    yield _WINDOWS, _windows_sql()
    yield _PARTS["g"], _gaps_sql()
    yield _PARTS["s"], _switches_sql()
    yield _PARTS["cat"], _tops_sql("category")
    yield _PARTS["ch"], _tops_sql("channel")
    yield FACTS_TABLE, _facts_sql()


def _purchases_sql(events: str, today: date) -> str:
    """Every event before today, returns too, with numbers for texts and the parts of its time."""
    return f"""
        SELECT number, amount_cents AS cents, coalesce(c.code, 0) AS priced_as,
               CASE WHEN c.usable THEN c.code END AS category,
               CASE WHEN ch.usable THEN ch.code END AS channel,
               date_diff('day', CAST(time AS DATE), DATE '{today.isoformat()}')::INTEGER AS age,
               epoch_us(time) AS moment, CAST(time AS DATE) AS day,
               {month_day("time")}::SMALLINT AS md,
               CASE WHEN CAST(time AS TIME) = TIME '00:00:00' THEN NULL
                    ELSE hour(time)::TINYINT END AS hour,
               {IS_RETURN} AS returned
        FROM {events} AS e JOIN {_CUSTOMERS} USING (customer)
        LEFT JOIN {WORDS} c ON e.category = c.word LEFT JOIN {WORDS} ch ON e.channel = ch.word
        WHERE time < TIMESTAMP '{today.isoformat()} 00:00:00'"""


def _prices_sql() -> str:
    """A category's median and 80th percentile amount of all customers, last 365 days.

    By counting equal amounts: exact, and it needs no memory for a category's every row.
    """
    return f"""
        SELECT priced_as,
               min(cents) FILTER (upto * 2 >= total) AS median,
               min(cents) FILTER (upto * 5 >= total * 4) AS high
        FROM (
            SELECT priced_as, cents,
                   sum(n) OVER (PARTITION BY priced_as ORDER BY cents) AS upto,
                   sum(n) OVER (PARTITION BY priced_as) AS total
            FROM (SELECT priced_as, cents, count(*) AS n FROM {_PURCHASES}
                  WHERE NOT returned AND age <= 365 GROUP BY ALL)
        ) GROUP BY priced_as"""


def _lines_sql(today: date) -> str:
    """Counts of purchases by customer, last 365 days."""
    weekdays = ", ".join(f"count(*) FILTER (isodow(day) = {n})" for n in range(1, 8))
    quarters = ", ".join(f"count(*) FILTER (quarter(day) = {n})" for n in range(1, 5))
    hours = ("hour >= 22 OR hour < 6", "hour BETWEEN 6 AND 11", "hour BETWEEN 12 AND 17")
    parts = ", ".join(f"count(*) FILTER ({one})" for one in (*hours, "hour BETWEEN 18 AND 21"))
    counted = {
        "early": "hour BETWEEN 6 AND 8",
        "lunch": "hour BETWEEN 11 AND 13",
        "weekend": "isodow(day) >= 6",
        "payday": "day(day) >= 25 OR day(day) <= 5",
        "double_11": "md BETWEEN 1101 AND 1112",
        "mid_year": "md BETWEEN 601 AND 620",
        "new_year": _near(NEW_YEAR, 21, 1, today),
        "golden_week": "md BETWEEN 1001 AND 1007",
        "gift": f"md BETWEEN 208 AND 214 OR md BETWEEN 505 AND 520 OR {_near(QIXI, 6, 0, today)}",
        "december": "md BETWEEN 1201 AND 1231",
        "sale": big_sales("md"),
        "low_price": "cents < median",
        "high_price": "cents > high",
    }
    columns = ", ".join(f"count(*) FILTER ({sql}) AS {name}" for name, sql in counted.items())
    return f"""
        SELECT number, count(*) AS bought, count(hour) AS timed,
               [{weekdays}] AS weekdays, [{quarters}] AS quarters, [{parts}] AS parts, {columns}
        FROM {_PURCHASES} JOIN {_PRICES} USING (priced_as)
        WHERE NOT returned AND age <= 365 GROUP BY number"""


def _near(days: str, first: int, last: int, today: date) -> str:
    """SQL: the day lies from `first` to `last` days before one of `days`, last 366 days only."""
    spans = []
    for text in days.split():
        day = date.fromisoformat(text)
        start, end = day - timedelta(days=first), day - timedelta(days=last)
        if end >= today - timedelta(days=366) and start < today:
            spans.append(f"day BETWEEN DATE '{start}' AND DATE '{end}'")
    return f"({' OR '.join(spans) or 'false'})"


def _past_sql() -> str:
    """What needs every event of a customer: returns, and the first purchase on record."""
    first = "min(" + packed("0", f"moment + {1 << 61}", f"{CODES - 1} - coalesce({{}}, 0)") + ")"
    return f"""
        SELECT number, count(*) FILTER (returned AND age <= 365) AS returns,
               min(day) FILTER (NOT returned) AS first_day,
               {CODES - 1} - {code(first.format("category") + " FILTER (NOT returned)")}
                   AS category,
               {CODES - 1} - {code(first.format("channel") + " FILTER (NOT returned)")}
                   AS channel
        FROM {_PURCHASES} GROUP BY number"""


def _windows_sql() -> str:
    """Windows over purchase days, by customer."""
    return f"""
        SELECT number, min(age) AS recency, max(age) AS tenure, count(*) AS days,
               count(*) FILTER (age <= 30) AS days_30, count(*) FILTER (age <= 90) AS days_90,
               count(*) FILTER (age BETWEEN 91 AND 180) AS days_before_90,
               count(*) FILTER (age <= 365) AS days_365,
               bit_count(bit_or(1 << ((least(age, 365) - 1) // 30)) FILTER (age <= 365)) AS blocks,
               coalesce(sum(cents) FILTER (age <= 90), 0)::DOUBLE / 100 AS spend_90,
               coalesce(sum(cents) FILTER (age BETWEEN 91 AND 180), 0)::DOUBLE / 100
                   AS spend_before_90,
               coalesce(sum(cents) FILTER (age BETWEEN 91 AND 365), 0)::DOUBLE / 100
                   AS spend_275,
               coalesce(sum(cents) FILTER (age <= 365), 0)::DOUBLE / 100 AS spend_365,
               coalesce(sum(cents) FILTER (age BETWEEN 366 AND 730), 0)::DOUBLE / 100
                   AS spend_before_365,
               sum(cents)::DOUBLE / 100 AS spend,
               max(cents) FILTER (age <= 365)::DOUBLE / 100 AS biggest
        FROM {_DAYS} GROUP BY number"""


def _gaps_sql() -> str:
    """Gaps between purchase days: those of the last 730 days, the first and the last."""
    return f"""
        SELECT number, count(*) FILTER ({_LATE}) AS n, sum(gap) FILTER ({_LATE})::DOUBLE AS total,
               sum(gap::BIGINT * gap) FILTER ({_LATE})::DOUBLE AS squares,
               quantile_cont(gap, [0.5, 0.75, 0.9]) FILTER ({_LATE}) AS usual,
               arg_max(gap, age) AS first, arg_min(gap, age) AS last
        FROM {_GAPS} GROUP BY number"""


def _switches_sql() -> str:
    """Changes of channel between purchase days with one, last 365 days."""
    return f"""
        SELECT number, count(switched) AS pairs, count(*) FILTER (switched) AS switches
        FROM (SELECT number, channel <> lag(channel) OVER (PARTITION BY number ORDER BY age DESC)
                         AS switched
              FROM {_DAYS} WHERE age <= 365 AND channel IS NOT NULL)
        GROUP BY number"""


def _tops_sql(column: str) -> str:
    """The words of `column` that a customer bought most; equals go by amount, then by name."""
    return f"""
        SELECT number, count(*) FILTER (n > 0) AS kinds, sum(n) AS lines,
               max({packed("n", "cents", "code")}, 2) FILTER (n > 0) AS top,
               {code(f"max({packed('n', 'cents', 'code')}) FILTER (n > 0)")} AS first,
               {code(f"max({packed('0', 'cents', 'code')}) FILTER (n > 0)")} AS dearest,
               {code(f"max({packed('recent', 'recent_cents', 'code')}) FILTER (recent > 0)")}
                   AS recent,
               {code(f"max({packed('earlier', 'earlier_cents', 'code')}) FILTER (earlier > 0)")}
                   AS earlier,
               max(n) AS most, count(*) FILTER (since <= 90) AS new_90
        FROM (
            SELECT number, {column} AS code, count(*) FILTER (age <= 365) AS n,
                   sum(cents) FILTER (age <= 365) AS cents, count(*) FILTER (age <= 90) AS recent,
                   sum(cents) FILTER (age <= 90) AS recent_cents,
                   count(*) FILTER (age BETWEEN 91 AND 365) AS earlier,
                   sum(cents) FILTER (age BETWEEN 91 AND 365) AS earlier_cents, max(age) AS since
            FROM {_PURCHASES} WHERE NOT returned AND {column} IS NOT NULL GROUP BY ALL
        ) GROUP BY number"""


def _base_gap(share: float) -> str:
    """The quantile of all customers' gaps, by counting equal ones."""
    return f"""(
        SELECT min(gap) FILTER (upto >= total * {share}) FROM (
            SELECT gap, sum(n) OVER (ORDER BY gap) AS upto, sum(n) OVER () AS total
            FROM (SELECT gap, count(*) AS n FROM {_GAPS} WHERE {_LATE} GROUP BY gap)))"""


def _facts_sql() -> str:
    """Every fact in the order of `FACTS`; a name without its SQL is a KeyError."""
    columns = ", ".join(f"{FACT_COLUMNS[name]} AS {name}" for name in FACTS)
    joins = " ".join(f"LEFT JOIN {table} {short} USING (number)" for short, table in _PARTS.items())
    return f"""
        WITH base AS (SELECT {_base_gap(0.75)} AS usual, {_base_gap(0.9)} AS long)
        SELECT customer, {columns}
        FROM {_WINDOWS} w JOIN {_CUSTOMERS} USING (number) {joins} CROSS JOIN base"""
