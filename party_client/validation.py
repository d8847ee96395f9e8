"""Declared demands on rows, counted in SQL inside DuckDB: the one doorway to pandera and ibis.

`DataFrameSchema.validate` is used for columns and types only. For values it would bring every
failing row, and a mask as long as the table, into pandas; so each check is asked for its ibis
expression, and all of them are counted by one scan, out of core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.datatypes as dt
import pandera.errors
import pandera.ibis as pandera
from ibis.common.exceptions import IbisError
from pandera.config import ValidationDepth, config_context

from party_client.readers import Connection, data_errors
from privacy.errors import DataError

Rows = Any  # ibis.Table: its columns are attributes
Expression = Any  # an ibis expression over a table's rows
TYPES: Mapping[str, Any] = {
    "text": dt.string,
    "time": dt.Timestamp(scale=6),
    "integer": dt.int64,
    "number": dt.float64,
}


@dataclass(frozen=True)
class Demand:
    """What every row must fulfil under the name `rule`; a row where `holds` is unknown passes.

    applies: to which rows; None means all.
    """

    rule: str
    holds: Callable[[Rows], Expression]
    applies: Callable[[Rows], Expression] | None = None

    @property
    def check(self) -> Any:
        """The demand as pandera declares it: one truth value a row."""

        def passes(data: Any) -> Expression:
            holds = self.holds(data.table).fill_null(True)
            if self.applies is None:
                return holds
            return ~self.applies(data.table).fill_null(False) | holds

        return pandera.Check(passes, name=self.rule)


@dataclass(frozen=True)
class Counted:
    """Rows that a demand applies to, and those of them that fail it. Exact."""

    looked_at: int
    failing: int


def declared_rows(
    connection: Connection, name: str, columns: Mapping[str, str], *, temporary: bool = True
) -> Rows:
    """Table or view `name` of `connection`, whose columns must be there with their `TYPES`.

    ibis sets the time zone of the connection that it is given, so that must be a cursor of its
    own. Raises DataError naming the first column that is not as declared.
    """
    backend = ibis.duckdb.from_connection(connection)
    schema = pandera.DataFrameSchema(
        {column: pandera.Column(TYPES[kind], nullable=True) for column, kind in columns.items()}
    )
    with _as_data_error():
        rows = backend.table(name, database=("temp", "main") if temporary else None)
        try:
            with config_context(validation_depth=ValidationDepth.SCHEMA_ONLY):
                schema.validate(rows)
        except pandera.errors.SchemaErrors as error:
            first = error.schema_errors[0]
            raise DataError(f"the rows to look at are not as declared: {first}") from None
    return rows


def count_failing(rows: Rows, demands: Sequence[Demand]) -> dict[str, Counted]:
    """How many rows each demand applies to and how many fail it, by one scan."""
    if not demands:
        return {}
    figures = {}
    for number, demand in enumerate(demands):
        passes = demand.check(rows).check_output
        figures[f"looked_{number}"] = (
            rows.count()
            if demand.applies is None
            else demand.applies(rows).fill_null(False).cast("int64").sum()
        )
        figures[f"failed_{number}"] = (~passes).cast("int64").sum()
    with _as_data_error():
        (found,) = rows.aggregate(**figures).to_pyarrow().to_pylist()
    return {
        demand.rule: Counted(found[f"looked_{number}"] or 0, found[f"failed_{number}"] or 0)
        for number, demand in enumerate(demands)
    }


def failing_rows(
    rows: Rows, demand: Demand, order: Callable[[Rows], Expression], limit: int
) -> list[dict[str, Any]]:
    """At most `limit` rows that fail, those with the largest `order` first."""
    failing = demand.check(rows).failure_cases
    with _as_data_error():
        chosen = failing.order_by(ibis.desc(order(failing))).limit(limit)
        return list(chosen.to_pyarrow().to_pylist())


@contextmanager
def _as_data_error() -> Iterator[None]:
    """DuckDB's and ibis's errors as DataError, without their text: it may quote rows."""
    with data_errors("the source"):
        try:
            yield
        except IbisError as error:
            raise DataError(
                f"the source cannot be looked at ({type(error).__name__}): run fedtags-party check "
                "and compare source.columns with the columns of the files"
            ) from None
