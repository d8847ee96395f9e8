"""Every rule of data quality fails on data that break it and passes on data that do not."""

from __future__ import annotations

import csv
import random
import string
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, text

from models.plan import Plan, parse_plan
from party_client.cleaning import REASONS
from party_client.quality import QualityReport, QualityResult
from party_client.quality_check import assess
from party_client.quality_drift import stability_index
from party_client.quality_looking import Review
from party_client.quality_policy import QualityPolicy, require_quality
from party_client.quality_rules import DEMANDABLE, RULES
from party_client.source_settings import SourceSettings
from party_client.sources import Source, open_source
from party_client.tables import TABLE_REASONS
from privacy.errors import ConfigError, DataError

TODAY = date(2025, 1, 1)
FIRST = datetime(2023, 10, 30)  # a Monday
DAYS = 429  # to the last day of 2024
Row = tuple[str, str, str, str, str]  # customer, time, amount, category, channel
Change = Callable[[list[Row]], Iterable[Row]]
HEADER = ("who", "at", "sum", "group", "shop")
COLUMNS = dict(zip(("customer", "time", "amount", "category", "channel"), HEADER, strict=True))


def good_rows() -> list[Row]:
    """A log with nothing to say about: 30 purchases a day by 400 customers, few refunds."""
    draw = random.Random(20241231)
    rows: list[Row] = []
    for day in range(DAYS):
        for number in range(30):
            when = FIRST + timedelta(days=day, minutes=480 + 20 * number)
            who = f"C{draw.randrange(400):05d}"
            money = f"{draw.lognormvariate(3, 0.4):.2f}"
            group = draw.choice(("food", "home", "toys", "garden"))
            rows.append((who, when.isoformat(), money, group, draw.choice(("shop", "web"))))
            if number == 7 and day > 60:
                later = (when + timedelta(minutes=1)).isoformat()
                rows.append((who, later, f"-{float(money) / 4:.2f}", group, "shop"))
    return rows


GOOD = good_rows()


def write_log(home: Path, rows: Iterable[Row], extra: str = "", encoding: str = "utf-8") -> None:
    with (home / "log.csv").open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(rows)
        file.write(extra)


def log(home: Path, **changes: Any) -> Source:
    settings = {"path": "log.csv", "columns": COLUMNS} | changes
    return open_source(SourceSettings.model_validate(settings), home, today=TODAY)


def report_of(
    home: Path,
    rows: Iterable[Row],
    extra: str = "",
    *,
    plan: Plan | None = None,
    earlier: QualityReport | None = None,
    policy: QualityPolicy | None = None,
    **changes: Any,
) -> tuple[QualityReport, Review]:
    write_log(home, rows, extra)
    with log(home, **changes) as source:
        return assess(source, plan, party="shop", earlier=earlier, policy=policy)


def verdicts(report: QualityReport) -> dict[str, str]:
    return {result.rule: result.verdict for result in report.results}


def found(report: QualityReport, rule: str) -> QualityResult:
    result = report.result(rule)
    assert result is not None
    return result


