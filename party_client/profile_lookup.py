"""Looking one customer up: one statement, and in memory whatever of the store never changes.

A row of the store says little by itself: which publication it is of, which reasons it has. Both are
written once and never changed or deleted (`profile_tables`), so they are read once a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    literal_column,
    not_,
    or_,
    select,
)

from party_client.profile_consent import known_state, microseconds
from party_client.profile_reading import KEY, STANDING, day, provenance, reason_codes
from party_client.profile_records import Profile, Provenance, TagRecord
from party_client.profile_tables import publication_tags, publications, tag_values, terms
from privacy.errors import StoreError

MOST_REASONS = 100_000  # kept in memory; some 100 bytes each
ATTEMPTS = 5

# The names of the tags that may be read for a purpose.
Readable = Callable[[str], Iterable[str]]


@dataclass(frozen=True)
class _Source:
    """A publication, and until when each of its tags (by id) is valid."""

    provenance: Provenance
    until: Mapping[int, date]


@dataclass(frozen=True)
class _Question:
    """The statement for one purpose as of the publication by the run `newest` (None: of none).
    `names`: tags by id."""

    newest: str | None
    names: Mapping[int, str]
    statement: Select[Any]


@dataclass
class _Kept:
    """What was read of one database. `newest`: its last publication's row, `tag_ids`: as of then.

    Numbers mean something in this database only: in one that was restored from a backup they are
    given out a second time.
    """

    newest: tuple[Any, ...] | None = None
    tag_ids: Mapping[str, int] = field(default_factory=dict)
    questions: dict[str, _Question] = field(default_factory=dict)
    sources: dict[int, _Source] = field(default_factory=dict)
    reasons: dict[int, tuple[str, ...]] = field(default_factory=dict)


class Lookups:
    """Answers look-ups. Safe between threads. `readable`: the catalogue's part of the answer."""

    def __init__(self, readable: Readable) -> None:
        self._readable = readable
        self._kept = _Kept()

    def tag_ids(self, connection: Connection) -> Mapping[str, int]:
        """Ids by name of all tags that were ever published."""
        return self._current(connection).tag_ids

    def profile(
        self, connection: Connection, key: bytes, customer: str, purpose: str, now: datetime
    ) -> Profile:
        """All tags of one customer that may be read for `purpose` at `now`, by name.

        Consent, opt-out and tags are of one moment. Raises StoreError if no consent is known yet.
        """
        given = {"key": key, "purpose": purpose, "moment": microseconds(now)}
        kept = self._kept
        for _ in range(ATTEMPTS):  # a publication may bring a tag that the statement lacks
            question = self._question(connection, kept, purpose)
            rows = connection.execute(question.statement, given).all()
            if not rows:
                known_state(connection)
                raise StoreError("the profile store was changed meanwhile; repeat")
            standing = rows[0]
            if standing.newest == question.newest:
                break
            kept = self._current(connection)
        else:
            raise StoreError("tags are being published too often to be read; repeat")
        consent, opted_out = bool(standing.consent), bool(standing.opted_out)
        found = [row for row in rows if consent and not opted_out and row.tag_id is not None]
        tags = _records(connection, kept, question, found, customer, day(now))
        return Profile(customer, purpose, consent, opted_out, tags)

    def _current(self, connection: Connection) -> _Kept:
        """What is known, brought up to the last publication."""
        kept = self._kept
        row = connection.execute(_NEWEST).one_or_none()
        newest = None if row is None else tuple(row)
        if newest == kept.newest:
            return kept
        # What is in memory of an earlier publication holds as long as that one is still there.
        same = kept.newest is not None and _publication(connection, kept.newest[0]) == kept.newest
        tag_ids = {row.text: row.id for row in connection.execute(_TAG_IDS)}
        if same:
            kept = _Kept(newest, tag_ids, {}, kept.sources, kept.reasons)
        else:
            kept = _Kept(newest, tag_ids)
        self._kept = kept
        return kept

    def _question(self, connection: Connection, kept: _Kept, purpose: str) -> _Question:
        question = kept.questions.get(purpose)
        if question is not None:
            return question
        known = kept.tag_ids
        names = {known[name]: name for name in self._readable(purpose) if name in known}
        newest = None if kept.newest is None else kept.newest[_RUN]
        question = _Question(newest, names, _statement(sorted(names)))
        if len(kept.questions) < 1000:  # a purpose is any text
            kept.questions[purpose] = question
        return question


