"""The consent file: read whole and understood, or not at all.

A row that is lost here may be a *no*, and its loss would make a customer of somebody who withdrew.
So nothing is set aside: whatever is unclear is an error that the operator must correct.
"""

from __future__ import annotations

from party_client.quality import TEXT_MARK, clean_text, drop_csv_rejects, require_columns
from party_client.readers import MALFORMED, Connection, Relation, data_errors, identifier
from party_client.source_settings import ConsentSettings
from privacy.errors import DataError

GRANTED = ("1", "true", "t", "yes", "y", "on")
NOT_GRANTED = ("0", "false", "f", "no", "n", "off")


def load_consent(connection: Connection, relation: Relation, consent: ConsentSettings) -> None:
    """Fill table `consented` with each customer of whom every row says yes.

    An empty word is a no. Raises DataError for a line that is no whole row, a customer that is
    missing or cannot be decoded, and a word that is not known.
    """
    require_columns(
        {"customer": consent.customer, "granted": consent.granted}, relation, "source.consent"
    )
    customer = clean_text(identifier(consent.customer), relation.types[consent.customer])
    granted = clean_text(identifier(consent.granted), relation.types[consent.granted])
    known = ", ".join(f"'{word}'" for word in ("", *GRANTED, *NOT_GRANTED))
    yes = ", ".join(f"'{word}'" for word in GRANTED)
    with data_errors("the consent file"):
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE consent_rows AS SELECT {MALFORMED} AS malformed, "
            f"{customer} AS customer, coalesce(lower({granted}), '') AS granted "
            f"FROM ({relation.sql})"
        )
        malformed, nameless, unknown = connection.execute(
            "SELECT coalesce(bool_or(malformed), false), "
            f"coalesce(bool_or(customer IS NULL OR contains(customer, {TEXT_MARK})), false), "
            f"coalesce(bool_or(granted NOT IN ({known})), false) FROM consent_rows"
        ).fetchone()
    if drop_csv_rejects(connection) or malformed:
        raise DataError(
            f"the consent file has a line from which columns '{consent.customer}' and "
            f"'{consent.granted}' cannot be told for sure: correct its quotes and its number of "
            "fields, or delimiter and quote in source.consent; a lost line could be a no"
        )
    if nameless:
        raise DataError(
            f"column '{consent.customer}' of the consent file is empty or cannot be decoded in "
            "some row: name the customer there, or correct encoding in source.consent; a lost "
            "row could be a no"
        )
    if unknown:
        raise DataError(
            f"column '{consent.granted}' of the consent file has a word that is not known: use "
            f"{', '.join(GRANTED)} for a yes and {', '.join(NOT_GRANTED)} or nothing for a no, in "
            "any case"
        )
    with data_errors("the consent file"):
        connection.execute(
            "CREATE TABLE consented AS SELECT customer FROM consent_rows GROUP BY ALL "
            f"HAVING bool_and(granted IN ({yes}))"
        )
        connection.execute("DROP TABLE consent_rows")