def a_plan(cutoff: str = "2024-11-01") -> Plan:
    return parse_plan(
        f'format = 1\nname = "p"\npurpose = "x"\nprivacy = {{ epsilon = 1.0 }}\n'
        f'task = {{ kind = "churn", horizon_days = 30, cutoff = {cutoff} }}\n'.encode()
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> QualityReport:
    """What a first check says of the good log."""
    report, _ = report_of(tmp_path_factory.mktemp("good"), GOOD, plan=a_plan())
    return report


def test_a_good_log_passes_every_rule_that_can_judge_it(good: QualityReport) -> None:
    told = verdicts(good)
    assert {rule for rule, verdict in told.items() if verdict == "not looked at"} == {
        "within_file_dates",  # no file has since or before
        "history_kept",  # no earlier check
    }
    assert set(told.values()) == {"pass", "not looked at"}
    assert set(told) == {name for name, rule in RULES.items() if "events" in rule.sources}
    assert good.usable_share == 1
    assert good.rows_read == len(GOOD)
    assert found(good, "history_kept").note == "no earlier check"
    assert "no earlier check" in found(good, "category_mix").note


def test_every_reason_of_the_cleaning_is_counted_by_exactly_one_rule() -> None:
    counted = [reason for rule in RULES.values() for reason in rule.reasons]
    assert sorted(counted) == sorted({*REASONS, *TABLE_REASONS})
    assert all(rule.severity == "reject" for rule in RULES.values() if rule.reasons)


def test_every_rule_speaks_both_languages_and_says_what_to_do() -> None:
    for rule in RULES.values():
        assert rule.title
        assert rule.advice.endswith(".")
        assert any("\u4e00" <= letter <= "\u9fff" for letter in rule.title_zh)
        assert any("\u4e00" <= letter <= "\u9fff" for letter in rule.advice_zh)


# Each rule that sets rows aside, with lines that break it.
REJECTED = {
    "whole_rows": 'C00001,2024-06-01T10:00:00,1.50,food\nC00001,"2024-06-01,2,food,shop\n',
    "customer_present": ",2024-06-01T10:00:00,1.50,food,shop\n",
    "time_present": "C00001,,1.50,food,shop\n",
    "possible_dates": "C00001,2024-02-30,1.50,food,shop\nC00001,soon,1.50,food,shop\n",
    "no_future_dates": "C00001,2025-01-02,1.50,food,shop\n",
    "amount_present": "C00001,2024-06-01T10:00:00,,food,shop\n",
    "amount_valid": 'C00001,2024-06-01T10:00:00,"1.234,50",food,shop\n',
    "no_duplicates": "A1,2024-06-01T10:00:00,1.50,food,shop\n" * 3,
}


@pytest.mark.parametrize("rule", REJECTED)
def test_rows_that_break_a_reject_rule_are_set_aside_and_counted(
    rule: str, tmp_path: Path, good: QualityReport
) -> None:
    lines = REJECTED[rule]
    expected = 2 if rule == "no_duplicates" else lines.count("\n")
    report, _ = report_of(tmp_path, GOOD, lines)
    result = found(report, rule)
    assert (result.looked_at, result.failing) == (len(GOOD) + lines.count("\n"), expected)
    assert result.verdict == "set aside"
    assert sum(report.rejected.values()) == expected
    assert report.usable_share == 1 - expected / report.rows_read
    assert found(good, rule).verdict == "pass"


def test_undecodable_text_is_set_aside_and_counted(tmp_path: Path) -> None:
    write_log(tmp_path, GOOD)
    with (tmp_path / "log.csv").open("ab") as file:
        file.write(b"C\xff\xfe1,2024-06-01T10:00:00,1.50,food,shop\n")
    with log(tmp_path) as source:
        report, _ = assess(source)
    assert (found(report, "readable_text").failing, report.rejected["undecodable_text"]) == (1, 1)


def test_ids_that_cannot_be_normalised_are_set_aside_and_counted(tmp_path: Path) -> None:
    rows = [(f"anna{who[1:]}@example.com", *rest) for who, *rest in GOOD[:200]]
    changes = {"customer_ids": "email"}
    report, _ = report_of(tmp_path, rows, "no e-mail,2024-06-01,1,food,shop\n", **changes)
    assert (found(report, "customer_valid").failing, sum(report.rejected.values())) == (1, 1)


def test_rows_outside_a_files_days_are_set_aside_without_alarm(tmp_path: Path) -> None:
    report, _ = report_of(tmp_path, GOOD, path=[{"path": "log.csv", "since": "2024-12-01"}])
    result = found(report, "within_file_dates")
    assert result.failing > 10_000
    assert result.verdict == "set aside"


def test_a_decimal_comma_is_recognised_among_unusable_amounts(tmp_path: Path) -> None:
    lines = 'C00001,2024-06-01,"12,50",food,shop\n' * 2 + "C00001,2024-06-01,cheap,food,shop\n"
    report, _ = report_of(tmp_path, GOOD, lines)
    result = found(report, "amount_valid")
    assert (result.failing, result.note) == (3, "2 look like a decimal comma")


def test_where_equal_rows_are_kept_duplicates_are_not_looked_at(tmp_path: Path) -> None:
    report, _ = report_of(tmp_path, GOOD[:500], duplicates="keep")
    assert found(report, "no_duplicates").verdict == "not looked at"


def replaced(place: int, value: str, *, every: int = 1, since: str = "") -> Change:
    """Puts `value` in field `place` of every so many rows, from time `since` on."""

    def change(rows: list[Row]) -> Iterable[Row]:
        for number, row in enumerate(rows):
            if number % every == 0 and row[1] >= since:
                fields = list(row)
                fields[place] = value.format(number=number, old=row[place])
                yield (fields[0], fields[1], fields[2], fields[3], fields[4])
            else:
                yield row

    return change


def without(*beginnings: str) -> Change:
    """Leaves out the rows whose time begins so."""
    return lambda rows: (row for row in rows if not row[1].startswith(beginnings))


def also(*more: Row) -> Change:
    return lambda rows: [*rows, *more]


def scaled(factor: float, since: str, before: str) -> Change:
    return lambda rows: (
        (who, at, f"{float(money) * factor:.2f}" if since <= at < before else money, *rest)
        for who, at, money, *rest in rows
    )


def thinned(since: str, before: str, keep: int) -> Change:
    return lambda rows: (
        row for number, row in enumerate(rows) if not since <= row[1] < before or number % keep == 0
    )


def swapped(rows: list[Row]) -> Iterable[Row]:
    """Day and month read the wrong way round, where that is a date."""
    for who, at, *rest in rows:
        when = datetime.fromisoformat(at)
        if when.day <= 12:
            yield (who, when.replace(day=when.month, month=when.day).isoformat(), *rest)


REFUNDS = [(f"C{n:05d}", "2024-10-10T12:00:00", "-2500.00", "food", "shop") for n in range(10)]
STRANGERS = [(f"D{n:05d}", "2024-10-10T12:00:00", "-2.50", "food", "shop") for n in range(60)]
# Each rule that only warns, with a change of the good log that breaks it.
WARNED: dict[str, Change] = {
    "zero_amounts": replaced(2, "0.00", every=12),
    "whole_amounts": lambda rows: (
        (who, at, f"{float(money) * 100:.0f}", *rest) for who, at, money, *rest in rows
    ),
    "amount_outliers": replaced(2, "99000.5", every=40),
    "placeholder_dates": also(("C00001", "1970-01-01T00:00:00", "5.50", "food", "shop")),
    "clock_times": lambda rows: (
        (who, at[:10] if number % 20 == 0 else at, *rest)
        for number, (who, at, *rest) in enumerate(rows)
    ),
    "refund_share": replaced(2, "-1.25", every=8),
    "refund_without_purchase": also(*STRANGERS),
    "refund_above_bought": also(*REFUNDS),
    "customer_key_format": also(
        *((f"{n}-AB", "2024-10-10T12:00:00", "2.50", "food", "shop") for n in range(10, 30))
    ),
    "placeholder_customers": replaced(0, "Unknown", every=500),
    "busy_customers": lambda rows: (
        row if number % 2 else (f"C0000{number % 16 // 2}", *row[1:])
        for number, row in enumerate(rows)
    ),
    "house_accounts": replaced(0, "C00003", every=2),
    "swapped_dates": swapped,
    "day_gaps": without(*(f"2024-{month:02d}-1" for month in range(2, 6))),
    "volume_days": lambda rows: (
        copy for row in rows for copy in [row] * (5 if row[1][8:10] == "15" else 1)
    ),
    "volume_weeks": thinned("2024-05-06", "2024-06-17", 5),
    "amount_level": scaled(100, "2024-11-04", "2025-01-01"),
    "freshness": lambda rows: (row for row in rows if row[1] < "2024-11"),
    "covers_label_window": lambda rows: (row for row in rows if row[1] < "2024-11-20"),
    "covers_look_back": lambda rows: (row for row in rows if row[1] >= "2024-02"),
    "category_known": replaced(3, "{old} (new)", since="2024-12-10"),
    "category_mix": replaced(4, "web", since="2024-12-02"),
    "garbled_text": replaced(3, "cafÃ©", every=50),
    "public_range": replaced(2, "900000.5", every=20),
}


@pytest.mark.parametrize("rule", WARNED)
def test_a_warning_is_given_and_changes_no_training_row(
    rule: str, tmp_path: Path, good: QualityReport
) -> None:
    assert found(good, rule).verdict == "pass"
    plan = a_plan("2024-09-01" if rule == "freshness" else "2024-11-01")
    write_log(tmp_path, WARNED[rule](list(GOOD)))
    keep = {"duplicates": "keep"} if rule == "volume_days" else {}
    with log(tmp_path, **keep) as source:
        before = source.training_examples(plan, "shop")
        report, _ = assess(source, plan, party="shop")
        after = source.training_examples(plan, "shop")
    result = found(report, rule)
    assert result.severity == "warn"
    assert result.verdict == "look", result
    assert result.failing > 0
    assert after.customer_ids == before.customer_ids
    assert np.array_equal(after.features, before.features)
    assert after.labels is not None
    assert before.labels is not None
    assert np.array_equal(after.labels, before.labels)


def test_every_rule_for_an_event_log_is_broken_by_some_test() -> None:
    elsewhere = {"readable_text", "customer_valid", "within_file_dates", "history_kept"}
    tried = {*REJECTED, *WARNED, *elsewhere}
    assert tried == {name for name, rule in RULES.items() if "events" in rule.sources}


def test_outliers_are_written_for_review_and_stay_in_use(tmp_path: Path) -> None:
    rows = [*GOOD, ("C00007", "2024-06-01T09:00:00", "123456.78", "food", "shop")]
    report, review = report_of(tmp_path, rows)
    marked = [row for row in review.rows if row[0] == "amount_outliers"]
    assert marked[0] == ("amount_outliers", "C00007", "2024-06-01 09:00:00", "123456.78")
    assert len(marked) == found(report, "amount_outliers").failing
    assert report.usable_share == 1
    header, first, *_ = review.as_csv().decode().splitlines()
    assert header == "rule,customer,time,value"
    assert first.startswith("amount_outliers,C00007,")


def test_review_is_bounded_and_says_so(tmp_path: Path) -> None:
    rows = replaced(2, "99000.5", every=12)(GOOD)
    report, review = report_of(tmp_path, rows)
    result = found(report, "amount_outliers")
    assert result.failing > 1_000
    assert sum(row[0] == "amount_outliers" for row in review.rows) == 1_000
    assert "1,000 most marked" in result.note


def test_a_small_log_is_judged_by_rows_and_not_by_statistics(tmp_path: Path) -> None:
    report, review = report_of(tmp_path, GOOD[:5])
    told = verdicts(report)
    for rule in ("amount_outliers", "busy_customers", "volume_weeks", "day_gaps", "category_mix"):
        assert told[rule] == "not looked at"
    assert told["customer_present"] == "pass"
    assert review.rows == []


def test_a_log_of_dates_only_is_not_blamed_for_it(tmp_path: Path) -> None:
    report, _ = report_of(tmp_path, ((who, at[:10], *rest) for who, at, *rest in GOOD))
    assert found(report, "clock_times").verdict == "not looked at"
    assert "dates only" in found(report, "clock_times").note


def test_weekly_closing_days_are_no_gaps(tmp_path: Path) -> None:
    opened = [row for row in GOOD if datetime.fromisoformat(row[1]).weekday() != 6]
    report, _ = report_of(tmp_path, opened)
    assert found(report, "day_gaps").failing == 0


def test_past_weeks_that_lost_rows_are_found_by_the_next_check(
    tmp_path: Path, good: QualityReport
) -> None:
    cut = [row for number, row in enumerate(GOOD) if row[1] >= "2024-03-01" or number % 10]
    report, _ = report_of(tmp_path, cut, earlier=good)
    result = found(report, "history_kept")
    assert result.verdict == "look"
    # From the second week of the log (the first may be cut) to the last that begins before March.
    assert result.failing == 17
    assert report.earlier == good.now


def test_an_export_of_a_moving_window_has_kept_its_history(
    tmp_path: Path, good: QualityReport
) -> None:
    report, _ = report_of(tmp_path, (row for row in GOOD if row[1] >= "2024-02-01"), earlier=good)
    result = found(report, "history_kept")
    assert result.verdict == "pass"
    assert result.note == "the log begins 13 weeks later than then"


def test_new_rows_and_late_bookings_leave_history_kept(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("november")
    november, _ = report_of(home, (row for row in GOOD if row[1] < "2024-12-01"))
    late = ("C00001", "2024-11-29T23:00:00", "4.50", "food", "shop")
    report, _ = report_of(tmp_path, [*GOOD, late], earlier=november)
    assert verdicts(report)["history_kept"] == "pass"
    assert verdicts(report)["category_known"] == "pass"
    assert verdicts(report)["category_mix"] == "pass"


def test_a_renamed_category_is_found_against_the_earlier_check(
    tmp_path: Path, good: QualityReport
) -> None:
    renamed = [(w, a, m, "nourriture" if g == "food" else g, c) for w, a, m, g, c in GOOD]
    result = found(report_of(tmp_path, renamed, earlier=good)[0], "category_known")
    assert result.failing == 2
    assert "new: nourriture" in result.note
    assert "gone: food" in result.note
    assert "消失:food" in result.note_zh


def test_a_second_check_of_one_export_compares_with_what_the_first_did(
    tmp_path: Path, good: QualityReport
) -> None:
    renamed = [(w, a, m, "nourriture" if g == "food" else g, c) for w, a, m, g, c in GOOD]
    first, _ = report_of(tmp_path, renamed, earlier=good)
    second, _ = report_of(tmp_path, renamed, earlier=first)
    assert second.earlier == good.now
    assert verdicts(second) == verdicts(first)
    again, _ = report_of(tmp_path, GOOD, earlier=good)
    assert again.earlier is None


def test_an_earlier_check_of_other_columns_is_not_compared_with(
    tmp_path: Path, good: QualityReport
) -> None:
    other = {name: own for name, own in COLUMNS.items() if name != "category"}
    report, _ = report_of(tmp_path, GOOD[100:], earlier=good, columns=other)
    assert report.earlier is None


def test_a_category_of_few_customers_is_never_named(tmp_path: Path) -> None:
    rows = [
        (who, at, money, "Anna Example" if at >= "2024-12-20" and who < "C00010" else group, shop)
        for who, at, money, group, shop in GOOD
    ]
    report, _ = report_of(tmp_path, rows)
    assert "Anna" not in str(report.as_json())


def test_stability_index_is_zero_without_change_and_grows_with_it() -> None:
    assert stability_index({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5}) == 0
    # Siddiqi, Credit Risk Scorecards (2006): (a - e) * ln(a / e), summed.
    moved = stability_index({"a": 0.5, "b": 0.5}, {"a": 0.6, "b": 0.4})
    assert moved == pytest.approx(0.1 * np.log(1.2) - 0.1 * np.log(0.8))
    assert stability_index({"a": 1.0}, {"b": 1.0}) > 0.25


def test_parquet_is_judged_as_csv_is(tmp_path: Path) -> None:
    columns = list(zip(*GOOD, strict=True))
    table = pa.table(
        {
            "who": columns[0],
            "at": [datetime.fromisoformat(at) for at in columns[1]],
            "sum": [float(money) for money in columns[2]],
            "group": columns[3],
            "shop": columns[4],
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    csv_report, _ = report_of(tmp_path, GOOD)
    with log(tmp_path, path="log.parquet") as source:
        report, _ = assess(source)
    assert replace(csv_report, checked_at=report.checked_at, now=report.now) == report


def test_a_database_is_judged_as_a_file_is(tmp_path: Path, postgresql_url: str) -> None:
    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE log (who text, at timestamp, sum numeric, grp text, shop text)")
        )
        rows = [dict(zip("vwxyz", row, strict=True)) for row in GOOD[:3000]]
        connection.execute(text("INSERT INTO log VALUES (:v, :w, :x, :y, :z)"), rows)
        connection.execute(text("INSERT INTO log VALUES (NULL, '2024-01-01', 1, 'food', 'web')"))
    engine.dispose()
    columns = COLUMNS | {"category": "grp"}
    settings = SourceSettings(url=postgresql_url, table="log", columns=columns)
    with open_source(settings, tmp_path, today=TODAY) as source:
        report, _ = assess(source)
    assert report.rejected == {"missing_customer": 1}
    from_file, _ = report_of(tmp_path, GOOD[:3000], ",2024-01-01,1,food,web\n")
    assert verdicts(report) == verdicts(from_file)


def test_a_partys_own_tolerance_goes_before_the_shipped_one(tmp_path: Path) -> None:
    policy = QualityPolicy(tolerated={"zero_amounts": 0.5})
    rows = list(WARNED["zero_amounts"](GOOD))
    report, _ = report_of(tmp_path, rows, policy=policy)
    assert found(report, "zero_amounts").verdict == "pass"


# --- feature tables ----------------------------------------------------------------------------

TableRow = tuple[str, str, str, str, str]
TABLE_HEADER = ("who", "age", "balance", "city", "left")


def good_table() -> list[TableRow]:
    draw = random.Random(7)
    return [
        (
            f"C{number:05d}",
            str(draw.randrange(18, 80)),
            f"{draw.uniform(-50, 900):.2f}",
            draw.choice(("Lyon", "Turin", "Graz")),
            str(number % 3 // 2),
        )
        for number in range(400)
    ]


TABLE = good_table()
CONTRACT = b"""
format = 1
name = "t"
purpose = "x"
task = { kind = "label", label = "left" }
privacy = { epsilon = 1.0 }
features.columns = [
  { name = "age", low = 18, high = 90 },
  { name = "balance", low = -100, high = 1000 },
  { name = "city", kind = "category", categories = ["Lyon", "Turin", "Graz"] },
]
"""


def table_report(
    home: Path,
    rows: Iterable[tuple[str, ...]],
    *,
    plan: bool = False,
    earlier: QualityReport | None = None,
    header: tuple[str, ...] = TABLE_HEADER,
    extra: str = "",
) -> tuple[QualityReport, Review]:
    with (home / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
        file.write(extra)
    settings = SourceSettings.model_validate(
        {"kind": "table", "path": "table.csv", "columns": {"customer": "who"}}
    )
    with open_source(settings, home, today=TODAY) as source:
        return assess(source, parse_plan(CONTRACT) if plan else None, earlier=earlier)


@pytest.fixture(scope="module")
def good_table_report(tmp_path_factory: pytest.TempPathFactory) -> QualityReport:
    report, review = table_report(tmp_path_factory.mktemp("table"), TABLE, plan=True)
    assert review.rows == []
    return report


def test_a_good_table_passes_every_rule_that_can_judge_it(
    good_table_report: QualityReport,
) -> None:
    told = verdicts(good_table_report)
    assert set(told) == {name for name, rule in RULES.items() if "table" in rule.sources}
    assert {rule for rule, verdict in told.items() if verdict != "pass"} == {
        "table_size",
        "category_known",
        "category_mix",
    }
    assert found(good_table_report, "table_size").note == "no earlier check"


def field(place: int, value: str, every: int = 10) -> Callable[[], list[TableRow]]:
    def change() -> list[TableRow]:
        rows = []
        for number, row in enumerate(TABLE):
            fields = list(row)
            if number % every == 0:
                fields[place] = value.format(number=number)
            rows.append((fields[0], fields[1], fields[2], fields[3], fields[4]))
        return rows

    return change


LETTERS = string.ascii_lowercase
TABLE_BROKEN: dict[str, Callable[[], list[TableRow]]] = {
    "customer_present": field(0, ""),
    "numbers_valid": field(2, "N/A"),
    "labels_valid": field(4, "maybe"),
    "customer_key_format": field(0, "7-{number}", 40),
    "placeholder_customers": field(0, "n/a", 400),
    "missing_values": field(3, "", 2),
    "number_format": field(2, "1.234,50", 40),
    "placeholder_values": field(1, "-999", 40),
    "value_outliers": field(2, "99999.5", 20),
    "constant_columns": field(3, "Lyon", 1),
    "identifier_columns": field(3, "{number} Long Street", 1),
    "garbled_text": field(3, "GenÃ¨ve"),
    "public_range": field(2, "5000.5", 20),
}
NOT_ENOUGH = {"missing_values"}  # of all values, one column's are within what is tolerated


@pytest.mark.parametrize("rule", TABLE_BROKEN)
def test_a_rule_of_tables_fails_on_what_breaks_it(
    rule: str, tmp_path: Path, good_table_report: QualityReport
) -> None:
    plan = RULES[rule].needs_plan or rule == "public_range"
    report, review = table_report(tmp_path, TABLE_BROKEN[rule](), plan=plan)
    result = found(report, rule)
    assert result.failing > 0
    assert result.verdict == "look", result
    assert found(good_table_report, rule).failing == 0
    if rule == "value_outliers":
        assert ("value_outliers", "C00000", "", "balance = 99999.5") in review.rows


def test_numbers_that_are_none_are_told_from_missing_ones(tmp_path: Path) -> None:
    rows = [[*row] for row in TABLE]
    rows[0][1], rows[1][1], rows[2][2], rows[3][2] = "inf", "1e300", "nan", ""
    report, _ = table_report(tmp_path, [tuple(row) for row in rows])
    assert found(report, "number_format").failing == 3
    assert found(report, "missing_values").failing == 1
    columns = list(zip(*TABLE, strict=True))
    ages = [float("nan"), *(float(age) for age in columns[1][1:])]
    pq.write_table(pa.table({"who": columns[0], "age": ages}), tmp_path / "table.parquet")
    settings = SourceSettings(kind="table", path="table.parquet", columns={"customer": "who"})
    with open_source(settings, tmp_path, today=TODAY) as source:
        report, _ = assess(source)
    assert found(report, "number_format").failing == 0
    assert found(report, "missing_values").failing == 1  # what pandas writes for missing
    assert found(report, "garbled_text").note == "no column of text"


def test_lines_of_a_table_that_are_no_whole_row_are_set_aside(tmp_path: Path) -> None:
    report, _ = table_report(tmp_path, TABLE, extra="C00500,41\n")
    assert (found(report, "whole_rows").failing, report.rejected) == (1, {"malformed_row": 1})
    assert report.rows_read == 401


def test_two_rows_of_one_customer_are_refused_as_a_whole(
    tmp_path: Path, good_table_report: QualityReport
) -> None:
    with pytest.raises(DataError, match="exactly one row per customer"):
        table_report(tmp_path, [*TABLE, TABLE[0]])
    assert found(good_table_report, "one_row_per_customer").verdict == "pass"


def test_ids_of_a_table_that_cannot_be_normalised_are_counted(tmp_path: Path) -> None:
    rows = [(f"x{number}@example.com", *row[1:]) for number, row in enumerate(TABLE)]
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([TABLE_HEADER, *rows, ("nobody", "1", "1", "Graz", "0")])
    settings = SourceSettings.model_validate(
        {
            "kind": "table",
            "path": "table.csv",
            "columns": {"customer": "who"},
            "customer_ids": "email",
        }
    )
    with open_source(settings, tmp_path, today=TODAY) as source:
        report, _ = assess(source)
    assert found(report, "customer_valid").failing == 1


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ("table_size", TABLE[:250]),
        ("category_known", field(3, "Nice", 2)()),
        ("category_mix", [(*row[:3], "Lyon", row[4]) for row in TABLE]),
        ("category_mix", [(*row[:2], f"{float(row[2]) * 100}", *row[3:]) for row in TABLE]),
    ],
)
def test_a_table_is_compared_with_its_earlier_check(
    rule: str, rows: list[TableRow], tmp_path: Path, good_table_report: QualityReport
) -> None:
    report, _ = table_report(tmp_path, rows, plan=True, earlier=good_table_report)
    assert found(report, rule).verdict == "look"
    assert report.earlier == good_table_report.now


def test_every_rule_for_a_table_is_broken_by_some_test() -> None:
    compared = {"table_size", "category_known", "category_mix"}
    elsewhere = {"whole_rows", "one_row_per_customer", "customer_valid"}
    tried = {*TABLE_BROKEN, *compared, *elsewhere}
    assert tried == {name for name, rule in RULES.items() if "table" in rule.sources}


# --- what a party's policy demands -------------------------------------------------------------


class _Untouched:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError("nothing is demanded, so nothing may be read")


def test_where_nothing_is_demanded_nothing_is_read() -> None:
    require_quality(_Untouched(), QualityPolicy())  # type: ignore[arg-type]


def test_a_policy_is_met_by_a_good_log_and_names_the_rule_that_fails(tmp_path: Path) -> None:
    every = tuple(name for name in DEMANDABLE if "events" in RULES[name].sources)
    demanded = tuple(name for name in every if name != "within_file_dates")
    write_log(tmp_path, GOOD)
    with log(tmp_path) as source:
        require_quality(source, QualityPolicy(minimum_usable_share=1.0, require=demanded))
    write_log(tmp_path, WARNED["refund_share"](GOOD))
    with log(tmp_path) as source:
        require_quality(source, QualityPolicy(require=("day_gaps",)))
        with pytest.raises(DataError, match="rule refund_share is required"):
            require_quality(source, QualityPolicy(require=("day_gaps", "refund_share")))
        lenient = QualityPolicy(require=("refund_share",), tolerated={"refund_share": 0.5})
        require_quality(source, lenient)


def test_too_small_a_usable_share_is_refused_without_a_count(tmp_path: Path) -> None:
    write_log(tmp_path, GOOD[:90], ",2024-06-01,1,food,shop\n" * 10)
    with log(tmp_path, duplicates="keep") as source:
        require_quality(source, QualityPolicy(minimum_usable_share=0.9))
        with pytest.raises(DataError, match=r"minimum_usable_share = 0\.95") as refused:
            require_quality(source, QualityPolicy(minimum_usable_share=0.95))
    assert "90" not in str(refused.value)


def test_a_demand_that_cannot_be_judged_is_not_met(tmp_path: Path) -> None:
    write_log(tmp_path, GOOD[:5])
    with log(tmp_path) as source:
        with pytest.raises(DataError, match="could not be looked at"):
            require_quality(source, QualityPolicy(require=("volume_weeks",)))
        with pytest.raises(DataError, match="not for a source of this kind"):
            require_quality(source, QualityPolicy(require=("constant_columns",)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"require": ["beauty"]},
        {"require": ["covers_label_window"]},  # a plan's own dates
        {"require": ["history_kept"]},  # hangs on when somebody ran a check
        {"tolerated": {"beauty": 0.5}},
        {"tolerated": {"day_gaps": 1.5}},
        {"minimum_usable_share": 2},
        {"maximum": 1},
    ],
)
def test_an_unknown_demand_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QualityPolicy.model_validate(wrong)


def test_a_report_survives_json_and_refuses_what_is_none(good: QualityReport) -> None:
    plain = good.as_json()
    assert QualityReport.from_json(plain) == good
    assert plain["results"][0]["verdict"] == "pass"
    for broken in ({}, [], plain | {"format": 2}, plain | {"rows_read": "many"}):
        with pytest.raises(ConfigError, match="fedtags-party check"):
            QualityReport.from_json(broken)


def test_the_how_to_lists_every_rule_with_what_it_demands() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "check-your-data.md").read_text()
    for rule in RULES.values():
        assert f"| `{rule.name}` | {rule.title} |" in page
