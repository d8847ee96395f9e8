"""Feature tables: one row per customer, columns by the plan's own contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.plan import Plan, parse_plan
from party_client.source_settings import SourceSettings
from party_client.sources import Source, open_source
from privacy.errors import DataError

PLAN = b"""
format = 1
name = "card-default"
purpose = "risk"
task = { kind = "label", label = "bad" }
privacy = { epsilon = 1.0 }
[features]
columns = [
  { name = "age", low = 20, high = 70, missing = 45 },
  { name = "tariff", kind = "category", categories = ["basic", "gold"] },
]
"""
MAPPED = {"customer": "client", "age": "years", "bad": "defaulted"}
GOOD = "client,years,tariff,defaulted\nb,70,gold,1\na,20,basic,0\nc,,silver,0\n"


def plan() -> Plan:
    return parse_plan(PLAN)


def opened(home: Path, content: str, **changes: Any) -> Source:
    (home / "table.csv").write_text(content)
    values = {"kind": "table", "path": "table.csv", "columns": MAPPED} | changes
    return open_source(SourceSettings.model_validate(values), home)


def test_a_table_becomes_scaled_rows_in_the_order_of_the_customers(tmp_path: Path) -> None:
    with opened(tmp_path, GOOD) as source:
        training = source.training_examples(plan(), "bank")
        scoring = source.scoring_examples(plan(), "bank")
        report = source.check()
    assert training.customer_ids == ["a", "b", "c"]
    assert training.features.tolist() == [[0, 1, 0], [1, 0, 1], [0.5, 0, 0]]
    assert training.labels is not None
    assert training.labels.tolist() == [0, 1, 0]
    assert scoring.labels is None
    assert scoring.features.tolist() == training.features.tolist()
    assert (report.customers, report.rows_read, report.columns_missing) == (3, 3, ())


def test_scoring_needs_no_label_column(tmp_path: Path) -> None:
    with opened(tmp_path, "client,years,tariff\na,30,gold\n") as source:
        assert source.scoring_examples(plan(), "bank").customer_ids == ["a"]
        with pytest.raises(DataError, match=r"'defaulted' \(for bad\)"):
            source.training_examples(plan(), "bank")


def test_rows_that_cannot_be_read_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    bad = ",30,gold,0\nd,old,gold,0\ne,30,gold,\nf,30,gold,2\ng,30\n"
    with opened(tmp_path, GOOD + bad) as source:
        training = source.training_examples(plan(), "bank")
        again = source.training_examples(plan(), "bank")
        written = (tmp_path / "rejected" / "rejected.csv").read_text().splitlines()
        scoring = source.scoring_examples(plan(), "bank")
    assert training.rejected == {
        "malformed_row": 1,
        "missing_customer": 1,
        "unparsable_number": 1,
        "unparsable_label": 2,
    }
    assert again.rejected == training.rejected
    assert len(written) == 1 + 5
    assert training.customer_ids == ["a", "b", "c"]
    # Whoever has no readable label can still be scored.
    assert scoring.customer_ids == ["a", "b", "c", "e", "f"]


def test_a_category_with_broken_characters_is_no_category(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(GOOD.encode() + b"d,30,\xff,1\n")
    with open_source(
        SourceSettings(kind="table", path="table.csv", columns=MAPPED), tmp_path
    ) as source:
        assert source.training_examples(plan(), "bank").features[3].tolist()[1:] == [0, 0]


def test_two_customers_with_one_id_are_a_data_error(tmp_path: Path) -> None:
    with (
        opened(tmp_path, GOOD + "a,33,gold,1\n") as source,
        pytest.raises(DataError, match="one id in 'client': exactly one row per customer"),
    ):
        source.training_examples(plan(), "bank")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("client,years,tariff,defaulted\n", "the feature table is empty"),
        ("client,years,tariff,defaulted\n,3,gold,1\n", "no row has a customer"),
        ("client,years,defaulted\na,3,1\n", r"'tariff' \(for tariff\) is not in the source"),
        ("who,years,tariff,defaulted\na,3,gold,1\n", r"'client' \(for customer\)"),
        ("client,years,tariff,defaulted\na,3,gold,1\nb,3,gold,1\n", "one class"),
    ],
)
def test_an_unusable_table_is_a_data_error(content: str, wanted: str, tmp_path: Path) -> None:
    with opened(tmp_path, content) as source, pytest.raises(DataError, match=wanted):
        source.training_examples(plan(), "bank")


def test_customers_without_consent_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "consent.csv").write_text("id,ok\na,true\nb,1\nc,false\n")
    consent = {"path": "consent.csv", "customer": "id", "granted": "ok"}
    with opened(tmp_path, GOOD, consent=consent) as source:
        training = source.training_examples(plan(), "bank")
    assert training.customer_ids == ["a", "b"]
    assert (training.customers, training.consented) == (3, 2)


def test_parquet_with_boolean_labels_and_numbered_customers(tmp_path: Path) -> None:
    table = pa.table(
        {
            "client": [2, 1],
            "years": [30, None],
            "tariff": ["gold", None],
            "defaulted": [True, False],
        }
    )
    pq.write_table(table, tmp_path / "table.parquet")
    with opened(tmp_path, "", path="table.parquet") as source:
        training = source.training_examples(plan(), "bank")
    assert training.customer_ids == ["1", "2"]
    assert training.labels is not None
    assert training.labels.tolist() == [0, 1]


def test_a_plan_and_a_source_of_different_kinds_say_which_is_which(tmp_path: Path) -> None:
    events = parse_plan(
        b'format = 1\nname = "p"\npurpose = "x"\nprivacy = { epsilon = 1.0 }\n'
        b'task = { kind = "churn", cutoff = 2024-07-01 }\n'
    )
    with opened(tmp_path, GOOD) as source, pytest.raises(DataError, match="here is 'table'"):
        source.training_examples(events, "bank")
    log = {"kind": "events", "columns": {"customer": "client", "time": "years", "amount": "years"}}
    with opened(tmp_path, GOOD, **log) as source, pytest.raises(DataError, match="is 'events'"):
        source.training_examples(plan(), "bank")
