"""Types of a party's own columns: files that differ in them, and times whose text names a zone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from party_client.source_settings import SourceSettings
from party_client.sources import open_source

COLUMNS = {"customer": "who", "time": "at", "amount": "sum"}
FIRST, SECOND = 900_000_000_000_000_001, 900_000_000_000_000_002
DAY = datetime(2024, 6, 1)


def events(home: Path, **changes: Any) -> tuple[list[tuple[str, str, int]], dict[str, int]]:
    given = SourceSettings.model_validate({"path": "logs", "columns": COLUMNS} | changes)
    with open_source(given, home, today=date(2025, 1, 1)) as source:
        return source.inspect(
            lambda connection, view: (
                connection.execute(
                    f"SELECT customer, CAST(time AS VARCHAR), amount_cents FROM {view.events} "
                    "ORDER BY ALL"
                ).fetchall(),
                dict(view.rejected),
            )
        )


def file(home: Path, name: str, who: pa.Array, at: pa.Array | None = None, **more: Any) -> None:
    (home / "logs").mkdir(exist_ok=True)
    times = pa.array([DAY] * len(who)) if at is None else at
    table = pa.table({"who": who, "at": times, "sum": pa.array([1.0] * len(who))} | more)
    pq.write_table(table, home / "logs" / f"{name}.parquet")


def customers(home: Path) -> list[str]:
    return [customer for customer, _, _ in events(home, duplicates="keep")[0]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([7], pa.int32()), pa.array([FIRST, SECOND], pa.int64())),
        (pa.array([7], pa.uint8()), pa.array([FIRST, SECOND], pa.uint64())),
        (pa.array([-7], pa.int64()), pa.array([FIRST, SECOND], pa.uint64())),
        (pa.array([7.0], pa.float64()), pa.array([FIRST, SECOND], pa.int64())),
        (pa.array([7], pa.int16()), pa.array([FIRST, SECOND], pa.decimal128(20, 2))),
        (pa.array(["7"]), pa.array([FIRST, SECOND], pa.int64())),
    ],
)
def test_no_customer_becomes_another_where_files_differ_in_type(
    one: pa.Array, other: pa.Array, tmp_path: Path
) -> None:
    file(tmp_path, "0", one)
    file(tmp_path, "1", other)
    seven = "-7" if one[0].as_py() == -7 else "7"
    assert customers(tmp_path) == sorted([seven, str(FIRST), str(SECOND)])


@pytest.mark.parametrize(
    "columns",
    [
        (pa.array([13085], pa.int64()), pa.array([13085.0], pa.float64())),
        (pa.array([13085.0], pa.float64()), pa.array(["13085"])),
        (pa.array([13085], pa.int32()), pa.array([13085], pa.decimal128(12, 2))),
        (
            pa.array([13085], pa.decimal128(10, 1)),
            pa.array([13085], pa.decimal128(12, 2)),
            pa.array([13085], pa.uint64()),
        ),
    ],
)
def test_one_customer_stays_one_where_files_differ_in_type(
    columns: Sequence[pa.Array], tmp_path: Path
) -> None:
    for number, who in enumerate(columns):
        file(tmp_path, str(number), who)
    assert customers(tmp_path) == ["13085"] * len(columns)


def test_whole_numbers_of_other_columns_stay_whole(tmp_path: Path) -> None:
    # As fractions the two order numbers would be one, and the second row a copy of the first.
    file(tmp_path, "0", pa.array(["a"]), order=pa.array([1], pa.int32()))
    file(tmp_path, "1", pa.array(["a", "a"]), order=pa.array([FIRST, SECOND], pa.int64()))
    rows, rejected = events(tmp_path)
    assert (len(rows), rejected) == (3, {})


def test_a_value_that_does_not_fit_the_common_type_costs_its_row_only(tmp_path: Path) -> None:
    file(tmp_path, "0", pa.array(["a"]))
    days = pa.array([19_875, 2**31 - 2], pa.date32())
    file(tmp_path, "1", pa.array(["b", "c"]), days)
    rows, rejected = events(tmp_path)
    assert [(customer, time) for customer, time, _ in rows] == [
        ("a", "2024-06-01 00:00:00"),
        ("b", "2024-06-01 00:00:00"),
    ]
    assert rejected == {"malformed_row": 1}


@pytest.mark.parametrize(
    ("text", "date_format", "wanted"),
    [
        ("2024-05-01 23:00:00+08:00", "", "2024-05-01 15:00:00"),
        ("2024-05-01 07:00:00 +0800", "", "2024-04-30 23:00:00"),
        ("2024-05-01T23:00:00.5Z", "", "2024-05-01 23:00:00.5"),
        ("2024-05-01 23:00 UTC", "", "2024-05-01 23:00:00"),
        ("2024-05-01 23:00-05", "", "2024-05-02 04:00:00"),
        ("2024-05-01 23:00:00", "", "2024-05-01 23:00:00"),
        ("2024-05-01", "", "2024-05-01 00:00:00"),
        ("2024-05-01 07:00+0800", "%Y-%m-%d %H:%M%z", "2024-04-30 23:00:00"),
        ("%z 2024-05-01", "%%z %Y-%m-%d", "2024-05-01 00:00:00"),
    ],
)
def test_an_event_with_a_zone_lies_on_its_day_in_utc(
    text: str, date_format: str, wanted: str, tmp_path: Path
) -> None:
    (tmp_path / "log.csv").write_text(f"who,at,sum\na,{text},1\n")
    rows, _ = events(tmp_path, path="log.csv", date_format=date_format)
    assert rows == [("a", wanted, 100)]


@pytest.mark.parametrize("text", ["2024-05-01 10:00:00 PM", "2024-05-01 10:00:00+23:00"])
def test_what_stands_behind_a_time_and_is_no_zone_is_not_passed_over(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "log.csv").write_text(f"who,at,sum\na,2024-05-01,1\nb,{text},1\n")
    rows, rejected = events(tmp_path, path="log.csv")
    assert len(rows) == 1
    assert rejected == {"impossible_time": 1}


def test_an_offset_in_the_format_of_events_is_refused() -> None:
    with pytest.raises(ValidationError, match="read with %z"):
        SourceSettings(path="log.csv", columns=COLUMNS, date_format="%Y-%m-%d %H:%M:%S-0500")
