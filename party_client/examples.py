"""Training and scoring rows, taken from DuckDB a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.features import FeatureColumn, outside_ranges, scale
from party_client.readers import Connection, data_errors
from privacy.errors import DataError

BATCH = 100_000  # rows
LABEL = "fedtags_label"


@dataclass(frozen=True)
class Examples:
    """Rows for training or scoring, one per eligible and consented customer. Never leaves a party.

    customer_ids: sorted, length n. features: float32 (n, input width), each in [0, 1]. labels:
    float32 (n,) of 0 and 1, or None for scoring. rejected: rows of the source set aside, by
    reason. customers, consented: distinct customers in the source, and those of them who
    consented to the plan's purpose and have not opted out. clamped: values outside their column's
    public range, by column, where there are any.
    """

    customer_ids: list[str]
    features: NDArray[np.float32]
    labels: NDArray[np.float32] | None
    rejected: Mapping[str, int]
    customers: int
    consented: int
    clamped: Mapping[str, int]


@dataclass(frozen=True)
class Rows:
    """What a query gave, scaled; lengths and shapes as in `Examples`."""

    customer_ids: list[str]
    features: NDArray[np.float32]
    labels: NDArray[np.float32] | None
    clamped: Mapping[str, int]


def collect_rows(
    connection: Connection,
    queries: Sequence[str],
    columns: Sequence[FeatureColumn],
    *,
    labelled: bool,
) -> Rows:
    """The rows of all `queries` (customer, each of `columns`, and `LABEL` if `labelled`) by
    customer; each query gives its own in that order.

    Only scaled rows are held: raw ones take six times their room. Raises DataError when there is
    none.
    """
    customers: list[str] = []
    features: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.float32]] = []
    clamped: dict[str, int] = {}
    with data_errors("the source"), connection.cursor() as own:
        for batch in (part for sql in queries for part in own.sql(sql).to_arrow_reader(BATCH)):
            customers += batch.column("customer").to_pylist()
            raw = {column.name: plain_column(batch.column(column.name)) for column in columns}
            features.append(scale(columns, raw))
            for name, number in outside_ranges(columns, raw).items():
                clamped[name] = clamped.get(name, 0) + number
            if labelled:
                labels.append(plain_column(batch.column(LABEL)).astype(np.float32))
    if not customers:
        raise DataError(
            "no customer is eligible: nobody who consented has a usable row for this plan "
            "(see home/rejected and source.consent; check the plan's dates and its purpose)"
        )
    in_order = {name: clamped[name] for column in columns if (name := column.name) in clamped}
    found = np.concatenate(features)
    features.clear()
    told = np.concatenate(labels) if labelled else None
    if len(queries) > 1:
        # DuckDB sorts text by its UTF-8 bytes, which is Python's order of code points.
        order = sorted(range(len(customers)), key=customers.__getitem__)
        customers = [customers[place] for place in order]
        found = found[order]
        told = None if told is None else told[order]
    return Rows(customers, found, told, in_order)


def count_rows(
    connection: Connection, queries: Sequence[str], columns: Sequence[FeatureColumn]
) -> tuple[int, Mapping[str, int]]:
    """Number of rows of all `queries` and, by column, of values outside their range; no row is
    held."""
    numbers = [column for column in columns if column.kind == "number"]
    tests = ", ".join(
        f"count(*) FILTER (NOT isnan({column.name}) AND "
        f"({column.name} < {column.low!r} OR {column.name} > {column.high!r}))"
        for column in numbers
    )
    with data_errors("the source"):
        counts = [
            connection.execute(f"SELECT count(*), {tests} FROM ({sql})").fetchone()
            for sql in queries
        ]
    rows, *outside = (sum(part) for part in zip(*counts, strict=True))
    counted = zip(numbers, outside, strict=True)
    return rows, {column.name: number for column, number in counted if number}


def plain_column(values: Any) -> NDArray[Any]:
    """An Arrow column for numpy: NaN for a missing number, None for a missing text."""
    column: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return column
