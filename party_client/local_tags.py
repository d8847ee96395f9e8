"""Local tags: the catalogue's rules over one party's own customers, into its own profile store.

Nothing here leaves the party, and no model has a part in it: a publication of kind `local` costs
no epsilon. Who consented to none of a tag's purposes, or has opted out, is neither computed nor
counted in a quantile.

`update = "event"`: a node has no feed of events, it reads its source. Such a tag is due as soon as
the source reads otherwise than at the last refresh; `periodic` tags, and event tags of a quiet
source, are due when half of their validity has passed. `refresh --due`, run by a timer, writes
those; how soon after an event is up to the timer.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from models.tag_catalogue import Catalogue, CatalogueTag
from models.tag_rules import Bands, Cases, Condition, OfAll, OtherFact, Quantiles, Text
from models.tasks import text_literal
from party_client.local_facts import facts_of
from party_client.profile_records import Publication, TagBatch
from party_client.profile_store import ProfileStore
from party_client.readers import Connection, data_errors
from party_client.sources import Source, SourceView
from privacy.errors import DataError

CHUNK = 50_000  # customers whose batches share one list
_TEXTS = "local_texts"
_ADMITTED = "local_admitted"


@dataclass(frozen=True)
class TagColumn:
    """One tag of many customers: `codes` (n,) are places in `words`; -1: no value."""

    tag: str
    codes: NDArray[np.integer]
    words: tuple[str, ...]


@dataclass(frozen=True)
class LocalTags:
    """What the rules say of `customers` (n). It holds one byte a customer and tag."""

    customers: Sequence[str]
    columns: tuple[TagColumn, ...]

    def batches(self) -> Iterator[TagBatch]:
        """All tags, the customers a part at a time; None for who has no value. Without customers,
        each tag with nobody: it is refreshed all the same."""
        for start in range(0, max(1, len(self.customers)), CHUNK):
            customers = self.customers[start : start + CHUNK]
            for column in self.columns:
                words = np.array([*column.words, None], dtype=object)
                values = words[column.codes[start : start + CHUNK]].tolist()
                yield TagBatch(column.tag, customers, values)


@dataclass(frozen=True)
class Refreshed:
    """What a refresh wrote; `written` is how many values, for this party's own eyes."""

    run_id: str | None
    as_of: date
    tags: tuple[str, ...]
    written: int


def refresh_local_tags(
    source: Source,
    store: ProfileStore,
    catalogue: Catalogue,
    *,
    party: str,
    now: datetime,
    only: Collection[str] | None = None,
) -> Refreshed:
    """Compute every listed local tag (of `only`, if given) as of the day `now` and publish them.

    The tags of one refresh appear together or not at all. Customers to whom a tag no longer
    applies, and those who are no longer in the log, lose it. Raises DataError for a source without
    events, StoreError.
    """
    tags = [tag for tag in catalogue.tags if tag.computed and (only is None or tag.name in only)]
    found = [
        local_tags(source, [tag for tag in tags if tag.purposes == purposes], now.date())
        for purposes in dict.fromkeys(tag.purposes for tag in tags)
    ]
    if not tags:
        return Refreshed(None, now.date(), (), 0)
    rules = hashlib.sha256(f"{catalogue.digest}:{source.schema_digest()}".encode()).hexdigest()
    publication = Publication(
        run_id=f"local-{now:%Y%m%d}-{secrets.token_hex(8)}",
        kind="local",
        plan_digest=None,
        model_digest=rules,
        parties=(party,),
        epsilon=0.0,
        delta=0.0,
        published_at=now,
        as_of=now.date(),
    )
    store.set_consents(source.consent_rows(), now=now)
    done = store.publish(publication, (batch for one in found for batch in one.batches()))
    names = tuple(tag.name for tag in tags)
    return Refreshed(publication.run_id, now.date(), names, done.written)


def local_tags(source: Source, tags: Sequence[CatalogueTag], today: date) -> LocalTags:
    """The values of `tags`, which have the same purposes, for who consents to at least one.

    Raises DataError for a source that is no event log.
    """
    if not tags:
        return LocalTags((), ())
    purposes = tags[0].purposes
    marker = f"{_ADMITTED}_{secrets.token_hex(8)}"

    def admit(connection: Connection, view: SourceView) -> None:
        with data_errors("the event log"):
            connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS {marker} (customer VARCHAR)")
            connection.execute(f"INSERT INTO {marker} SELECT DISTINCT customer FROM {view.events}")

    def look(connection: Connection, view: SourceView) -> LocalTags:
        events = f"(SELECT * FROM {view.events} WHERE customer IN (SELECT customer FROM {marker}))"
        try:
            return computed_tags(connection, events, tags, today)
        finally:
            connection.execute(f"DROP TABLE {marker}")

    if source.inspect(_no_events):
        raise DataError(
            "local tags are computed from events, and source.kind here is 'table': connect an "
            "event log"
        )
    for purpose in purposes:
        source.inspect(admit, purpose)
    return source.inspect(look)


