"""What a source holds, for its operator's eyes: exact figures, of which none leaves the party."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from party_client.source_settings import SourceSettings


@dataclass(frozen=True)
class SourceReport:
    """What `check` shows the operator. `consent_asserted`: no consent table, so everyone counts.

    consented: customers who consented to the plan's purpose, or without a plan to any, and have
    not opted out. clamped: values outside their column's public range, by column, among `eligible`
    rows; both None where no range is known (a feature table without a plan).
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
class SourceView:
    """A loaded source as DuckDB holds it, for those who look at the rows without changing them.

    events: an SQL relation of the usable rows (customer, time, amount_cents, type, category,
    channel), or None for a feature table, which is in `feature_table` (own columns and
    `fedtags_customer`, the id). rejects: one of the rows set aside (reason, file, customer, line
    and, for events, time and amount as text). types: own column -> DuckDB type. files: paths;
    none where a database was read.
    """

    settings: SourceSettings
    today: date
    rows_read: int
    rejected: Mapping[str, int]
    events: str | None
    feature_table: str | None
    rejects: str
    types: Mapping[str, str]
    files: tuple[str, ...]
