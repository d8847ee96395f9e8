"""What the groups of quality rules share: the rows they look at, and what they say they found."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from models.plan import Plan
from party_client.quality import Snapshot
from party_client.readers import Connection
from party_client.source_settings import SourceSettings
from party_client.sources import SourceReport, SourceView

REVIEWED = 1_000  # rows for review, for each rule
FEW = 30  # with fewer, a mean, a share or a spread says nothing
_REVIEW_COLUMNS = ("rule", "customer", "time", "value")


@dataclass(frozen=True)
class Finding:
    """What one rule counted. `looked_at` None: it could not be looked at, and the note says why."""

    rule: str
    looked_at: int | None
    failing: int = 0
    note: str = ""
    note_zh: str = ""


@dataclass(frozen=True)
class Review:
    """Rows that a person should look at, at most `REVIEWED` for each rule. They hold ids."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, rule: str, customer: object, time: object, value: object) -> None:
        """One row; what is None stays empty."""
        who, when, what = ("" if item is None else str(item) for item in (customer, time, value))
        self.rows.append((rule, who, when, what))

    def as_csv(self) -> bytes:
        """With a header, UTF-8."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_REVIEW_COLUMNS)
        writer.writerows(self.rows)
        return text.getvalue().encode()


@dataclass(frozen=True)
class Looking:
    """One look at a loaded source. `db` is a cursor of its own, with the view's relations in
    reach; `wanted` are the names of the rules that are asked for."""

    db: Connection
    view: SourceView
    wanted: frozenset[str]
    review: Review
    first_day: date | None
    last_day: date | None
    plan: Plan | None = None
    party: str = ""
    found: SourceReport | None = None
    earlier: Snapshot | None = None

    @property
    def settings(self) -> SourceSettings:
        """The source's own."""
        return self.view.settings

    def asked(self, *rules: str) -> bool:
        """Whether any of `rules` is."""
        return not self.wanted.isdisjoint(rules)

    def all(self, sql: str) -> list[tuple[Any, ...]]:
        """Every row of a query that gives few."""
        return list(self.db.execute(sql).fetchall())

    def one(self, sql: str) -> tuple[Any, ...]:
        """The one row of a query that gives one."""
        (row,) = self.all(sql)
        return row


@contextmanager
def own_cursor(db: Connection) -> Iterator[Connection]:
    """A connection to the same DuckDB with settings and temporary tables of its own."""
    cursor = db.cursor()
    try:
        yield cursor
    finally:
        cursor.close()


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Each count over their sum."""
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}