def _no_events(_: Connection, view: SourceView) -> bool:
    return view.events is None


def computed_tags(
    connection: Connection, events: str, tags: Sequence[CatalogueTag], today: date
) -> LocalTags:
    """The values of `tags` for every customer of the relation `events` who bought before today."""
    with facts_of(connection, events, today) as facts, data_errors("the event log"):
        texts = _number_texts(connection, facts, tags)
        columns, joins = [], []
        for place, tag in enumerate(tags):
            sql = _rule_sql(connection, facts, tag, place)
            columns.append(f"coalesce({sql}, -1)::{_code_type(tag)} AS tag_{place}")
            if tag.value_type == "text":
                assert isinstance(tag.rule, Text)
                joins.append(f"LEFT JOIN {_TEXTS} t{place} ON t{place}.word = {tag.rule.fact}")
        try:
            found = connection.execute(
                f"SELECT customer, {', '.join(columns)} FROM {facts} {' '.join(joins)} "
                "ORDER BY customer"
            ).fetchnumpy()
        finally:
            connection.execute(f"DROP TABLE {_TEXTS}")
    return LocalTags(
        customers=np.asarray(found["customer"], dtype=object).tolist(),
        columns=tuple(
            TagColumn(
                tag.name,
                np.asarray(found[f"tag_{place}"]),
                texts if tag.value_type == "text" else tag.values,
            )
            for place, tag in enumerate(tags)
        ),
    )


def _number_texts(
    connection: Connection, facts: str, tags: Sequence[CatalogueTag]
) -> tuple[str, ...]:
    """Number all values of the texts that `tags` take over as they are."""
    wanted = [
        tag.rule.fact for tag in tags if tag.value_type == "text" and isinstance(tag.rule, Text)
    ]
    parts = [f"SELECT {fact} AS word FROM {facts}" for fact in dict.fromkeys(wanted)]
    union = " UNION ".join(parts) or "SELECT NULL::VARCHAR AS word"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {_TEXTS} AS "
        "SELECT word, row_number() OVER (ORDER BY word) - 1 AS code "
        f"FROM ({union}) WHERE word IS NOT NULL"
    )
    rows = connection.execute(f"SELECT word FROM {_TEXTS} ORDER BY code").fetchall()
    return tuple(word for (word,) in rows)


def _code_type(tag: CatalogueTag) -> str:
    return "INTEGER" if tag.value_type == "text" else "TINYINT"


def _rule_sql(connection: Connection, facts: str, tag: CatalogueTag, place: int) -> str:
    """SQL for the place of the tag's value in its words; NULL or -1: no value."""
    rule = tag.rule
    if isinstance(rule, Bands):
        return _bands_sql(rule.fact, "<", rule.edges)
    if isinstance(rule, Quantiles):
        # Who ties with an edge stands below it: having what most have is no distinction.
        return _bands_sql(rule.fact, "<=", _quantiles(connection, facts, rule.fact, rule.shares))
    if isinstance(rule, Cases):
        whens = [
            f"WHEN {' AND '.join(_condition_sql(connection, facts, one) for one in case.when)} "
            f"THEN {tag.values.index(case.value)}"
            for case in rule.cases
        ]
        otherwise = -1 if rule.otherwise is None else tag.values.index(rule.otherwise)
        return f"CASE {' '.join(whens)} ELSE {otherwise} END"
    assert isinstance(rule, Text), "the catalogue computes no other kind"
    if tag.value_type == "text":
        return f"t{place}.code"
    whens = [f"WHEN {text_literal(value)} THEN {number}" for number, value in enumerate(tag.values)]
    return f"CASE {rule.fact} {' '.join(whens)} ELSE -1 END"


def _bands_sql(fact: str, below: str, edges: Sequence[float]) -> str:
    whens = [f"WHEN {fact} {below} {edge!r} THEN {place}" for place, edge in enumerate(edges)]
    return f"CASE WHEN {fact} IS NULL THEN -1 {' '.join(whens)} ELSE {len(edges)} END"


def _condition_sql(connection: Connection, facts: str, condition: Condition) -> str:
    parts = []
    for sign, bound in condition.bounds.items():
        if isinstance(bound, OtherFact):
            other = f"{bound.fact} * {bound.times!r}"
        elif isinstance(bound, OfAll):
            other = repr(_quantiles(connection, facts, condition.fact, [bound.quantile])[0])
        else:
            other = repr(float(bound))
        parts.append(f"{condition.fact} {sign} {other}")
    return " AND ".join(parts)


def _quantiles(
    connection: Connection, facts: str, fact: str, shares: Sequence[float]
) -> Sequence[float]:
    """The smallest facts that these shares of the customers do not pass; 0 where nobody has it."""
    listed = ", ".join(repr(share) for share in shares)
    (found,) = connection.execute(
        f"SELECT quantile_disc({fact}::DOUBLE, [{listed}]) FROM {facts}"
    ).fetchone()
    return [0.0] * len(shares) if found is None else [float(one) for one in found]
