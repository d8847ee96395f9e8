"""Consents: read whole and understood, or not at all.

A row that is lost here may be a *no*, and its loss would make a customer of somebody who withdrew.
So nothing is set aside: whatever is unclear is an error that the operator must correct.

Which row speaks for a customer and a purpose: of those that name the purpose and those for all
purposes, the one granted last; of several granted at one moment, or where no such time is known,
all of them must say yes. It stands from when it was granted until it expires or is withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from models.tasks import text_literal
from party_client.cleaning import (
    TEXT_MARK,
    clean_text,
    clean_time,
    drop_csv_rejects,
    require_columns,
)
from party_client.customer_ids import fill_forms, form_sql
from party_client.readers import MALFORMED, Connection, Relation, data_errors, identifier
from party_client.source_settings import ConsentSettings, SourceSettings
from privacy.errors import DataError

GRANTED = ("1", "true", "t", "yes", "y", "on")
NOT_GRANTED = ("0", "false", "f", "no", "n", "off")
EVERY_PURPOSE = "*"
_PURPOSE = "[a-z][a-z0-9_-]{0,62}"  # in lower case, as in plans
_TIMES = ("granted_at", "expires_at", "withdrawn_at")
_BATCH = 100_000  # rows


@dataclass(frozen=True)
class ConsentRow:
    """What one customer says about one purpose, in lower case; `purpose` "*" means every purpose
    that no other row of this customer names.

    It stands at time t if granted, granted_at <= t, t < expires_at and t < withdrawn_at, where
    given. Times are UTC, with their zone. A source gives at most one row for each customer and
    purpose.
    """

    customer: str
    purpose: str
    granted: bool
    granted_at: datetime | None
    expires_at: datetime | None
    withdrawn_at: datetime | None


def load_consent(connection: Connection, relation: Relation, settings: SourceSettings) -> None:
    """Fill table `consents` with the row that speaks for each customer and purpose.

    An empty word is a no. Raises DataError for a row that cannot be told for sure, a customer
    that is missing or has no id of the settings' kind, a word or a time that is not known, a row
    whose purpose is neither `*` nor a plan's, where a column for it is mapped.
    """
    consent = settings.consent
    assert consent is not None
    wanted = {
        name: own
        for name in ("customer", "granted", "purpose", *_TIMES)
        if (own := getattr(consent, name)) is not None
    }
    require_columns(wanted, relation, "source.consent")
    with data_errors("the consent table"):
        connection.execute(f"CREATE TEMP TABLE read_rows AS {_read_sql(relation, consent)}")
        fill_forms(connection, "SELECT customer FROM read_rows", settings)
        connection.execute(
            "CREATE TEMP TABLE consent_rows AS SELECT * RENAME (customer AS raw), "
            f"{form_sql('customer', settings)} AS customer FROM read_rows"
        )
        connection.execute("DROP TABLE read_rows")
    _require_clear(connection, consent, settings)
    with data_errors("the consent table"):
        connection.execute(_deciding_sql())
        connection.execute("DROP TABLE consent_rows")


def consenting_sql(purpose: str | None, now: datetime) -> str:
    """SQL: `customer` of each whose consent to `purpose` stands at `now`; None: to any purpose."""
    moment = f"TIMESTAMP '{now.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"
    stands = (
        f"granted AND coalesce(granted_at <= {moment}, true) "
        f"AND coalesce(expires_at > {moment}, true) AND coalesce(withdrawn_at > {moment}, true)"
    )
    if purpose is None:
        return f"SELECT DISTINCT customer FROM consents WHERE {stands}"
    named = f"purpose = {text_literal(purpose.lower())}"
    return (
        f"SELECT customer FROM consents WHERE {stands} AND ({named} OR (purpose = "
        f"'{EVERY_PURPOSE}' AND customer NOT IN (SELECT customer FROM consents WHERE {named})))"
    )


def read_consents(connection: Connection) -> Iterator[ConsentRow]:
    """Table `consents` as it is now, whatever becomes of it while the rows are taken."""
    with data_errors("the consent table"), connection.cursor() as own:
        held = own.sql(
            "SELECT customer, purpose, granted, granted_at, expires_at, withdrawn_at FROM consents"
        ).to_arrow_table()
    return _rows(held)


def _rows(held: object) -> Iterator[ConsentRow]:
    for batch in held.to_batches(_BATCH):  # type: ignore[attr-defined]
        columns = [column.to_pylist() for column in batch.columns]
        for customer, purpose, granted, *times in zip(*columns, strict=True):
            at = [None if time is None else time.replace(tzinfo=UTC) for time in times]
            yield ConsentRow(customer, purpose, granted, *at)


def _read_sql(relation: Relation, consent: ConsentSettings) -> str:
    """SQL of the rows as read: what is unclear in one of them is marked, not decided."""

    def text(own: str) -> str:
        return clean_text(identifier(own), relation.types[own])

    granted = "'yes'"
    if consent.granted is not None:
        granted = f"coalesce(lower({text(consent.granted)}), '')"
    purpose = f"'{EVERY_PURPOSE}'" if consent.purpose is None else f"lower({text(consent.purpose)})"
    selected, unclear = [], []
    for name in _TIMES:
        own = getattr(consent, name)
        if own is None:
            selected.append(f"CAST(NULL AS TIMESTAMP) AS {name}")
            continue
        read = clean_time(
            identifier(own), relation.types[own], consent.date_format, consent.time_zone
        )
        time = f"CASE WHEN isfinite({read}) THEN {read} END"
        selected.append(f"{time} AS {name}")
        # The database's word for "never".
        never = "" if name == "granted_at" else f" AND {read} <> TIMESTAMP 'infinity'"
        unclear.append(f"({text(own)} IS NOT NULL AND {time} IS NULL{never})")
        if name == "granted_at":
            unclear.append(f"{text(own)} IS NULL")
    return f"""
