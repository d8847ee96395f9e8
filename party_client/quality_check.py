"""Looks at a source by every rule of data quality, in SQL inside the source's own DuckDB.

Nothing here changes a row: the looking is done with a cursor of its own and temporary tables, and
`party_client.cleaning` alone sets rows aside, by reject rules.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

from models.catalogue import catalogue_columns, columns_of
from models.plan import Plan
from party_client.cleaning import clean_text
from party_client.durable_file import replace_durably
from party_client.quality import (
    FORMAT,
    PAGE_FILE,
    REPORT_FILE,
    REVIEW_FILE,
    QualityReport,
    QualityResult,
    Snapshot,
)
from party_client.quality_columns import (
    table_columns,
    table_drift,
    table_findings,
    table_snapshot,
    table_values,
)
from party_client.quality_days import day_findings
from party_client.quality_drift import (
    drift_findings,
    event_snapshot,
    event_values,
    same_data,
)
from party_client.quality_looking import Finding, Looking, Review, own_cursor
from party_client.quality_policy import QualityPolicy
from party_client.quality_report import page
from party_client.quality_rows import customer_findings, row_findings
from party_client.quality_rules import RULES
from party_client.quality_text import garbled_findings
from party_client.readers import MALFORMED, Connection, data_errors, identifier
from party_client.sources import Source, SourceReport, SourceView
from party_client.tables import CUSTOMER
from privacy.errors import ConfigError

_TEXTS = ("customer", "category", "channel", "type")
_DECIMAL_COMMA = "^-?[0-9]{1,3}([0-9]*|(\\.[0-9]{3})*),[0-9]{1,2}$"


@dataclass(frozen=True)
class Seen:
    """What one look at a source found. `now` is None unless every rule was asked for."""

    rows_read: int
    rejected: Mapping[str, int]
    first_day: date | None
    last_day: date | None
    results: tuple[QualityResult, ...]
    review: Review
    now: Snapshot | None
    earlier: Snapshot | None

    @property
    def usable_share(self) -> float:
        """Of the rows read, the share that the cleaning left, in [0, 1]."""
        return 1 - sum(self.rejected.values()) / self.rows_read if self.rows_read else 0.0


def assess(
    source: Source,
    plan: Plan | None = None,
    *,
    party: str = "",
    found: SourceReport | None = None,
    earlier: QualityReport | None = None,
    policy: QualityPolicy | None = None,
) -> tuple[QualityReport, Review]:
    """Look at `source` by every rule for its kind; also the rows that a person should look at.

    With a plan, what it reads is looked at; `found` is what `source.check(plan, party)` said, if it
    was asked already. `earlier` is the last report: if it is of other data of the same columns,
    volume and categories are compared with it, else with what it was compared with. Raises what
    reading the source raises.
    """
    found = source.check(plan, party) if found is None else found
    seen = look_at(source, frozenset(RULES), policy or QualityPolicy(), plan, party, found, earlier)
    assert seen.now is not None
    report = QualityReport(
        format=FORMAT,
        checked_at=datetime.now(UTC),
        kind="events" if seen.last_day is not None else "table",
        plan=plan.name if plan else None,
        rows_read=seen.rows_read,
        rejected=dict(seen.rejected),
        customers=found.customers,
        first_day=seen.first_day,
        last_day=seen.last_day,
        results=seen.results,
        now=seen.now,
        earlier=seen.earlier,
    )
    return report, seen.review


def look_at(
    source: Source,
    names: frozenset[str],
    policy: QualityPolicy,
    plan: Plan | None = None,
    party: str = "",
    found: SourceReport | None = None,
    earlier: QualityReport | None = None,
) -> Seen:
    """Look at `source` by the rules `names`, in their listed order; the rest is as for `assess`."""

    def look(db: Connection, view: SourceView) -> Seen:
        with own_cursor(db) as cursor, data_errors("the source"):
            looking = Looking(cursor, view, names, Review(), None, None, plan, party, found)
            if view.events is not None:
                return _events(looking, earlier, policy)
            return _table(looking, earlier, policy)

    return source.inspect(look)


def save(report: QualityReport, review: Review, folder: Path) -> None:
    """Write report.json, report.html and review.csv to `folder` (0700; files 0600).

    The report is written last: what it names is there. Raises ConfigError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
        replace_durably(folder / REVIEW_FILE, review.as_csv())
        replace_durably(folder / PAGE_FILE, page(report).encode())
        replace_durably(folder / REPORT_FILE, json.dumps(report.as_json(), indent=1).encode())
    except OSError as error:
        raise ConfigError(
            f"the quality report cannot be written to {folder} ({error.strerror}): make the "
            "party's folder writable and free some space"
        ) from error


def _events(look: Looking, earlier: QualityReport | None, policy: QualityPolicy) -> Seen:
    first, last = look.one(
        f"SELECT CAST(min(time) AS DATE), CAST(max(time) AS DATE) FROM {look.view.events}"
    )
    look = replace(look, first_day=first, last_day=last)
    rejected = look.view.rejected
    findings = [
        *_rejects(look, rejected),
        *row_findings(look),
        *customer_findings(look),
        *day_findings(look),
        *garbled_findings(look, _event_texts(look)),
        *_ranges(look),
    ]
    now = None
    if look.asked("history_kept", "category_known", "category_mix"):
        values = event_values(look)
        now = event_snapshot(look, values)
        look = replace(look, earlier=_comparable(earlier, now))
        findings += drift_findings(look, now, values)
    return _seen(look, rejected, findings, now, policy)


