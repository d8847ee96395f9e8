"""What a source holds now, brought into DuckDB: its rows, the rows set aside, its consents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa

from party_client.cleaning import (
    STEPS,
    clean_events,
    drop_csv_rejects,
    take_csv_rejects,
    write_rejected,
)
from party_client.consent import load_consent
from party_client.customer_ids import fill_forms, form_sql
from party_client.database_source import describe_database, place_of, read_database
from party_client.readers import (
    Connection,
    Relation,
    data_errors,
    describe_files,
    identifier,
    read_files,
    take_in,
)
from party_client.source_settings import ConsentSettings, SourceFile, SourceSettings
from party_client.tables import CUSTOMER, TABLE_REASONS, require_one_row_each, store_table
from privacy.errors import ConfigError, DataError

_ROW_TABLES = ("events", "feature_table", "rejects", "customers", "source_rows", *STEPS)
_CONSENT_TABLES = ("consents", "consent_table", "read_rows", "consent_rows")


@dataclass(frozen=True)
class Loaded:
    """A source's rows as they stand in DuckDB: table `events` or `feature_table`, `rejects` and
    `customers`, the distinct usable ids. rejected: rows set aside, by reason."""

    relation: Relation
    rows_read: int
    rejected: Mapping[str, int]
    rejected_file: Path | None
    customers: int


def load_rows(
    connection: Connection, settings: SourceSettings, home: Path, spill: Path, today: date
) -> Loaded:
    """Read the whole source. On an error nothing of it is left in DuckDB."""
    drop_rows(connection)
    try:
        with _scratch(home) as scratch:
            relation = _relation(connection, settings, settings, home, spill, Path(scratch))
            load = _load_events if settings.kind == "events" else _load_table
            loaded = load(connection, relation, settings, home, today)
    except BaseException as error:
        drop_rows(connection)
        if isinstance(error, OSError):
            raise _unreadable(home, error) from error
        raise
    connection.execute("DROP TABLE IF EXISTS source_rows")
    return loaded


def drop_rows(connection: Connection) -> None:
    """Forget what was read."""
    _drop(connection, _ROW_TABLES)


def load_consents(
    connection: Connection, settings: SourceSettings, home: Path, spill: Path
) -> None:
    """Read the consents into table `consents`. On an error nothing of them is left."""
    consent = settings.consent
    assert consent is not None
    _drop(connection, _CONSENT_TABLES)
    try:
        with _scratch(home) as scratch:
            relation = _relation(connection, consent, settings, home, spill, Path(scratch))
            load_consent(connection, relation, settings)
    except BaseException as error:
        _drop(connection, _CONSENT_TABLES)
        if isinstance(error, OSError):
            raise _unreadable(home, error) from error
        raise
    connection.execute("DROP TABLE IF EXISTS consent_table")


def load_opted_out(
    connection: Connection, customers: Iterable[str], settings: SourceSettings
) -> None:
    """Fill table `opted_out`: each id as it is, and its form where it has one.

    Who opted out while `customer_ids` was another kind is kept by the form of that time.
    """
    listed = pa.table({"customer": pa.array(list(customers), pa.string())})
    take_in(connection, "CREATE OR REPLACE TABLE opted_out AS SELECT DISTINCT *", listed)
    if settings.customer_ids == "opaque":
        return
    with data_errors("the opted-out customers"):
        fill_forms(connection, "SELECT customer FROM opted_out", settings)
        connection.execute(
            "INSERT INTO opted_out SELECT form FROM (SELECT DISTINCT "
            f"{form_sql('customer', settings)} AS form FROM opted_out) WHERE form IS NOT NULL"
        )


def own_types(
    connection: Connection, settings: SourceSettings, home: Path, spill: Path
) -> Mapping[str, str]:
    """Own column -> DuckDB type, without reading rows."""
    try:
        if settings.from_database:
            return describe_database(place_of(settings, settings, "source", home, spill))
        customer = settings.columns["customer"]
        return describe_files(connection, settings.files, settings, home, customer)
    except OSError as error:
        raise _unreadable(home, error) from error


def _relation(
    connection: Connection,
    wanted: SourceSettings | ConsentSettings,
    source: SourceSettings,
    home: Path,
    spill: Path,
    scratch: Path,
) -> Relation:
    where, table, customer = "source", "source_rows", source.columns["customer"]
    files: Sequence[SourceFile]
    if isinstance(wanted, ConsentSettings):
        where, table, customer = "source.consent", "consent_table", wanted.customer
        files = [SourceFile(path=wanted.path)] if wanted.path is not None else []
    else:
        files = wanted.files
    if wanted.from_database:
        place = place_of(wanted, source, where, home, spill)
        return read_database(connection, place, table)
    return read_files(connection, files, wanted, home, scratch, customer)


def _load_events(
    connection: Connection, relation: Relation, settings: SourceSettings, home: Path, today: date
) -> Loaded:
    read, rejected = clean_events(connection, relation, settings, today)
    file = write_rejected(connection, home / "rejected") if rejected else None
    with data_errors("the event log"):
        connection.execute("CREATE TABLE customers AS SELECT DISTINCT customer FROM events")
        (customers,) = connection.execute("SELECT count(*) FROM customers").fetchone()
    if customers == 0:
        raise DataError(
            "no row of the event log is usable: see home/rejected for the reasons, then "
            "correct source.columns, source.customer_ids, source.date_format or source.decimal"
        )
    return Loaded(relation, read, rejected, file, customers)


def _load_table(
    connection: Connection, relation: Relation, settings: SourceSettings, home: Path, today: date
) -> Loaded:
    stored = store_table(connection, relation, settings)
    with data_errors("the feature table"):
        connection.execute(
            "CREATE TABLE rejects (reason VARCHAR, file VARCHAR, customer VARCHAR, line VARCHAR)"
        )
        refused = take_csv_rejects(connection)
        (rows,) = connection.execute("SELECT count(*) FROM feature_table").fetchone()
    customers = require_one_row_each(connection, settings)
    with data_errors("the feature table"):
        connection.execute(
            f"CREATE TABLE customers AS SELECT {CUSTOMER} AS customer FROM feature_table "
            f"WHERE {CUSTOMER} IS NOT NULL"
        )
    rejected = {"malformed_row": refused} if refused else {}
    file = write_rejected(connection, home / "rejected") if refused else None
    return Loaded(stored, rows + refused, rejected, file, customers)


def set_aside(
    connection: Connection, inner: str, names: Iterable[str], home: Path
) -> dict[str, int]:
    """Put into `rejects` the rows of a feature table to which `inner` gives a reason, with what
    stands in columns `names`; returns how many there are by reason."""
    line = ", ".join(f"CAST({identifier(name)} AS VARCHAR)" for name in names)
    with data_errors("the feature table"):
        connection.execute("DELETE FROM rejects WHERE line IS NULL OR customer IS NOT NULL")
        connection.execute(
            "INSERT INTO rejects BY NAME SELECT reason, coalesce(customer, '') AS customer, "
            f"concat_ws(' | ', {line}) AS line FROM ({inner}) WHERE reason IS NOT NULL"
        )
        counted = dict(
            connection.execute("SELECT reason, count(*) FROM rejects GROUP BY reason").fetchall()
        )
    if counted:
        write_rejected(connection, home / "rejected")
    return {reason: counted[reason] for reason in TABLE_REASONS if reason in counted}


def _scratch(home: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for text that must be rewritten; gone after loading."""
    return tempfile.TemporaryDirectory(prefix=".source-", dir=home)


def _drop(connection: Connection, tables: Iterable[str]) -> None:
    for table in tables:
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    drop_csv_rejects(connection)  # of a reading that failed


def _unreadable(home: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the source cannot be read into {home} ({error.strerror}): check the permissions of the "
        "party's folder and of the source, and the free space"
    )