def _records(
    connection: Connection,
    kept: _Kept,
    question: _Question,
    rows: Sequence[Row[Any]],
    customer: str,
    today: date,
) -> tuple[TagRecord, ...]:
    sources = _sources_of(connection, kept, {row.publication_id for row in rows})
    reasons = _reasons_of(connection, kept, {row.reasons_id for row in rows} - {None})
    found = []
    for row in rows:
        tag_id, value, score, reasons_id, publication_id = row[-len(_VALUES) :]
        source = sources[publication_id]
        until = source.until[tag_id]
        if until < today:
            continue
        why = () if reasons_id is None else reasons[reasons_id]
        name = question.names[tag_id]
        found.append(TagRecord(customer, name, value, score, why, until, source.provenance))
    return tuple(sorted(found, key=lambda one: one.tag))


def _sources_of(connection: Connection, kept: _Kept, numbers: set[int]) -> Mapping[int, _Source]:
    for number in numbers - kept.sources.keys():
        kept.sources[number] = _source(connection, number)
    return kept.sources


def _reasons_of(
    connection: Connection, kept: _Kept, numbers: set[int]
) -> Mapping[int, tuple[str, ...]]:
    wanted = numbers - kept.reasons.keys()
    if not wanted:
        return kept.reasons
    query = select(terms.c.id, terms.c.text).where(terms.c.id.in_(sorted(wanted)))
    read = {row.id: reason_codes(row.text) for row in connection.execute(query)}
    if len(kept.reasons) < MOST_REASONS:
        kept.reasons.update(read)
    return {**{one: kept.reasons[one] for one in numbers - wanted}, **read}


def _publication(connection: Connection, number: int) -> tuple[Any, ...] | None:
    query = select(publications).where(publications.c.id == number)
    row = connection.execute(query).one_or_none()
    return None if row is None else tuple(row)


def _source(connection: Connection, number: int) -> _Source:
    row = connection.execute(select(publications).where(publications.c.id == number)).one()
    named = select(publication_tags.c.tag_id, publication_tags.c.valid_until).where(
        publication_tags.c.publication_id == number
    )
    return _Source(
        provenance(row), {row.tag_id: row.valid_until for row in connection.execute(named)}
    )


def _statement(tags: Sequence[int]) -> Select[Any]:
    """One row for each of the customer's tags, or one without a tag; none if no consent is known.

    Tags are numbers of this store, so they stand in the text: put in as values, they would be
    written into it anew at each look-up.
    """
    numbers: list[ColumnElement[Any]] = [literal_column(str(one)) for one in tags or (-1,)]
    asked = STANDING.subquery("standing")
    theirs = and_(
        tag_values.c.customer_key == KEY,
        tag_values.c.tag_id.in_(numbers),
        or_(asked.c.asserted, asked.c.decided),
        not_(asked.c.opted_out),
    )
    return select(
        or_(asked.c.asserted, asked.c.decided).label("consent"),
        asked.c.opted_out,
        asked.c.newest,
        *(tag_values.c[name] for name in _VALUES),
    ).select_from(asked.outerjoin(tag_values, theirs))


_VALUES = ("tag_id", "value", "score", "reasons_id", "publication_id")
_NEWEST = select(publications).order_by(publications.c.id.desc()).limit(1)
_RUN = list(publications.c.keys()).index("run_id")
_TAG_IDS = (
    select(terms.c.text, terms.c.id)
    .join_from(publication_tags, terms, terms.c.id == publication_tags.c.tag_id)
    .distinct()
)
