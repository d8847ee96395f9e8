"""Quality rules about a feature table: its customers, and each of its columns. All only warn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from party_client.cleaning import clean_number, clean_text
from party_client.quality import Snapshot
from party_client.quality_drift import (
    Values,
    mix_finding,
    named_change,
    stability_index,
    values_of,
)
from party_client.quality_looking import FEW, REVIEWED, Finding, Looking, shares
from party_client.quality_rows import CUSTOMERS, key_findings, reviewed
from party_client.quality_text import garbled_findings
from party_client.readers import MALFORMED, identifier
from party_client.tables import CUSTOMER
from party_client.validation import Demand, count_failing, declared_rows, failing_rows

STAND_INS = (-1, -9, -99, -999, -9999, -99999, 999, 9999, 99999, 999999, 9999999, 99999999)
_NUMERIC = 0.95  # share of texts that are numbers from which a column is one of numbers
_UNIQUE = 0.95
_UNIQUE_FROM = 100  # rows
_FEW_VALUES = 10  # with so few values, three sigma are no measure
_COMPARED = 100  # columns
_MOST = 1_000
_LARGEST = 1e100  # beyond, a sum of squares has no value


@dataclass(frozen=True)
class Column:
    """One own column. text, number: SQL; the counts are of rows; low and high of its numbers."""

    name: str
    text: str
    number: str
    filled: int
    numbers: int
    distinct: int
    constant: bool
    low: float | None
    high: float | None
    mean: float | None
    spread: float | None
    whole: bool

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.filled > 0 and self.numbers >= _NUMERIC * self.filled


def table_columns(look: Looking) -> list[Column]:
    """The columns that the plan reads, or all, with what one scan says of each."""
    customer = look.settings.columns["customer"]
    names = [name for name in look.view.types if name != customer]
    if look.plan is not None:
        read = [column.name for column in look.plan.features.columns]
        read += [look.plan.task.label] if look.plan.task.label else []
        wanted = {look.settings.columns.get(name, name) for name in read}
        names = [name for name in names if name in wanted]
    expressions, sql = [], []
    for name in names:
        kind = look.view.types[name]
        text = clean_text(identifier(name), kind)
        if kind in ("DOUBLE", "FLOAT"):  # what pandas writes for a missing number
            text = f"CASE WHEN NOT isnan({identifier(name)}) THEN {text} END"
        number = clean_number(identifier(name), kind, look.settings.decimal)
        if kind in ("BOOLEAN", "DATE") or kind.startswith("TIMESTAMP"):
            number = "CAST(NULL AS DOUBLE)"
        number = f"CASE WHEN abs({number}) < {_LARGEST} THEN {number} END"
        expressions.append((name, text, number))
        sql += [
            f"count({text})",
            f"count({number})",
            f"approx_count_distinct({text})",
            f"min({text}) IS NOT DISTINCT FROM max({text})",
            f"min({number})",
            f"max({number})",
            f"avg({number})",
            f"stddev_samp({number})",
            f"coalesce(bool_and({number} = floor({number})), false)",
        ]
    if not sql:
        return []
    figures = look.one(f"SELECT {', '.join(sql)} FROM {_usable(look)}")
    width = len(sql) // len(expressions)
    return [
        Column(*one, *figures[place * width : (place + 1) * width])
        for place, one in enumerate(expressions)
    ]


def _usable(look: Looking) -> str:
    return f"(SELECT * FROM {look.view.feature_table} WHERE NOT {MALFORMED})"


def table_findings(look: Looking, columns: Sequence[Column], rows: int) -> Iterator[Finding]:
    """Rules about the table as it is now; `rows`: how many it has."""
    look.db.execute(
        f"CREATE OR REPLACE TEMP TABLE {CUSTOMERS} AS SELECT {CUSTOMER} AS customer, "
        f"1::BIGINT AS n FROM {_usable(look)} WHERE {CUSTOMER} IS NOT NULL"
    )
    yield from key_findings(look)
    yield from _filled(columns, rows)
    texts = {
        column.name: f"SELECT DISTINCT {column.text} AS value FROM {_usable(look)}"
        for column in columns
        if not column.numeric
    }
    yield from garbled_findings(look, texts)
    yield _named("constant_columns", columns, [one for one in columns if one.constant])
    yield _identifiers(look, columns)
    yield from _numbers(look, [column for column in columns if column.numeric])


def _filled(columns: Sequence[Column], rows: int) -> Iterator[Finding]:
    def worst(counts: Mapping[str, int]) -> str:
        first = sorted(counts.items(), key=lambda item: -item[1])[:4]
        return ", ".join(f"{name} {count:,}" for name, count in first if count)

    missing = {column.name: rows - column.filled for column in columns}
    note = worst(missing)
    yield Finding("missing_values", rows * len(columns), sum(missing.values()), note, note)
    numeric = [column for column in columns if column.numeric]
    broken = {column.name: column.filled - column.numbers for column in numeric}
    note = worst(broken)
    looked = sum(column.filled for column in numeric)
    yield Finding("number_format", looked, sum(broken.values()), note, note)


def _named(rule: str, columns: Sequence[Column], failing: Sequence[Column]) -> Finding:
    names = ", ".join(column.name for column in failing[:6])
    note = f"{names}, …" if len(failing) > 6 else names
    return Finding(rule, len(columns), len(failing), note, note)


def _identifiers(look: Looking, columns: Sequence[Column]) -> Finding:
    suspected = [
        column
        for column in columns
        # The count is approximate, so the exact one is asked for with room to spare.
        if column.filled >= _UNIQUE_FROM
        and column.distinct >= 0.8 * column.filled
        and (not column.numeric or column.whole)
    ]
    failing = []
    for column in suspected:
        (exact,) = look.one(f"SELECT count(DISTINCT {column.text}) FROM {_usable(look)}")
        share = exact / column.filled
        if share == 1 or (share >= _UNIQUE and not column.numeric):
            failing.append(column)
    return _named("identifier_columns", columns, failing)


def _numbers(look: Looking, columns: Sequence[Column]) -> Iterator[Finding]:
    named = {f"c{place}": column for place, column in enumerate(columns)}
    values = "".join(f", {column.number} AS {name}" for name, column in named.items())
    look.db.execute(
        "CREATE OR REPLACE TEMP VIEW quality_columns AS "
        f"SELECT {CUSTOMER} AS customer{values} FROM {_usable(look)}"
    )
    rows = declared_rows(
        look.db, "quality_columns", {"customer": "text"} | dict.fromkeys(named, "number")
    )
    stand_ins, outliers = [], []
    for name, column in named.items():
        extremes = [value for value in STAND_INS if value in (column.low, column.high)]
        if extremes and column.low != column.high:
            stand_ins.append(_within(name, lambda t, values=extremes: ~t.isin(values)))
        if column.distinct > _FEW_VALUES and column.numbers >= FEW and column.spread:
            outliers.append(
                _within(
                    name,
                    lambda t, c=column: (t - c.mean).abs() <= 3 * c.spread,
                )
            )
    counted = count_failing(rows, stand_ins)
    where = ", ".join(named[name].name for name, count in counted.items() if count.failing)
    filled = sum(column.numbers for column in columns)
    failing = sum(count.failing for count in counted.values())
    yield Finding("placeholder_values", filled, failing, where, where)
    counted = count_failing(rows, outliers)
    failing = sum(count.failing for count in counted.values())
    looked = sum(named[demand.rule].numbers for demand in outliers)
    yield Finding("value_outliers", looked, failing, *reviewed(failing))
    share = max(1, REVIEWED // max(1, len(outliers)))
    for demand in outliers:
        if look.asked("value_outliers") and counted[demand.rule].failing:
            column = named[demand.rule]
            farthest = _distance(demand.rule, column)
            for row in failing_rows(rows, demand, farthest, share):
                value = f"{column.name} = {row[demand.rule]:g}"
                look.review.add("value_outliers", row["customer"], None, value)


def _within(name: str, holds: Any) -> Demand:
    return Demand(name, lambda t: holds(t[name]), lambda t: t[name].notnull())


def _distance(name: str, column: Column) -> Any:
    return lambda t: (t[name] - column.mean).abs()


def table_values(look: Looking, columns: Sequence[Column]) -> dict[str, Values]:
    """The values of text columns, and half-octaves of columns of numbers, with their rows."""
    found = {}
    for column in columns[:_COMPARED]:
        value = column.text
        if column.numeric:
            value = (
                f"CASE WHEN {column.number} = 0 THEN '0' ELSE concat(sign({column.number}), ' ', "
                f"floor(2 * log2(abs({column.number})))) END"
            )
        rows = look.all(
            f"SELECT {value} AS value, count(*) AS n, n, n, 0 FROM {_usable(look)} "
            f"GROUP BY value HAVING value IS NOT NULL ORDER BY n DESC, value LIMIT {_MOST + 1}"
        )
        found[column.name] = values_of(rows)
    return found


def table_snapshot(look: Looking, rows: int, values: Mapping[str, Values]) -> Snapshot:
    """Of a feature table."""
    return Snapshot(
        taken_at=datetime.now(UTC),
        columns=dict(look.settings.columns),
        rows=rows,
        last_day=None,
        weeks={},
        shares={name: one.recent_shares for name, one in values.items()},
        known={name: one.known for name, one in values.items()},
    )


def table_drift(
    look: Looking, columns: Sequence[Column], now: Snapshot, values: Mapping[str, Values]
) -> Iterator[Finding]:
    """Against an earlier check: size, values that are new or gone, their shares."""
    rules = ("table_size", "category_known", "category_mix")
    if look.earlier is None:
        for rule in rules:
            yield Finding(rule, None, note="no earlier check", note_zh="没有更早的检查")
        return
    changed = abs(now.rows - look.earlier.rows)
    note = f"{look.earlier.rows:,} → {now.rows:,}" if changed else ""
    yield Finding("table_size", look.earlier.rows, changed, note, note)
    texts = {
        column.name: values[column.name]
        for column in columns
        if column.name in values and not column.numeric
    }
    yield named_change(look, texts)
    indices = {
        name: stability_index(look.earlier.shares[name], shares(one.recent))
        for name, one in values.items()
        if look.earlier.shares.get(name) and not one.too_many
    }
    day = look.earlier.taken_at.date().isoformat()
    yield mix_finding(indices, f"against the check of {day}", f"与 {day} 的检查相比")