def _table(look: Looking, earlier: QualityReport | None, policy: QualityPolicy) -> Seen:
    rejected = _table_rejected(look)
    (rows,) = look.one(f"SELECT count(*) FILTER (NOT {MALFORMED}) FROM {look.view.feature_table}")
    columns = table_columns(look)
    findings = [
        *_rejects(look, rejected),
        *table_findings(look, columns, rows),
        *_ranges(look),
    ]
    now = None
    if look.asked("table_size", "category_known", "category_mix"):
        values = table_values(look, columns)
        now = table_snapshot(look, rows, values)
        look = replace(look, earlier=_comparable(earlier, now))
        findings += table_drift(look, columns, now, values)
    return _seen(look, rejected, findings, now, policy)


def _comparable(earlier: QualityReport | None, now: Snapshot) -> Snapshot | None:
    """What to compare with: of other data than now, of the same columns; None: there is nothing.

    A second check of one export compares with what the first one did: it must not find itself.
    """
    if earlier is None:
        return None
    chosen = earlier.earlier if same_data(earlier.now, now) else earlier.now
    return chosen if chosen is not None and dict(chosen.columns) == dict(now.columns) else None


def _table_rejected(look: Looking) -> Mapping[str, int]:
    """Rows set aside, by reason. Without a plan nothing has read the columns, so rows are judged
    by their customer only."""
    if look.plan is not None and look.found is not None:
        return look.found.rejected
    own = look.settings.columns["customer"]
    raw = clean_text(identifier(own), look.view.types[own])
    malformed, nameless, unusable = look.one(
        f"SELECT count(*) FILTER ({MALFORMED}), "
        f"count(*) FILTER (NOT {MALFORMED} AND {raw} IS NULL), "
        f"count(*) FILTER (NOT {MALFORMED} AND {raw} IS NOT NULL AND {CUSTOMER} IS NULL) "
        f"FROM {look.view.feature_table}"
    )
    counts = dict(look.view.rejected)
    for reason, count in (
        ("malformed_row", malformed),
        ("missing_customer", nameless),
        ("unusable_customer_id", unusable),
    ):
        counts[reason] = counts.get(reason, 0) + count
    return {reason: count for reason, count in counts.items() if count}


def _rejects(look: Looking, rejected: Mapping[str, int]) -> Iterator[Finding]:
    kind = look.settings.kind
    for rule in RULES.values():
        if rule.severity != "reject" or kind not in rule.sources:
            continue
        failing = sum(rejected.get(reason, 0) for reason in rule.reasons)
        if rule.needs_plan and look.plan is None:
            yield Finding(rule.name, None, note="give --plan", note_zh="请用 --plan 指定计划")
        elif rule.name == "no_duplicates" and look.settings.duplicates == "keep":
            note, note_zh = 'source.duplicates = "keep"', 'source.duplicates = "keep"'
            yield Finding(rule.name, None, note=note, note_zh=note_zh)
        elif rule.name == "within_file_dates" and not any(
            item.since or item.before for item in look.settings.files
        ):
            note, note_zh = "no file has since or before", "没有文件设置 since 或 before"
            yield Finding(rule.name, None, note=note, note_zh=note_zh)
        elif rule.name == "amount_valid" and failing:
            yield Finding(rule.name, look.view.rows_read, failing, *_commas(look))
        else:
            yield Finding(rule.name, look.view.rows_read, failing)


def _commas(look: Looking) -> tuple[str, str]:
    (commas,) = look.one(
        f"SELECT count(*) FROM {look.view.rejects} WHERE reason = 'unparsable_amount' "
        f"AND regexp_matches(trim(amount), '{_DECIMAL_COMMA}')"
    )
    if not commas or look.settings.decimal == ",":
        return "", ""
    return f"{commas:,} look like a decimal comma", f"{commas:,} 条像是用逗号作小数点"


def _event_texts(look: Looking) -> dict[str, str]:
    mapped = [name for name in _TEXTS if name in look.settings.columns]
    return {name: f"SELECT DISTINCT {name} AS value FROM {look.view.events}" for name in mapped}


def _ranges(look: Looking) -> Iterator[Finding]:
    found = look.found
    if found is None or found.clamped is None or found.eligible is None:
        yield Finding("public_range", None, note="give --plan", note_zh="请用 --plan 指定计划")
        return
    columns = catalogue_columns() if look.plan is None else columns_of(look.plan)
    worst = sorted(found.clamped.items(), key=lambda item: -item[1])[:4]
    note = ", ".join(f"{name} {count:,}" for name, count in worst)
    looked = found.eligible * len(columns)
    yield Finding("public_range", looked, sum(found.clamped.values()), note, note)


def _seen(
    look: Looking,
    rejected: Mapping[str, int],
    findings: Iterable[Finding],
    now: Snapshot | None,
    policy: QualityPolicy,
) -> Seen:
    made = {finding.rule: finding for finding in findings}
    results = tuple(
        _result(made[name], policy)
        for name, rule in RULES.items()
        if look.settings.kind in rule.sources and look.asked(name) and name in made
    )
    return Seen(
        rows_read=look.view.rows_read,
        rejected=rejected,
        first_day=look.first_day,
        last_day=look.last_day,
        results=results,
        review=look.review,
        now=now,
        earlier=look.earlier,
    )


def _result(finding: Finding, policy: QualityPolicy) -> QualityResult:
    rule = RULES[finding.rule]
    return QualityResult(
        rule=rule.name,
        severity=rule.severity,
        dimension=rule.dimension,
        unit=rule.unit,
        title=rule.title,
        title_zh=rule.title_zh,
        looked_at=finding.looked_at,
        failing=finding.failing,
        tolerated=policy.tolerated.get(rule.name, rule.tolerated),
        note=finding.note,
        note_zh=finding.note_zh,
        advice=rule.advice,
        advice_zh=rule.advice_zh,
    )
