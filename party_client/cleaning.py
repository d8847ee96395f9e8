"""What makes a row of an event log usable, and where the others go.

Every rule looks at one row, or at equal rows of one customer, and at public constants; rules across
customers (three sigma, percentiles) would let one customer's records change another's row. No row
is dropped silently: it is counted under its first reason and written aside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

from models.tasks import text_literal
from party_client.customer_ids import LONGEST, fill_forms, form_sql
from party_client.readers import (
    CSV_REJECTS,
    FILE,
    LINE_REJECTS,
    MALFORMED,
    Connection,
    Relation,
    data_errors,
    identifier,
    number_text,
)
from party_client.source_settings import OPTIONAL_EVENT_COLUMNS, SourceSettings, names_zone
from privacy.errors import ConfigError, DataError

REASONS: tuple[str, ...] = (
    "malformed_row",
    "outside_file_dates",
    "undecodable_text",
    "missing_customer",
    "unusable_customer_id",
    "missing_time",
    "impossible_time",
    "future_time",
    "missing_amount",
    "unparsable_amount",
    "duplicate_row",
)
STEPS = ("staged", "extra_copies")  # tables on the way
REJECTED_FILE = "rejected.csv"
EARLIEST = date(1900, 1, 1)
MAX_AMOUNT = 1e11  # in currency units; beyond it the row is no sale but a broken number
_WHITESPACE = "' ' || chr(9) || chr(13) || chr(10)"
_ZONED = r"':[0-9]{2}(\.[0-9]+)?\s*[A-Za-z+-]'"  # something stands behind a time of day
_NO_OFFSET = r"':.*[+-](1[5-9]|[2-9][0-9])(:?[0-9]{2})?$'"  # no zone is so far from UTC
_BLANK_ZONE = r"'([0-9])\s+([+-][0-9]|Z$)'"
TEXT_MARK = "chr(65533)"  # stands for each byte that fits no encoding


def clean_text(column: str, kind: str) -> str:
    """SQL for a column as trimmed text, NULL where empty; 13085.0 reads '13085'."""
    if kind == "VARCHAR":
        return f"nullif(trim({column}, {_WHITESPACE}), '')"
    return number_text(column, kind)


def clean_number(column: str, kind: str, decimal: str) -> str:
    """SQL for a column as DOUBLE, NULL where it is no number; `decimal` matters for text only."""
    if kind != "VARCHAR":
        return f"TRY_CAST({column} AS DOUBLE)"
    text = clean_text(column, kind)
    if decimal == ",":
        text = f"replace(replace({text}, '.', ''), ',', '.')"
    return f"TRY_CAST({text} AS DOUBLE)"


def clean_time(column: str, kind: str, date_format: str, time_zone: str = "UTC") -> str:
    """SQL for a column as TIMESTAMP in UTC, NULL where it is no possible date.

    `time_zone` is that of times that name none. What follows a time of day in ISO text is its zone.
    """
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"({column} AT TIME ZONE 'UTC')"
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return _to_utc(f"TRY_CAST({column} AS TIMESTAMP)", time_zone)
    text = clean_text(column, kind)
    if date_format:
        time = f"try_strptime({text}, {text_literal(date_format)})"
        # DuckDB gives what was read with a zone a type of its own.
        if names_zone(date_format):
            return f"({time} AT TIME ZONE 'UTC')"
        return _to_utc(time, time_zone)
    # Cast to TIMESTAMP, a text would lose its zone; to TIMESTAMPTZ, a blank before it is refused.
    tight = f"regexp_replace({text}, {_BLANK_ZONE}, '\\1\\2')"
    return (
        f"CASE WHEN NOT regexp_matches({text}, {_ZONED}) "
        f"THEN {_to_utc(f'TRY_CAST({text} AS TIMESTAMP)', time_zone)} "
        f"WHEN NOT regexp_matches({text}, {_NO_OFFSET}) "
        f"THEN TRY_CAST({tight} AS TIMESTAMPTZ) AT TIME ZONE 'UTC' END"
    )


def _to_utc(time: str, time_zone: str) -> str:
    if time_zone == "UTC":
        return time
    return f"(({time}) AT TIME ZONE {text_literal(time_zone)}) AT TIME ZONE 'UTC'"


def require_columns(
    wanted: Mapping[str, str], relation: Relation, where: str = "source.columns"
) -> None:
    """Raise DataError naming the first own column that the files do not have."""
    for canonical, own in wanted.items():
        if own not in relation.types:
            raise DataError(
                f"column '{own}' (for {canonical}) is not in the source: correct {where} in "
                f"party.toml; the source has {', '.join(sorted(relation.types)) or 'no columns'}"
            )


def clean_events(
    connection: Connection, relation: Relation, settings: SourceSettings, today: date
) -> tuple[int, dict[str, int]]:
    """Fill table `events` with the usable rows and `rejects` with the others.

    Returns the number of rows read and the number rejected under each of `REASONS` that occurred.
    `today` (UTC) is the public constant by which a date lies in the future. Raises DataError for a
    column that is not there and for a source without a row.
    """
    mapping = settings.columns
    require_columns(mapping, relation)
    with data_errors("the event log"):
        connection.execute(f"CREATE TEMP TABLE staged AS {_staged_sql(relation, settings, today)}")
        fill_forms(connection, "SELECT customer FROM staged WHERE reason IS NULL", settings)
        connection.execute(_extra_copies_sql(settings))
        connection.execute(
            "CREATE TABLE events AS SELECT form AS customer, time, amount_cents, type, category, "
            f"channel FROM (SELECT *, {form_sql('customer', settings)} AS form FROM staged "
            "WHERE reason IS NULL AND rowid NOT IN (SELECT place FROM extra_copies)) "
            "WHERE form IS NOT NULL"
        )
        connection.execute(_rejects_sql(relation, settings))
        (read,) = connection.execute("SELECT count(*) FROM staged").fetchone()
        read += take_csv_rejects(connection)
        for table in STEPS:
            connection.execute(f"DROP TABLE {table}")
        counted = dict(
            connection.execute("SELECT reason, count(*) FROM rejects GROUP BY reason").fetchall()
        )
    if read == 0:
        raise DataError(
            "the event log is empty: check source.path, table or query, and export it again"
        )
    return read, {reason: counted[reason] for reason in REASONS if reason in counted}


def write_rejected(connection: Connection, folder: Path) -> Path:
    """Write table `rejects` to `folder`/rejected.csv, readable by this user only."""
    target = folder / REJECTED_FILE
    partial = folder / f".{REJECTED_FILE}.partial"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        # Created closed before the first row goes in: a chmod afterwards would come too late.
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with data_errors("the list of rejected rows"):
            connection.execute(
                f"COPY (SELECT * FROM rejects ORDER BY ALL) TO {text_literal(str(partial))} "
                "(FORMAT csv, HEADER true, USE_TMP_FILE false)"
            )
        partial.chmod(0o600)
        partial.replace(target)
    except OSError as error:
        raise ConfigError(
            f"rejected rows cannot be written to {folder} ({error.strerror}): make the party's "
            "folder writable"
        ) from error
    return target


def take_csv_rejects(connection: Connection) -> int:
    """Move the lines that are no whole row into `rejects`; returns how many."""
    connection.execute(
        "INSERT INTO rejects BY NAME "
        f"SELECT 'malformed_row' AS reason, file, line FROM {LINE_REJECTS}"
    )
    if _reader_refused(connection):
        # One line may be refused for several columns; the byte position tells lines apart.
        connection.execute(
            "INSERT INTO rejects BY NAME SELECT 'malformed_row' AS reason, "
            "CAST(file_id AS VARCHAR) AS file, any_value(csv_line) AS line "
            f"FROM {CSV_REJECTS} GROUP BY scan_id, file_id, line_byte_position"
        )
    return drop_csv_rejects(connection)


def drop_csv_rejects(connection: Connection) -> int:
    """Forget the lines that are no whole row; returns how many there were."""
    (dropped,) = connection.execute(f"SELECT count(*) FROM {LINE_REJECTS}").fetchone()
    connection.execute(f"DELETE FROM {LINE_REJECTS}")
    if _reader_refused(connection):
        (refused,) = connection.execute(
            f"SELECT count(DISTINCT (scan_id, file_id, line_byte_position)) FROM {CSV_REJECTS}"
        ).fetchone()
        connection.execute(f"DELETE FROM {CSV_REJECTS}")
        dropped += refused
    return int(dropped)


def _reader_refused(connection: Connection) -> bool:
    """Whether DuckDB has made its table of refused lines, as it does at its first CSV file."""
    known = connection.execute(
        f"SELECT count(*) FROM duckdb_tables() WHERE table_name = '{CSV_REJECTS}'"
    ).fetchone()
    return bool(known != (0,))


def _extra_copies_sql(settings: SourceSettings) -> str:
    """Table `extra_copies`: the place in `staged` of each usable row that occurs again.

    Equal hashes alone are told first: that is cheap, and leaves few rows to compare.
    """
    if settings.duplicates == "keep":
        return "CREATE TEMP TABLE extra_copies (place BIGINT)"
    return """