SELECT {MALFORMED} AS malformed, {text(consent.customer)} AS customer, {granted} AS granted,
       {purpose} AS purpose, {", ".join(selected)},
       {" OR ".join(f"coalesce({one}, true)" for one in unclear) or "false"} AS unclear_time
FROM ({relation.sql})"""


def _require_clear(
    connection: Connection, consent: ConsentSettings, settings: SourceSettings
) -> None:
    known = ", ".join(f"'{word}'" for word in ("", *GRANTED, *NOT_GRANTED))
    purpose = f"regexp_full_match(purpose, {text_literal(_PURPOSE)})"
    with data_errors("the consent table"):
        malformed, nameless, formless, unknown, purposeless, timeless = connection.execute(
            f"""
SELECT coalesce(bool_or(malformed), false),
       coalesce(bool_or(raw IS NULL OR contains(raw, {TEXT_MARK})), false),
       coalesce(bool_or(raw IS NOT NULL AND customer IS NULL), false),
       coalesce(bool_or(granted NOT IN ({known})), false),
       coalesce(bool_or(NOT coalesce(purpose = '{EVERY_PURPOSE}' OR {purpose}, false)), false),
       coalesce(bool_or(unclear_time), false)
FROM consent_rows"""
        ).fetchone()
    mapped = "', '".join(
        own
        for name in ("customer", "granted", "purpose", *_TIMES)
        if (own := getattr(consent, name)) is not None
    )
    if drop_csv_rejects(connection) or malformed:
        raise DataError(
            f"the consent file has a line from which columns '{mapped}' cannot be told for sure: "
            "correct its quotes and its number of fields, or delimiter and quote in "
            "source.consent; a lost line could be a no"
        )
    if nameless:
        raise DataError(
            f"column '{consent.customer}' of the consent table is empty or cannot be decoded in "
            "some row: name the customer there, or correct encoding in source.consent; a lost "
            "row could be a no"
        )
    if formless:
        raise DataError(
            f"column '{consent.customer}' of the consent table has an id that is no "
            f"{settings.customer_ids} (source.customer_ids): correct it; a lost row could be a no"
        )
    if unknown:
        raise DataError(
            f"column '{consent.granted}' of the consent table has a word that is not known: use "
            f"{', '.join(GRANTED)} for a yes and {', '.join(NOT_GRANTED)} or nothing for a no, in "
            "any case"
        )
    if purposeless:
        raise DataError(
            f"column '{consent.purpose}' of the consent table is empty or names no purpose in some "
            "row: write the purpose as plans do (a letter, then letters, digits, _ or -, in any "
            f"case), or {EVERY_PURPOSE} for all of them"
        )
    if timeless:
        raise DataError(
            "the consent table has a time that is missing or is no date: granted_at must be "
            "there in every row, the others may be empty; see date_format in source.consent"
        )


def _deciding_sql() -> str:
    """Of each customer and purpose the newest row, with those for every purpose; equals agree."""
    yes = ", ".join(f"'{word}'" for word in GRANTED)
    return f"""
CREATE TABLE consents AS
WITH spoken AS (
    SELECT customer, purpose, granted IN ({yes}) AS granted, granted_at, expires_at, withdrawn_at
    FROM consent_rows
),
concerned AS (
    SELECT * FROM spoken
    UNION ALL
    SELECT named.customer, named.purpose, s.granted, s.granted_at, s.expires_at, s.withdrawn_at
    FROM (SELECT DISTINCT customer, purpose FROM spoken WHERE purpose <> '{EVERY_PURPOSE}') named
    JOIN spoken s ON s.customer = named.customer AND s.purpose = '{EVERY_PURPOSE}'
),
newest AS (
    SELECT customer, purpose, max(granted_at) AS last FROM concerned GROUP BY customer, purpose
)
SELECT c.customer, c.purpose, bool_and(c.granted) AS granted, any_value(n.last) AS granted_at,
       min(c.expires_at) AS expires_at, min(c.withdrawn_at) AS withdrawn_at
FROM concerned c JOIN newest n ON c.customer = n.customer AND c.purpose = n.purpose
WHERE c.granted_at IS NOT DISTINCT FROM n.last
GROUP BY c.customer, c.purpose"""
