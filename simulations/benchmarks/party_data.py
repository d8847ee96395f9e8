"""A large event log for the party benchmark: made by DuckDB from hashes of the row's number.

No customer is real and nothing is drawn: the same call writes the same rows on every machine.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import duckdb

from models.tasks import text_literal

FIRST_DAY = date(2024, 1, 1)
DAYS = 730  # the log's length; the last day is 2025-12-30
COLUMNS = {
    "customer": "customer_id",
    "time": "bought_at",
    "amount": "amount",
    "type": "type",
    "category": "category",
    "channel": "channel",
}


def write_events(path: Path, customers: int, events: int) -> None:
    """Write `events` rows of `customers` customers to the Parquet file `path`; see `COLUMNS`.

    Every customer has an event; a few have hundreds. One row in 40 is a return, one in 200 occurs
    twice, one in 1000 has no amount. Most ids hold a scrambled number, so files are not sorted.
    """
    repeated = events // 200
    # Streams of 64 random-looking bits a row. Not hash(n, stream): its values are correlated.
    bits = "hash(n * 8 + {})"
    unit = f"({bits} >> 11) / 9007199254740992.0"
    with duckdb.connect(config={"memory_limit": "1GB", "threads": 2}) as connection:
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(
            f"""
COPY (
    WITH numbered AS (
        SELECT CASE WHEN i < {events - repeated} THEN i ELSE i - {events - repeated} END AS n
        FROM range({events}) rows(i)
    ),
    drawn AS (
        SELECT n,
               CASE WHEN n < {customers} THEN n
                    ELSE CAST(floor({customers} * ({unit.format(0)}) ** 1.5) AS BIGINT)
               END AS customer,
               {unit.format(1)} AS moment,
               {unit.format(2)} AS u,
               {bits.format(3)} AS kind, {bits.format(4)} AS c, {bits.format(5)} AS h
        FROM numbered
    )
    SELECT 'c' || lpad(CAST((customer * 7919) % 100000000 AS VARCHAR), 8, '0') AS customer_id,
           TIMESTAMP '{FIRST_DAY.isoformat()}'
               + to_seconds(CAST(floor(moment * {DAYS} * 86400) AS BIGINT)) AS bought_at,
           CASE WHEN kind % 1000 <> 7 THEN round(1 + 120 * u * u * u, 2) END AS amount,
           CASE WHEN kind % 40 = 3 THEN 'return' ELSE 'sale' END AS type,
           'category ' || (c % 60) AS category,
           CASE h % 3 WHEN 0 THEN 'shop' WHEN 1 THEN 'web' ELSE 'app' END AS channel
    FROM drawn
) TO {text_literal(str(path))} (FORMAT parquet, ROW_GROUP_SIZE 122880)"""
        )