CREATE TEMP TABLE extra_copies AS
SELECT place FROM (
    SELECT rowid AS place, row_number() OVER (PARTITION BY customer, row_hash) AS copy_number
    FROM staged
    WHERE reason IS NULL AND row_hash IN (
        SELECT row_hash FROM staged WHERE reason IS NULL GROUP BY row_hash HAVING count(*) > 1
    )
) WHERE copy_number > 1"""


def _rejects_sql(relation: Relation, settings: SourceSettings) -> str:
    """Table `rejects`: each row that is set aside, with its reason and its texts as read."""
    mapping = settings.columns
    raw = {name: f"aside[{place}]" for place, name in enumerate(mapping, start=1)}
    optional = "".join(
        f"{raw[name]} AS {name}, " for name in OPTIONAL_EVENT_COLUMNS if name in mapping
    )
    unusable = "false"
    if settings.customer_ids != "opaque":
        unusable = f"{form_sql('customer', settings)} IS NULL"
    return f"""
CREATE TABLE rejects AS
SELECT reason, {_file_name(relation)} AS file,
       coalesce({raw["customer"]}, customer) AS customer,
       coalesce({raw["time"]}, CAST(time AS VARCHAR)) AS time,
       coalesce({raw["amount"]}, CAST(amount_cents / 100 AS VARCHAR)) AS amount,
       {optional}CAST(NULL AS VARCHAR) AS line
