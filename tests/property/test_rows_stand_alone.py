"""Rows stand alone: taking one customer's events away leaves every other row bit-identical.

Run against real DuckDB with several threads, from the party's own file to the scaled rows.
"""

from __future__ import annotations

import random
import tempfile
from datetime import date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.catalogue import columns_of
from models.plan import parse_plan, read_plan
from party_client.source_settings import SourceSettings
from party_client.sources import open_source
from privacy.errors import DataError
from simulations.population import write_market

PLANS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
PLAN = parse_plan(
    b"""
format = 1
name = "p"
purpose = "x"
task = { kind = "churn", horizon_days = 60, eligible_days = 120, cutoff = 2024-07-01 }
privacy = { epsilon = 1.0 }
"""
)
LOG = SourceSettings(
    path="log.csv",
    threads=4,
    columns={
        "customer": "who",
        "time": "at",
        "amount": "sum",
        "type": "kind",
        "category": "category",
        "channel": "channel",
    },
)
CUSTOMERS = "abcd"


def moments(first: datetime, last: datetime) -> st.SearchStrategy[str]:
    spread = st.datetimes(min_value=first, max_value=last)
    return spread.map(lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S"))


def events_of(
    customer: st.SearchStrategy[str], time: st.SearchStrategy[str], amount: st.SearchStrategy[str]
) -> st.SearchStrategy[tuple[str, ...]]:
    kinds = st.sampled_from(["sale", "refund", ""])
    return st.tuples(
        customer,
        time,
        amount,
        kinds,
        st.sampled_from(["toys", "books", ""]),
        st.sampled_from(["w", ""]),
    )


# Each customer buys shortly before the cut-off, so that each has a row to be changed; on top come
# events at any time, dirt included.
cents = st.integers(min_value=1, max_value=10**8).map(lambda value: f"{value / 100:.2f}")
recent = moments(datetime(2024, 4, 1), datetime(2024, 6, 30))
logs = st.builds(
    lambda purchases, others: [
        *((who, *rest) for who, some in zip(CUSTOMERS, purchases, strict=True) for rest in some),
        *others,
    ],
    st.tuples(
        *(
            st.lists(
                st.tuples(recent, cents, st.just("sale"), st.sampled_from("tb"), st.just("w")),
                min_size=1,
                max_size=8,
            )
            for _ in CUSTOMERS
        )
    ),
    st.lists(
        events_of(
            st.sampled_from([*CUSTOMERS, ""]),
            st.one_of(
                moments(datetime(2023, 1, 1), datetime(2024, 9, 1)),
                st.sampled_from(["2024-06-30", "2024-07-01", "2024-02-30", "2099-01-01", ""]),
            ),
            st.one_of(
                st.floats(min_value=-1e6, max_value=1e6).map(repr),
                st.sampled_from(["0.1", "x", "1e99"]),
            ),
        ),
        max_size=20,
    ),
)
Rows = dict[str, tuple[bytes, float]]


def read(events: list[tuple[str, ...]]) -> Rows:
    return read_lines([",".join(one).encode() for one in events])


def read_lines(lines: list[bytes], log: SourceSettings = LOG, end: bytes = b"\n") -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        content = end.join([b"who,at,sum,kind,category,channel", *lines]) + end
        (Path(folder) / "log.csv").write_bytes(content)
        with open_source(log, Path(folder), today=date(2025, 1, 1)) as source:
            try:
                found = source._examples(PLAN, "bank", labelled=True)
            except DataError:  # no usable row, or nobody eligible
                return {}
    assert found.labels is not None
    return {
        customer: (row.tobytes(), label)
        for customer, row, label in zip(
            found.customer_ids, found.features, found.labels.tolist(), strict=True
        )
    }


@settings(max_examples=40, deadline=None)
@given(events=logs, gone=st.sampled_from(CUSTOMERS))
def test_removing_one_customer_changes_no_other_row(
    events: list[tuple[str, ...]], gone: str
) -> None:
    everyone = read(events)
    without = read([one for one in events if one[0] != gone])
    assert set(everyone) == set(CUSTOMERS)
    del everyone[gone]
    assert without == everyone


@settings(max_examples=15, deadline=None)
@given(events=logs, order=st.randoms(use_true_random=False))
def test_the_order_of_the_file_changes_no_row(
    events: list[tuple[str, ...]], order: random.Random
) -> None:
    shuffled = list(events)
    order.shuffle(shuffled)
    assert read(shuffled) == read(events)


# Bytes by which a line could reach into others: quotes, delimiters, halves of line ends and of
# characters, and what other readers take for a line end, a comment or the end of the file.
reach = st.sampled_from(
    [
        *(b'"', b'""', b"'", b",", b";", b"\\", b"\r", b"\0", b"\x1a", b"\x1f", b"\x0b", b"#"),
        *(b"\xff", b"\xc3", b"\xe2\x80\xa8", b"\xc2\x85", b"\xef\xbb\xbf", b" ", b"z"),
        b"2024-06-01",
    ]
)
junk = st.one_of(
    st.lists(reach, max_size=12).map(b"".join),
    st.tuples(st.lists(reach, max_size=3).map(b"".join), st.binary(max_size=6)).map(
        lambda parts: b"z,2024-06-01,5,sale," + b",".join(parts)
    ),
).map(lambda line: line.replace(b"\n", b""))


@settings(max_examples=50, deadline=None)
@given(
    events=logs,
    quoted=st.randoms(use_true_random=False),
    stray=st.lists(st.tuples(junk, st.integers(0, 100)), min_size=1, max_size=3),
    encoding=st.sampled_from([("utf-8",), ("utf-8", "latin-1"), ("ascii", "gbk"), ("utf-8-sig",)]),
    end=st.sampled_from([b"\n", b"\r\n"]),
)
def test_no_line_whatever_it_holds_changes_another_customers_row(
    events: list[tuple[str, ...]],
    quoted: random.Random,
    stray: list[tuple[bytes, int]],
    encoding: tuple[str, ...],
    end: bytes,
) -> None:
    log = LOG.model_copy(update={"encoding": encoding})
    lines = [
        ",".join(f'"{field}"' if quoted.random() < 0.3 else field for field in one).encode()
        for one in events
    ]
    alone = read_lines(lines, log, end)
    for line, place in stray:
        lines.insert(place % (len(lines) + 1), line)
    together = read_lines(lines, log, end)
    assert {who: row for who, row in together.items() if who in alone} == alone


@pytest.mark.parametrize("most", ["events", "purchases_180", "spend_365"])
def test_removing_the_largest_customer_of_a_market_changes_no_other_row(
    most: str, tmp_path: Path
) -> None:
    """Enough rows for DuckDB to split them among threads; the largest moves any shared figure."""
    plan, _ = read_plan(PLANS / "market-churn.toml")
    shop = write_market(tmp_path, 3000)["retailer"].model_copy(update={"threads": 4})
    home = tmp_path / "retailer"
    with open_source(shop, home) as source:
        before = source.training_examples(plan, "retailer")
        if most == "events":
            (largest,) = source._db.execute(
                "SELECT customer FROM events JOIN consenting USING (customer) "
                "GROUP BY customer ORDER BY count(*) DESC, customer LIMIT 1"
            ).fetchone()
        else:
            column = [one.name for one in columns_of(plan)].index(most)
            largest = before.customer_ids[int(before.features[:, column].argmax())]
    lines = (home / "events.csv").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if f",{largest},".encode() not in line]
    assert len(kept) < len(lines)
    (home / "events.csv").write_bytes(b"".join(kept))
    with open_source(shop, home) as source:
        after = source.training_examples(plan, "retailer")
    assert before.labels is not None
    assert after.labels is not None
    place = before.customer_ids.index(largest)
    assert after.customer_ids == before.customer_ids[:place] + before.customer_ids[place + 1 :]
    others = [row for row in range(len(before.customer_ids)) if row != place]
    assert after.features.tobytes() == before.features[others].tobytes()
    assert after.labels.tobytes() == before.labels[others].tobytes()
