"""A party's own records: opened, checked and turned into training and scoring rows.

Whatever is counted here (rows, customers, consent) is a local figure: it is shown to the party's
operator and no message has a field for it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from models.catalogue import catalogue_columns, columns_of, feature_sql
from models.features import FeatureColumn
from models.plan import Plan
from models.tasks import label_sql, require_labels_known
from party_client.consent import ConsentRow, consenting_sql, read_consents
from party_client.examples import LABEL, Examples, collect_rows, count_rows
from party_client.loading import (
    Loaded,
    drop_rows,
    load_consents,
    load_opted_out,
    load_rows,
    own_types,
    set_aside,
)
from party_client.readers import Connection, connect, data_errors
from party_client.source_files import file_stamps
from party_client.source_report import SourceReport, SourceView
from party_client.source_settings import OPTIONAL_EVENT_COLUMNS, SourceFile, SourceSettings
from party_client.tables import CUSTOMER, table_sql
from privacy.errors import DataError

__all__ = ["Examples", "Source", "SourceReport", "SourceView", "open_source"]

T = TypeVar("T")
FRESH_SECONDS = 600  # how long rows that were read from a database serve further questions
PART_ROWS = 5_000_000
_LOOK_BACK_DAYS = 180  # who counts as a customer where no plan says so: a plan's own default


@dataclass(frozen=True)
class _Kept:
    """What was loaded, the stamp of its files, and when (monotonic seconds)."""

    stamp: object
    read_at: float
    loaded: Loaded


def open_source(
    settings: SourceSettings,
    home: Path,
    *,
    today: date | None = None,
    opted_out: Callable[[], Iterable[str]] = tuple,
    now: Callable[[], datetime] | None = None,
) -> Source:
    """Open a party's source; it is read at the first question asked.

    `home` is the party's folder: paths are relative to it, rejected rows go to home/rejected.
    `today` (default: the UTC day) decides what a future date is. `opted_out` gives the ids, as the
    node knows them, of customers who opted out; `now` (default: the clock) the moment at which
    consent must stand; both are asked at every question. Use it as a context manager, or call
    `close`.
    """
    return Source(settings, home, today, opted_out, now or (lambda: datetime.now(UTC)))


class Source:
    """An open event log or feature table. Invariant: every row it gives belongs to a customer who
    consents and has not opted out, and depends on that customer's records and public constants
    only.

    Files are read again when they or the day have changed. A database cannot say whether it has
    changed: `check` reads it anew, other questions use rows that are at most `FRESH_SECONDS` old.
    Consents from a database are read anew at every question that depends on them.
    """

    def __init__(
        self,
        settings: SourceSettings,
        home: Path,
        today: date | None,
        opted_out: Callable[[], Iterable[str]],
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._home = home
        self._fixed_today = today
        self._opted_out = opted_out
        self._now = now
        # A name of its own: DuckDB gives the files in it fixed names, and `check` may run beside
        # the service.
        self._spill = home / f".spill-{secrets.token_hex(8)}"
        self._db: Any = connect(settings.memory_limit, settings.threads, self._spill)
        self._kept: _Kept | None = None
        self._consent_stamp: object = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the memory and remove what was spilled to disk."""
        self._db.close()
        shutil.rmtree(self._spill, ignore_errors=True)

    def check(self, plan: Plan | None = None, party: str = "") -> SourceReport:
        """Read the whole source and say what is usable: for `plan` at `party`, or for any plan.

        Without a plan an event log is looked at as on the day after its last one, by the whole
        catalogue. Raises DataError, ConfigError or PlanError for what makes a source unusable.
        """
        with self._lock:
            if self._settings.from_database:
                self._kept = None
            loaded = self._load()
            admitted = self._admit(None if plan is None else plan.purpose)
            report = self._report(loaded, admitted)
            if plan is not None:
                require_labels_known(plan, party, self._today)
                rows = self._examples(plan, party, labelled=True)
                eligible, clamped = len(rows.customer_ids), rows.clamped
                report = replace(report, rejected=rows.rejected)
            elif report.last_day is not None:
                day = report.last_day + timedelta(days=1)
                queries = [
                    feature_sql(day, _LOOK_BACK_DAYS, _usable(part))
                    for part in _parts(admitted, loaded.rows_read)
                ]
                eligible, outside = count_rows(self._db, queries, catalogue_columns())
                clamped = outside
            else:
                return report
            return replace(report, eligible=eligible, clamped=clamped)

    def _report(self, loaded: Loaded, admitted: str) -> SourceReport:
        columns, types = self._settings.columns, loaded.relation.types
        first: date | None = None
        last: date | None = None
        if self._settings.kind == "events":
            missing = tuple(name for name in OPTIONAL_EVENT_COLUMNS if name not in columns)
            with data_errors("the event log"):
                first, last = self._db.execute(
                    "SELECT CAST(min(time) AS DATE), CAST(max(time) AS DATE) FROM events"
                ).fetchone()
        else:
            missing = tuple(name for name, own in columns.items() if own not in types)
        return SourceReport(
            rows_read=loaded.rows_read,
            rejected=loaded.rejected,
            rejected_file=loaded.rejected_file,
            columns_found={name: own for name, own in columns.items() if own in types},
            columns_missing=missing,
            customers=loaded.customers,
            consented=self._count(admitted),
            consent_asserted=self._settings.consent is None,
            first_day=first,
            last_day=last,
            eligible=None,
            clamped=None,
        )

    def training_examples(self, plan: Plan, party: str) -> Examples:
        """Features at the plan's cut-off and the label after it.

        Raises DataError when nobody is eligible or all labels are equal, PlanError when the label
        window has not ended.
        """
        require_labels_known(plan, party, self._today)
        with self._lock:
            examples = self._examples(plan, party, labelled=True)
        labels = examples.labels
        if labels is None or labels.min() == labels.max():
            raise DataError(
                "the label has one class here: every row has the same label, so nothing can be "
                "learned; check the cut-off against the days that the source covers, and the "
                "mapping of the label or of time"
            )
        return examples

    def scoring_examples(self, plan: Plan, party: str) -> Examples:
        """Features at `plan.as_of(party)`, for publication; no label is read."""
        with self._lock:
            return self._examples(plan, party, labelled=False)

    def inspect(self, look: Callable[[Connection, SourceView], T], purpose: str | None = None) -> T:
        """What `look` finds in the loaded source, asked while nobody else uses it.

        With `purpose`: only rows of customers who consent to it and have not opted out. `look` may
        make temporary tables and must ask this source nothing.
        """
        with self._lock:
            loaded = self._load()
            table, customer = "events", "customer"
            if self._settings.kind == "table":
                table, customer = "feature_table", CUSTOMER
            if purpose is not None:
                table = f"(SELECT * FROM {table} WHERE {self._admit(purpose, customer)})"
            events = self._settings.kind == "events"
            view = SourceView(
                settings=self._settings,
                today=self._today,
                rows_read=loaded.rows_read,
                rejected=loaded.rejected,
                events=table if events else None,
                feature_table=None if events else table,
                rejects="rejects",
                types=loaded.relation.types,
                files=tuple(item.path for item in loaded.relation.files),
            )
            return look(self._db, view)

    def schema_digest(self) -> str:
        """SHA-256, in hexadecimal, of kind, own columns with their types, mapping and kind of ids.

        Reads headers, not rows: it is the same for other rows of the same form.
        """
        with self._lock:
            types = own_types(self._db, self._settings, self._home, self._spill)
        shape = {
            "kind": self._settings.kind,
            "types": dict(types),
            "columns": self._settings.columns,
            "customer_ids": [self._settings.customer_ids, self._settings.region],
        }
        return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()

    def consent_rows(self) -> Iterator[ConsentRow] | None:
        """Every consent as it is read now, at most one for each customer and purpose; None where
        the operator asserts consent. Whether one stands is for the reader to tell."""
        if self._settings.consent is None:
            return None
        with self._lock:
            self._load_consents()
            return read_consents(self._db)

    @property
    def _today(self) -> date:
        return self._fixed_today or datetime.now(UTC).date()

    def _examples(self, plan: Plan, party: str, *, labelled: bool) -> Examples:
        columns = columns_of(plan)
        events = self._settings.kind == "events"
        if events and (plan.task.kind == "label" or plan.features.columns):
            raise DataError(
                "this plan reads a feature table, and source.kind here is 'events': point "
                "source at a feature table or choose a plan on the event catalogue"
            )
        if not events and plan.task.kind != "label":
            raise DataError(
                f"this plan derives '{plan.task.kind}' from events, and source.kind here is "
                "'table': point source at an event log or choose a plan of kind 'label'"
            )
        loaded = self._load()
        admitted = self._admit(plan.purpose)
        rejected = loaded.rejected
        if events:
            queries = [
                _event_sql(plan, party, labelled, part)
                for part in _parts(admitted, loaded.rows_read)
            ]
        else:
            inner = self._table_sql(plan, loaded, columns, labelled)
            names = [column.name for column in columns]
            rejected = set_aside(self._db, inner, names, self._home)
            queries = [
                f"SELECT * EXCLUDE (reason) FROM ({inner}) WHERE reason IS NULL AND {admitted} "
                "ORDER BY customer"
            ]
        rows = collect_rows(self._db, queries, columns, labelled=labelled)
        return Examples(
            customer_ids=rows.customer_ids,
            features=rows.features,
            labels=rows.labels,
            rejected=rejected,
            customers=loaded.customers,
            consented=self._count(admitted),
            clamped=rows.clamped,
        )

    def _table_sql(
        self, plan: Plan, loaded: Loaded, columns: tuple[FeatureColumn, ...], labelled: bool
    ) -> str:
        assert plan.task.label is not None or not labelled
        label = plan.task.label if labelled else None
        return table_sql(loaded.relation, self._settings, columns, label)

    def _admit(self, purpose: str | None, customer: str = "customer") -> str:
        """SQL that holds for a customer who consents to `purpose` now and has not opted out.

        Without a purpose: who consents to any.
        """
        tests = [f"{customer} IS NOT NULL"]
        if self._settings.consent is not None:
            self._load_consents()
            with data_errors("the consent table"):
                self._db.execute(
                    "CREATE OR REPLACE TABLE consenting AS " + consenting_sql(purpose, self._now())
                )
            tests.append(f"{customer} IN (SELECT customer FROM consenting)")
        load_opted_out(self._db, self._opted_out(), self._settings)
        tests.append(f"{customer} NOT IN (SELECT customer FROM opted_out)")
        return " AND ".join(tests)

    def _count(self, admitted: str) -> int:
        with data_errors("the source"):
            (number,) = self._db.execute(
                f"SELECT count(*) FROM customers WHERE {admitted}"
            ).fetchone()
        return int(number)

    def _load_consents(self) -> None:
        consent = self._settings.consent
        assert consent is not None
        stamp: object = None
        if consent.path is not None:
            stamp = file_stamps((SourceFile(path=consent.path),), self._home)
        if stamp is None or stamp != self._consent_stamp:
            self._consent_stamp = None
            load_consents(self._db, self._settings, self._home, self._spill)
            self._consent_stamp = stamp

    def _load(self) -> Loaded:
        """What the source holds now, as the class says."""
        stamp = (file_stamps(self._settings.files, self._home), self._today)
        kept, moment = self._kept, time.monotonic()
        stale = self._settings.from_database and (
            kept is not None and moment - kept.read_at > FRESH_SECONDS
        )
        if kept is None or stale or kept.stamp != stamp:
            self._kept = None
            drop_rows(self._db)
            loaded = load_rows(self._db, self._settings, self._home, self._spill, self._today)
            self._kept = kept = _Kept(stamp, moment, loaded)
        return kept.loaded


def _parts(admitted: str, rows: int) -> list[str]:
    """`admitted` for one part of the customers after the other, of some PART_ROWS events each.

    DuckDB cannot spill what it counts distinctly. A customer's row depends on that customer's
    events alone, so it is the same in whatever part.
    """
    parts = -(-max(rows, 1) // PART_ROWS)
    if parts == 1:
        return [admitted]
    return [f"{admitted} AND hash(customer) % {parts} = {part}" for part in range(parts)]


def _usable(admitted: str) -> str:
    return f"(SELECT * FROM events WHERE {admitted})"


def _event_sql(plan: Plan, party: str, labelled: bool, admitted: str) -> str:
    scored = None if labelled else plan.as_of(party)
    day = scored or plan.task.cutoff_of(party)
    features = feature_sql(day, plan.task.eligible_days, _usable(admitted))
    if not labelled:
        return f"SELECT * FROM ({features}) ORDER BY customer"
    labels = label_sql(plan.task, day, _usable(admitted))
    return (
        f"SELECT f.*, l.label AS {LABEL} FROM ({features}) f JOIN ({labels}) l "
        "USING (customer) ORDER BY customer"
    )
