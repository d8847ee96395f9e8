"""Feature tables: exactly one row per customer, columns by the plan's own feature contract."""

from __future__ import annotations

from collections.abc import Sequence

from models.features import FeatureColumn
from party_client.cleaning import clean_number, clean_text, require_columns
from party_client.customer_ids import LONGEST, fill_forms, form_sql
from party_client.examples import LABEL
from party_client.readers import MALFORMED, Connection, Relation, data_errors, identifier
from party_client.source_settings import SourceSettings
from privacy.errors import DataError

TABLE_REASONS: tuple[str, ...] = (
    "malformed_row",
    "missing_customer",
    "unusable_customer_id",
    "unparsable_number",
    "unparsable_label",
)
CUSTOMER = "fedtags_customer"  # the id by which the node knows a row's customer


def store_table(connection: Connection, relation: Relation, settings: SourceSettings) -> Relation:
    """Copy a feature table into DuckDB's table `feature_table`, with the column `CUSTOMER`.

    Raises DataError for a missing customer column.
    """
    own = settings.columns["customer"]
    require_columns({"customer": own}, relation)
    raw = clean_text(identifier(own), relation.types[own])
    with data_errors("the feature table"):
        connection.execute(
            f"CREATE TABLE feature_table AS SELECT *, CASE WHEN length({raw}) <= {LONGEST} "
            f"THEN {raw} END AS {CUSTOMER} FROM ({relation.sql})"
        )
        if settings.customer_ids != "opaque":
            fill_forms(connection, f"SELECT {CUSTOMER} FROM feature_table", settings)
            form = form_sql(CUSTOMER, settings)
            connection.execute(f"UPDATE feature_table SET {CUSTOMER} = {form}")
    return Relation("SELECT * FROM feature_table", relation.types, relation.files)


def require_one_row_each(connection: Connection, settings: SourceSettings) -> int:
    """Number of customers in a stored feature table.

    Raises DataError for an empty table and for two rows with one customer: two rows would double
    what one customer can change, and the guarantee with it.
    """
    own = settings.columns["customer"]
    with data_errors("the feature table"):
        rows, filled, distinct = connection.execute(
            f"SELECT count(*), count({CUSTOMER}), count(DISTINCT {CUSTOMER}) FROM feature_table"
        ).fetchone()
    if filled == 0:
        raise DataError(
            "the feature table is empty, or no row has a customer: check source.path, table or "
            f"query, source.columns.customer ('{own}') and source.customer_ids"
            if rows
            else "the feature table is empty: check source.path, table or query, and export it "
            "again"
        )
    if distinct != filled:
        raise DataError(
            f"two rows of the feature table have one id in '{own}': exactly one row per customer "
            "is needed; merge or remove the others"
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
    selected = [f"{CUSTOMER} AS customer"]
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
    WHEN {_raw_customer(relation, settings)} IS NULL THEN 'missing_customer'
    WHEN {CUSTOMER} IS NULL THEN 'unusable_customer_id'
    WHEN {" OR ".join(broken) or "false"} THEN 'unparsable_number'
    WHEN {bad_label} THEN 'unparsable_label'
    END AS reason
FROM ({relation.sql})"""


def _raw_customer(relation: Relation, settings: SourceSettings) -> str:
    own = settings.columns["customer"]
    return clean_text(identifier(own), relation.types[own])