FROM (
    SELECT * REPLACE (CASE
        WHEN reason IS NOT NULL THEN reason
        WHEN rowid IN (SELECT place FROM extra_copies) THEN 'duplicate_row'
        WHEN {unusable} THEN 'unusable_customer_id' END AS reason) FROM staged
) WHERE reason IS NOT NULL"""


def _file_name(relation: Relation) -> str:
    if not relation.files:
        return "CAST(NULL AS VARCHAR)"
    names = ", ".join(text_literal(Path(item.path).name) for item in relation.files)
    return f"list_extract([{names}], {FILE} + 1)"


def _staged_sql(relation: Relation, settings: SourceSettings, today: date) -> str:
    mapping, types = settings.columns, relation.types
    own = {name: identifier(column) for name, column in mapping.items()}
    kind = {name: types[column] for name, column in mapping.items()}
    text = {name: clean_text(own[name], kind[name]) for name in mapping}

    def optional(name: str) -> str:
        if name not in mapping:
            return "CAST(NULL AS VARCHAR)"
        return f"CASE WHEN contains({text[name]}, {TEXT_MARK}) THEN NULL ELSE {text[name]} END"

    amount = clean_number(own["amount"], kind["amount"], settings.decimal)
    missing_amount = f"{text['amount']} IS NULL"
    if "quantity" in mapping:
        amount += f" * {clean_number(own['quantity'], kind['quantity'], settings.decimal)}"
        missing_amount += f" OR {text['quantity']} IS NULL"
    returns = ", ".join(text_literal(value.strip().lower()) for value in settings.return_types)
    kind_of_event = f"lower({text['type']})" if "type" in mapping else "CAST(NULL AS VARCHAR)"
    if returns and "type" in mapping:
        kind_of_event = (
            f"CASE WHEN {kind_of_event} IN ({returns}) THEN 'return' ELSE {kind_of_event} END"
        )
    needed = [
        name for name in ("customer", "time", "amount", "quantity", "type") if name in mapping
    ]
    undecodable = " OR ".join(
        f"coalesce(contains({text[name]}, {TEXT_MARK}), false)" for name in needed
    )
    row = ", ".join(identifier(column) for column in types)
    raw = ", ".join(f"{text[name]} AS raw_{name}" for name in mapping)
    # Texts as read are kept for rejected rows only, and in one column: the others would fill the
    # disk, since a column takes its room even where it is empty.
    aside = ", ".join(f"raw_{name}" for name in mapping)
    return f"""
SELECT {FILE}, customer, time, CAST(cents AS BIGINT) AS amount_cents, type, category, channel,
       row_hash, reason, CASE WHEN reason IS NOT NULL THEN [{aside}] END AS aside
FROM (
    SELECT *, CASE
        WHEN {MALFORMED} THEN 'malformed_row'
        WHEN {_outside(relation)} THEN 'outside_file_dates'
        WHEN undecodable THEN 'undecodable_text'
        WHEN customer IS NULL THEN 'missing_customer'
        WHEN length(customer) > {LONGEST} THEN 'unusable_customer_id'
        WHEN raw_time IS NULL THEN 'missing_time'
        WHEN time IS NULL OR time < TIMESTAMP '{EARLIEST.isoformat()}' THEN 'impossible_time'
        WHEN time >= TIMESTAMP '{(today + timedelta(days=1)).isoformat()}' THEN 'future_time'
        WHEN missing_amount THEN 'missing_amount'
        WHEN cents IS NULL THEN 'unparsable_amount'
        END AS reason
    FROM (
        SELECT *, CASE WHEN isfinite(value) AND abs(value) <= {MAX_AMOUNT}
                       THEN round(value * 100) END AS cents
        FROM (
            SELECT {FILE}, {MALFORMED}, {raw},
                   {text["customer"]} AS customer,
                   {clean_time(own["time"], kind["time"], settings.date_format)} AS time,
                   {amount} * {settings.currency_rate!r} AS value,
                   {missing_amount} AS missing_amount,
                   {undecodable} AS undecodable,
                   {kind_of_event} AS type,
                   {optional("category")} AS category,
                   {optional("channel")} AS channel,
                   hash({row}) AS row_hash
            FROM ({relation.sql})
        )
    )
)"""


def _outside(relation: Relation) -> str:
    tests = ["false"]
    for number, item in enumerate(relation.files):
        if item.since is not None:
            tests.append(f"({FILE} = {number} AND time < TIMESTAMP '{item.since.isoformat()}')")
        if item.before is not None:
            tests.append(f"({FILE} = {number} AND time >= TIMESTAMP '{item.before.isoformat()}')")
    return f"coalesce({' OR '.join(tests)}, false)"
