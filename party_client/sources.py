"""A party's own records: opened, checked and turned into training and scoring rows.

Whatever is counted here (rows, customers, consent) is a local figure: it is shown to the party's
operator and no message has a field for it.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.catalogue import catalogue_columns, columns_of, feature_sql
from models.features import FeatureColumn, outside_ranges, scale
from models.plan import Plan
from models.tasks import label_sql, require_labels_known
from party_client.consent import load_consent
from party_client.quality import (
    clean_events,
    clean_text,
    drop_csv_rejects,
    take_csv_rejects,
    write_rejected,
)
from party_client.readers import (
    Relation,
    connect,
    data_errors,
    file_stamps,
    identifier,
    plain_column,
    read_files,
)
from party_client.source_settings import (
    OPTIONAL_EVENT_COLUMNS,
    SourceFile,
    SourceSettings,
)
from party_client.tables import LABEL, TABLE_REASONS, require_one_row_each, table_sql
from privacy.errors import ConfigError, DataError

_LOOK_BACK_DAYS = 180  # who counts as a customer where no plan says so: a plan's own default


@dataclass(frozen=True)
class Examples:
    """Rows for training or scoring, one per eligible and consented customer. Never leaves a party.

    customer_ids: sorted, length n. features: float32 (n, input width), each in [0, 1]. labels:
    float32 (n,) of 0 and 1, or None for scoring. rejected: rows of the source set aside, by
    reason. customers, consented: distinct customers in the source, and those who consented.
    clamped: values outside their column's public range, by column, where there are any.
    """

    customer_ids: list[str]
    features: NDArray[np.float32]
    labels: NDArray[np.float32] | None
    rejected: Mapping[str, int]
    customers: int
    consented: int
    clamped: Mapping[str, int]


@dataclass(frozen=True)
class SourceReport:
    """What `check` shows the operator. `consent_asserted`: no consent file, so everyone counts.

    clamped: values outside their column's public range, by column, among `eligible` rows; both
    None where no range is known (a feature table without a plan).
    """

    rows_read: int
    rejected: Mapping[str, int]
    rejected_file: Path | None
    columns_found: Mapping[str, str]
    columns_missing: tuple[str, ...]
    customers: int
    consented: int
    consent_asserted: bool
    first_day: date | None
    last_day: date | None
    eligible: int | None
    clamped: Mapping[str, int] | None


@dataclass(frozen=True)
class _Loaded:
    stamp: object
    relation: Relation
    rows_read: int
    rejected: Mapping[str, int]
    rejected_file: Path | None
    customers: int
    consented: int


def open_source(settings: SourceSettings, home: Path, *, today: date | None = None) -> Source:
    """Open a party's source; files are read at the first question asked.

    `home` is the party's folder: paths are relative to it, rejected rows go to home/rejected.
    `today` (default: the UTC day) decides what a future date is. Use it as a context manager, or
    call `close`.
    """
    return Source(settings, home, today)


class Source:
    """An open event log or feature table. Invariant: every row it gives belongs to a customer who
    consented, and depends on that customer's records and public constants only.
    """

    def __init__(self, settings: SourceSettings, home: Path, today: date | None) -> None:
        self._settings = settings
        self._home = home
        self._fixed_today = today
        # A name of its own: DuckDB gives the files in it fixed names, and `check` may run beside
        # the service.
        self._spill = home / f".spill-{secrets.token_hex(8)}"
        self._db: Any = connect(settings.memory_limit, settings.threads, self._spill)
        self._state: _Loaded | None = None
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
            report = self._report(self._load())
            if plan is not None:
                require_labels_known(plan, party, self._today)
                rows = self._examples(plan, party, labelled=True)
                eligible, clamped = len(rows.customer_ids), rows.clamped
                report = replace(report, rejected=rows.rejected)
            elif report.last_day is not None:
                usable = f"(SELECT * FROM events WHERE {self._consented()})"
                day = report.last_day + timedelta(days=1)
                with data_errors("the event log"):
                    raw = self._db.execute(feature_sql(day, _LOOK_BACK_DAYS, usable)).fetchnumpy()
                plain = {name: plain_column(values) for name, values in raw.items()}
                eligible = len(plain["customer"])
                clamped = outside_ranges(catalogue_columns(), plain)
            else:
                return report
            return replace(report, eligible=eligible, clamped=clamped)

    def _report(self, state: _Loaded) -> SourceReport:
        columns = self._settings.columns
        first: date | None = None
        last: date | None = None
        if self._settings.kind == "events":
            optional = [name for name in OPTIONAL_EVENT_COLUMNS if name not in columns]
            missing = tuple(optional)
            with data_errors("the event log"):
                first, last = self._db.execute(
                    "SELECT CAST(min(time) AS DATE), CAST(max(time) AS DATE) FROM events"
                ).fetchone()
        else:
            types = state.relation.types
            missing = tuple(name for name, own in columns.items() if own not in types)
        return SourceReport(
            rows_read=state.rows_read,
            rejected=state.rejected,
            rejected_file=state.rejected_file,
            columns_found={
                name: own for name, own in columns.items() if own in state.relation.types
            },
            columns_missing=missing,
            customers=state.customers,
            consented=state.consented,
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

    def consented_customers(self) -> frozenset[str] | None:
        """Everyone whose consent stands in the consent file now; None where the source has none.

        A customer outside it keeps no tag.
        """
        if self._settings.consent is None:
            return None
        with self._lock:
            self._load()
            rows = self._db.execute("SELECT customer FROM consented").fetchall()
        return frozenset(str(customer) for (customer,) in rows)

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
        state = self._load()
        rejected: Mapping[str, int] = state.rejected
        if events:
            sql = self._event_sql(plan, party, labelled)
        else:
            assert plan.task.label is not None or not labelled
            label = plan.task.label if labelled else None
            inner = table_sql(state.relation, self._settings, columns, label)
            rejected = self._set_aside(inner, columns)
            sql = (
                f"SELECT * EXCLUDE (reason) FROM ({inner}) WHERE reason IS NULL "
                f"AND {self._consented()} ORDER BY customer"
            )
        with data_errors("the source"):
            raw = self._db.execute(sql).fetchnumpy()
        if len(raw["customer"]) == 0:
            raise DataError(
                "no customer is eligible: nobody who consented has a usable row for this plan "
                "(see home/rejected and source.consent; check the plan's dates)"
            )
        plain = {name: plain_column(values) for name, values in raw.items()}
        labels = plain[LABEL].astype(np.float32) if labelled else None
        return Examples(
            customer_ids=[str(customer) for customer in plain["customer"]],
            features=scale(columns, plain),
            labels=labels,
            rejected=rejected,
            customers=state.customers,
            consented=state.consented,
            clamped=outside_ranges(columns, plain),
        )

    def _event_sql(self, plan: Plan, party: str, labelled: bool) -> str:
        scored = None if labelled else plan.as_of(party)
        day = scored or plan.task.cutoff_of(party)
        usable = f"(SELECT * FROM events WHERE {self._consented()})"
        features = feature_sql(day, plan.task.eligible_days, usable)
        if not labelled:
            return f"SELECT * FROM ({features}) ORDER BY customer"
        labels = label_sql(plan.task, day, usable)
        return (
            f"SELECT f.*, l.label AS {LABEL} FROM ({features}) f JOIN ({labels}) l "
            "USING (customer) ORDER BY customer"
        )

    def _consented(self) -> str:
        if self._settings.consent is None:
            return "true"
        return "customer IN (SELECT customer FROM consented)"

    def _load(self) -> _Loaded:
        """What the files hold now: read once, and again when a file or the day has changed."""
        settings = self._settings
        consent = (SourceFile(path=settings.consent.path),) if settings.consent else ()
        stamp = (file_stamps((*settings.files, *consent), self._home), self._today)
        if self._state is None or self._state.stamp != stamp:
            self._state = None
            for table in ("events", "feature_table", "rejects", "consented"):
                self._db.execute(f"DROP TABLE IF EXISTS {table}")
            drop_csv_rejects(self._db)  # of a reading that failed
            try:
                # Text that must be rewritten goes to this folder; it is gone after loading.
                with tempfile.TemporaryDirectory(prefix=".source-", dir=self._home) as scratch:
                    self._state = self._read(Path(scratch), stamp)
            except OSError as error:
                raise ConfigError(
                    f"the source cannot be read into {self._home} ({error.strerror}): check the "
                    "permissions of the party's folder and of the source, and the free space"
                ) from error
        return self._state

    def _read(self, scratch: Path, stamp: object) -> _Loaded:
        settings = self._settings
        self._load_consent(scratch)
        relation = read_files(self._db, settings.files, settings, self._home, scratch)
        if settings.kind == "events":
            return self._load_events(relation, stamp)
        return self._load_table(relation, stamp)

    def _load_events(self, relation: Relation, stamp: object) -> _Loaded:
        read, rejected = clean_events(self._db, relation, self._settings, self._today)
        file = write_rejected(self._db, self._home / "rejected") if rejected else None
        with data_errors("the event log"):
            customers, consented = self._db.execute(
                "SELECT count(DISTINCT customer), count(DISTINCT customer) "
                f"FILTER ({self._consented()}) FROM events"
            ).fetchone()
        if customers == 0:
            raise DataError(
                "no row of the event log is usable: see home/rejected for the reasons, then "
                "correct source.columns, source.date_format or source.decimal"
            )
        return _Loaded(stamp, relation, read, rejected, file, customers, consented)

    def _load_table(self, relation: Relation, stamp: object) -> _Loaded:
        with data_errors("the feature table"):
            self._db.execute(f"CREATE TABLE feature_table AS {relation.sql}")
            self._db.execute(
                "CREATE TABLE rejects "
                "(reason VARCHAR, file VARCHAR, customer VARCHAR, line VARCHAR)"
            )
            refused = take_csv_rejects(self._db)
            (rows,) = self._db.execute("SELECT count(*) FROM feature_table").fetchone()
        stored = replace(relation, sql="SELECT * FROM feature_table")
        customers = require_one_row_each(self._db, stored, self._settings)
        own = self._settings.columns["customer"]
        customer = clean_text(identifier(own), relation.types[own])
        with data_errors("the feature table"):
            (consented,) = self._db.execute(
                f"SELECT count(*) FROM (SELECT {customer} AS customer FROM feature_table) "
                f"WHERE customer IS NOT NULL AND {self._consented()}"
            ).fetchone()
        rejected = {"malformed_row": refused} if refused else {}
        file = write_rejected(self._db, self._home / "rejected") if refused else None
        return _Loaded(stamp, stored, rows + refused, rejected, file, customers, consented)

    def _set_aside(self, inner: str, columns: tuple[FeatureColumn, ...]) -> dict[str, int]:
        names = ", ".join(f"CAST({identifier(column.name)} AS VARCHAR)" for column in columns)
        with data_errors("the feature table"):
            self._db.execute("DELETE FROM rejects WHERE line IS NULL OR customer IS NOT NULL")
            self._db.execute(
                "INSERT INTO rejects BY NAME SELECT reason, coalesce(customer, '') AS customer, "
                f"concat_ws(' | ', {names}) AS line FROM ({inner}) WHERE reason IS NOT NULL"
            )
            counted = dict(
                self._db.execute("SELECT reason, count(*) FROM rejects GROUP BY reason").fetchall()
            )
        if counted:
            write_rejected(self._db, self._home / "rejected")
        return {reason: counted[reason] for reason in TABLE_REASONS if reason in counted}

    def _load_consent(self, scratch: Path) -> None:
        consent = self._settings.consent
        if consent is None:
            return
        file = SourceFile(path=consent.path)
        relation = read_files(self._db, (file,), consent, self._home, scratch)
        load_consent(self._db, relation, consent)
