"""What a check of data quality found: every rule with its counts, in two languages.

Whatever is counted here is exact and local: it is for the party's own people, and no message has a
field for it. `party_client.quality_check` makes a report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from party_client.quality_rules import Severity, Unit
from privacy.errors import ConfigError

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"
REVIEW_FILE = "review.csv"
FORMAT = 1
_AGAIN = "remove it and run fedtags-party check, which then has nothing to compare with"
Verdict = Literal["pass", "set aside", "look", "not looked at"]


@dataclass(frozen=True)
class QualityResult:
    """What a rule found. `looked_at` (in `unit`) is None where it could not be looked at, and
    `note` says why; both counts are exact. `tolerated`: the largest share that passes."""

    rule: str
    severity: Severity
    dimension: str
    unit: Unit
    title: str
    title_zh: str
    looked_at: int | None
    failing: int
    tolerated: float
    note: str
    note_zh: str
    advice: str
    advice_zh: str

    @property
    def share(self) -> float | None:
        """Of what was looked at, the share that fails; 0 where there was nothing to look at."""
        if self.looked_at is None:
            return None
        return self.failing / self.looked_at if self.looked_at else 0.0

    @property
    def verdict(self) -> Verdict:
        """pass; set aside (rejected rows, no more than tolerated); look (more than tolerated)."""
        share = self.share
        if share is None:
            return "not looked at"
        if share > self.tolerated:
            return "look"
        return "set aside" if self.severity == "reject" and self.failing else "pass"


@dataclass(frozen=True)
class Snapshot:
    """What a later check compares with.

    weeks: rows by the Monday of the week (event logs). shares: by column, each value's share of
    rows, of an event log in its newest 28 days; what is rare or of few customers is together under
    ''. known: by column, values that many customers have.
    """

    taken_at: datetime
    columns: Mapping[str, str]
    rows: int
    last_day: date | None
    weeks: Mapping[date, int]
    shares: Mapping[str, Mapping[str, float]]
    known: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class QualityReport:
    """One check of a source. `earlier`: what it was compared with; None at a first check.

    plan: the name of the plan it was made for, if any. rejected: rows set aside, by reason.
    """

    format: int
    checked_at: datetime
    kind: Literal["events", "table"]
    plan: str | None
    rows_read: int
    rejected: Mapping[str, int]
    customers: int
    first_day: date | None
    last_day: date | None
    results: tuple[QualityResult, ...]
    now: Snapshot
    earlier: Snapshot | None = None

    @property
    def usable_share(self) -> float:
        """Of the rows read, the share that the cleaning left, in [0, 1]."""
        return 1 - sum(self.rejected.values()) / self.rows_read if self.rows_read else 0.0

    def result(self, rule: str) -> QualityResult | None:
        """What a rule found; None if it is not for this kind of source."""
        return next((one for one in self.results if one.rule == rule), None)

    def as_json(self) -> dict[str, Any]:
        """As plain values; `from_json` reads them. Each result has its share and verdict, too."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        for entry, result in zip(plain["results"], self.results, strict=True):
            entry |= {"share": result.share, "verdict": result.verdict}
        return plain | {"usable_share": self.usable_share}

    @staticmethod
    def from_json(plain: object) -> QualityReport:
        """Raises ConfigError for anything that is no report of this version."""
        try:
            report = _ADAPTER.validate_python(plain)
        except ValidationError as error:
            raise ConfigError(f"the stored quality report is not one: {_AGAIN}") from error
        if report.format != FORMAT:
            raise ConfigError(f"the stored quality report is of another version: {_AGAIN}")
        return report


_ADAPTER = TypeAdapter(QualityReport)


def load_report(path: Path) -> QualityReport | None:
    """The report in the file `path`; None where there is none yet.

    Raises ConfigError for a file that cannot be read or holds no report of this version.
    """
    try:
        return QualityReport.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"quality report {path} cannot be read: {_AGAIN}") from error
