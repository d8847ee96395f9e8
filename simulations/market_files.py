"""The simulated market's files: three formats, and dirt on purpose. All of it is simulated.

Dirt: rows without a customer, whole rows twice, dates that do not exist or lie ahead, amounts that
are no numbers, text in mixed encodings, refunds in three notations.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from party_client.source_settings import SourceSettings

if TYPE_CHECKING:
    from simulations.population import Habits, Log

_START = np.datetime64("2023-07-01T00:00:00", "s")
_DIRT = 0.004  # share of rows spoiled in each way


def write_retailer(
    home: Path, log: Log, habits: Habits, random: np.random.Generator
) -> SourceSettings:
    """CSV with a header; most lines UTF-8, the lines of one old till Latin-1; refunds by type."""
    times = np.datetime_as_string(_START + log.second).tolist()
    amounts = [f"{abs(value):.2f}" for value in log.amount.tolist()]
    customers = _customers(log)
    _spoil(customers, random, "")
    _spoil(times, random, "2024-02-30T11:00:00")
    _spoil(amounts, random, "n/a")
    types = ["refund" if back else "sale" for back in log.refund.tolist()]
    rows = [
        f'{number},{customer},{time},{amount},{kind},"{habits.categories[category]}",'
        f"{habits.channels[channel]}\n"
        for number, (customer, time, amount, kind, category, channel) in enumerate(
            zip(
                customers,
                times,
                amounts,
                types,
                log.category.tolist(),
                log.channel.tolist(),
                strict=True,
            )
        )
    ]
    rows = _twice(rows, random)
    old_till = random.random(len(rows)) < 0.2
    with (home / "events.csv").open("wb") as file:
        file.write(b"ticket,household_id,purchased_at,sales_value,kind,department,channel\n")
        file.writelines(
            row.encode("latin-1" if old else "utf-8")
            for row, old in zip(rows, old_till.tolist(), strict=True)
        )
    return SourceSettings(
        path="events.csv",
        encoding=("utf-8", "latin-1"),
        columns={
            "customer": "household_id",
            "time": "purchased_at",
            "amount": "sales_value",
            "type": "kind",
            "category": "department",
            "channel": "channel",
        },
    )


def write_bank(home: Path, log: Log, habits: Habits, random: np.random.Generator) -> SourceSettings:
    """Parquet with real types; a refund is a negative amount; some bookings lie far ahead."""
    customers: list[str | None] = list(_customers(log))
    _spoil(customers, random, None)
    booked = _START + log.second
    booked[random.random(booked.size) < _DIRT / 2] = np.datetime64("2099-12-31T00:00:00", "s")
    amounts: list[float | None] = log.amount.tolist()
    _spoil(amounts, random, None)
    copies = _copies(len(amounts), random)
    table = pa.table(
        {
            "booking": pa.array(np.arange(len(amounts))),
            "client_no": pa.array(customers),
            "booked_at": pa.array(booked),
            "amount_eur": pa.array(amounts),
            "merchant_group": pa.array(habits.categories).take(pa.array(log.category)),
            "device": pa.array(habits.channels).take(pa.array(log.channel)),
        }
    ).take(pa.array(copies))
    pq.write_table(table, home / "events.parquet")
    return SourceSettings(
        path="events.parquet",
        columns={
            "customer": "client_no",
            "time": "booked_at",
            "amount": "amount_eur",
            "category": "merchant_group",
            "channel": "device",
        },
    )


def write_ecommerce(
    home: Path, log: Log, habits: Habits, random: np.random.Generator
) -> SourceSettings:
    """Semicolons, decimal commas, day.month.year, GBK with some broken bytes, another currency."""
    when = (_START + log.second).astype(object)
    times = [f"{moment:%d.%m.%Y %H:%M:%S}" for moment in when]
    amounts = [f"{value * 7.8:.2f}".replace(".", ",") for value in log.amount.tolist()]
    customers = _customers(log)
    _spoil(customers, random, "  ")
    _spoil(times, random, "31.11.2024 10:00:00")
    _spoil(amounts, random, "")
    rows = [
        f"{number};{customer};{time};{amount};{habits.categories[category]};"
        f"{habits.channels[channel]}\r\n".encode("gbk")
        for number, (customer, time, amount, category, channel) in enumerate(
            zip(customers, times, amounts, log.category.tolist(), log.channel.tolist(), strict=True)
        )
    ]
    # A line cut by a broken transfer: its customer can no longer be read.
    for place in np.flatnonzero(random.random(len(rows)) < _DIRT / 4).tolist():
        rows[place] = rows[place].replace(b";P", b";P\xff\xff", 1)
    rows = [rows[place] for place in _copies(len(rows), random).tolist()]
    header = "订单号;会员号;下单时间;金额;品类;渠道\r\n".encode("gbk")
    (home / "events.csv").write_bytes(header + b"".join(rows))
    return SourceSettings(
        path="events.csv",
        encoding="gbk",
        delimiter=";",
        decimal=",",
        date_format="%d.%m.%Y %H:%M:%S",
        currency_rate=0.128,
        columns={
            "customer": "会员号",
            "time": "下单时间",
            "amount": "金额",
            "category": "品类",
            "channel": "渠道",
        },
    )


def _customers(log: Log) -> list[str]:
    return [f"P{person:06d}" for person in log.customer.tolist()]


def _spoil(values: list[Any], random: np.random.Generator, broken: Any) -> None:
    for place in np.flatnonzero(random.random(len(values)) < _DIRT).tolist():
        values[place] = broken


def _copies(size: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Row numbers in order, a few of them twice."""
    return np.repeat(np.arange(size), 1 + (random.random(size) < _DIRT * 2))


def _twice(rows: Sequence[str], random: np.random.Generator) -> list[str]:
    return [rows[place] for place in _copies(len(rows), random).tolist()]
