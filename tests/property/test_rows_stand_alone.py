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
    with tempfile.TemporaryDirectory() as folder:
        lines = ["who,at,sum,kind,category,channel", *(",".join(one) for one in events)]
        (Path(folder) / "log.csv").write_text("\n".join(lines) + "\n")
        with open_source(LOG, Path(folder), today=date(2025, 1, 1)) as source:
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
                "SELECT customer FROM events JOIN consented USING (customer) "
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
