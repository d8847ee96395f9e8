"""Feature tables: exactly one row per customer, columns by the plan's own feature contract."""

from __future__ import annotations

from collections.abc import Sequence

from models.features import FeatureColumn
from party_client.quality import clean_number, clean_text, require_columns
from party_client.readers import MALFORMED, Connection, Relation, data_errors, identifier
from party_client.source_settings import SourceSettings
from privacy.errors import DataError

TABLE_REASONS: tuple[str, ...] = (
    "malformed_row",
    "missing_customer",
    "unparsable_number",
    "unparsable_label",
)
LABEL = "fedtags_label"


def require_one_row_each(
    connection: Connection, relation: Relation, settings: SourceSettings
) -> int:
    """Number of customers in a feature table.

    Raises DataError for a missing customer column, an empty table and for two rows with one
    customer: two rows would double what one customer can change, and the guarantee with it.
    """
    require_columns({"customer": settings.columns["customer"]}, relation)
    customer = _customer(relation, settings)
    with data_errors("the feature table"):
        rows, filled, distinct = connection.execute(
            f"SELECT count(*), count({customer}), count(DISTINCT {customer}) FROM ({relation.sql})"
        ).fetchone()
    if filled == 0:
        raise DataError(
            "the feature table is empty, or no row has a customer: check source.path and "
            f"source.columns.customer ('{settings.columns['customer']}')"
            if rows
            else "the feature table is empty: check source.path and export it again"
        )
    if distinct != filled:
        raise DataError(
            f"two rows of the feature table have one id in '{settings.columns['customer']}': "
            "exactly one row per customer is needed; merge or remove the others"
        )
    return int(distinct)


def table_sql(
    relation: Relation,
    settings: SourceSettings,
    columns: Sequence[FeatureColumn],
    label: str | None,
) -> str:
    """SQL with customer, each feature column, `LABEL` if asked, and `reason` (NULL = usable).

    A column that party.toml does not map goes by its canonical name. Raises DataError naming the
    column wanted when the table has none of that name.
    """
    names = [column.name for column in columns] + ([label] if label is not None else [])
    wanted = {name: settings.columns.get(name, name) for name in ("customer", *names)}
    require_columns(wanted, relation)
    selected = [f"{_customer(relation, settings)} AS customer"]
    broken = []
    for column in columns:
        own = identifier(wanted[column.name])
        kind = relation.types[wanted[column.name]]
        target = identifier(column.name)
        text = clean_text(own, kind)
        if column.kind == "category":
            selected.append(f"{text} AS {target}")
            continue
        number = clean_number(own, kind, settings.decimal)
        selected.append(f"{number} AS {target}")
        broken.append(f"({text} IS NOT NULL AND {number} IS NULL)")
    bad_label = "false"
    if label is not None:
        own, kind = identifier(wanted[label]), relation.types[wanted[label]]
        value = f"TRY_CAST({clean_text(own, kind)} AS DOUBLE)"
        if kind == "BOOLEAN":
            value = f"CAST(CAST({own} AS INTEGER) AS DOUBLE)"
        selected.append(f"{value} AS {LABEL}")
        bad_label = f"coalesce({value} NOT IN (0, 1), true)"
    return f"""
SELECT {", ".join(selected)}, CASE
    WHEN {MALFORMED} THEN 'malformed_row'
    WHEN {_customer(relation, settings)} IS NULL THEN 'missing_customer'
    WHEN {" OR ".join(broken) or "false"} THEN 'unparsable_number'
    WHEN {bad_label} THEN 'unparsable_label'
    END AS reason
FROM ({relation.sql})"""


def _customer(relation: Relation, settings: SourceSettings) -> str:
    own = settings.columns["customer"]
    return clean_text(identifier(own), relation.types[own])
