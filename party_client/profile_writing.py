"""Writing one publication: its tags are staged in a temporary table and merged set by set.

The merge takes all rows of a tag in the order of customers' keys, so every page of the store is
written once, whatever the order in which the batches came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, timedelta
from itertools import repeat
from operator import itemgetter
from typing import Any

import numpy as np
from sqlalchemy import (
    Connection,
    Integer,
    Select,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from models.tag_catalogue import Catalogue, CatalogueTag
from party_client.profile_bulk import (
    DuplicateRow,
    bulk_load,
    known_keys,
    prepare,
    settle,
    temporary,
)
from party_client.profile_consent import ConsentState, remove_unstaged, stands_for_any
from party_client.profile_records import Publication, Published, TagBatch
from party_client.profile_tables import (
    MAX_CUSTOMER_CHARACTERS,
    customers,
    opt_outs,
    publication_tags,
    publications,
    staged,
    tag_history,
    tag_values,
    terms,
)
from privacy.errors import StoreError
from privacy.hosting.sealing import Column, Index

MAX_REASONS_CHARACTERS = 255
_KEPT = ("publication_id", "tag_id", "customer_key", "value", "score", "reasons_id")
_HISTORY = (*_KEPT, "replaced_by")


def already_published(connection: Connection, publication: Publication) -> bool:
    """Whether this run's tags are there. StoreError if they are of another plan or model."""
    query = select(
        publications.c.kind, publications.c.plan_digest, publications.c.model_digest
    ).where(publications.c.run_id == publication.run_id)
    found = connection.execute(query).one_or_none()
    if found is None:
        return False
    if tuple(found) != (publication.kind, publication.plan_digest, publication.model_digest):
        raise StoreError(
            f"run {publication.run_id} has published its tags already, under another plan or "
            "model; a run is never published over: start a new run"
        )
    return True


def write_publication(
    connection: Connection,
    publication: Publication,
    batches: Iterable[TagBatch],
    catalogue: Catalogue,
    state: ConsentState,
    index: Index,
    column: Column,
) -> Published:
    """Write all of a publication in the transaction of `connection`.

    Raises StoreError for a row that is no tag of the catalogue, and for two rows of one customer.
    """
    prepare(connection)
    with temporary(connection, staged):
        writer = _Writer(connection, catalogue, index, column)
        try:
            for batch in batches:
                writer.stage(batch)
        except DuplicateRow:
            raise StoreError(
                "two rows for one customer and one tag; nothing is written: a customer has exactly "
                "one row, run the data check"
            ) from None
        settle(connection, staged)
        unconsented = _drop_unconsented(connection, writer.tags, state, publication)
        if unconsented and writer.sealed:
            remove_unstaged(connection, writer.sealed)
        number = _insert_publication(connection, publication, state, writer.tags)
        written = _merge(connection, number, removes=writer.removes)
        if publication.kind == "local":
            _retire(connection, number, list(writer.tags))
    names = tuple(tag.name for tag in writer.tags.values())
    return Published(written, writer.opted_out, unconsented, names)


class _Writer:
    """Checks, keys and stages batches. `tags`: by id, those that were met. `sealed`: the keys of
    customers who are new."""

    def __init__(
        self, connection: Connection, catalogue: Catalogue, index: Index, column: Column
    ) -> None:
        self._connection, self._catalogue = connection, catalogue
        self._index, self._column = index, column
        self._terms: dict[str, int] = {
            text: number for number, text in connection.execute(select(terms.c.id, terms.c.text))
        }
        self._tombstones = {
            bytes(key) for (key,) in connection.execute(select(opt_outs.c.customer_key))
        }
        self._customers: Sequence[str] | None = None
        self._order: list[int] = []
        self._keys: list[bytes] = []
        self.tags: dict[int, CatalogueTag] = {}
        self.sealed: list[bytes] = []
        self.opted_out = 0
        self.removes = False

    def stage(self, batch: TagBatch) -> None:
        """Put one batch's rows into the temporary table, in the order of their keys."""
        tag = self._checked(batch)
        number = self._numbered({tag.name})[tag.name]
        self.tags[number] = tag
        if batch.customers is not self._customers:
            self._take(batch.customers)
        self.opted_out += len(batch.customers) - len(self._order)
        scores = None if batch.scores is None else _scores(tag, batch.scores)
        reasons = None
        if batch.reasons is not None:
            numbers = self._numbered(set(batch.reasons))
            reasons = [numbers[text] for text in batch.reasons]
        rows = zip(
            repeat(number),
            self._keys,
            self._ordered(batch.values),
            self._ordered(scores),
            self._ordered(reasons),
            strict=False,
        )
        bulk_load(self._connection, staged, rows)

    def _checked(self, batch: TagBatch) -> CatalogueTag:
        tag = self._catalogue.get(batch.tag)
        if tag is None or tag.state != "listed" or tag.value_type == "group":
            raise StoreError(
                "only tags that the catalogue lists are stored; "
                "`fedtags-party tags catalogue` shows them"
            )
        wanted = len(batch.customers)
        for given in (batch.values, batch.scores, batch.reasons):
            if given is not None and len(given) != wanted:
                raise StoreError(f"tag {tag.name}: a batch has one entry for each customer")
        values = set(batch.values)
        self.removes = self.removes or None in values
        for value in values:
            if value is not None and not tag.accepts(value):
                raise StoreError(
                    f"tag {tag.name}: a value is not one that the catalogue names for it"
                )
        for reasons in set(batch.reasons or ()):
            if len(reasons) > MAX_REASONS_CHARACTERS or not reasons.isascii():
                raise StoreError(f"tag {tag.name}: reasons are codes, separated by commas")
        return tag

    def _take(self, given: Sequence[str]) -> None:
        """Key these customers, seal those whom the store has not seen, leave out opted-out ones."""
        longest, shortest = max(map(len, given), default=1), min(map(len, given), default=1)
        if not 0 < shortest <= longest <= MAX_CUSTOMER_CHARACTERS:
            raise StoreError(f"a customer id has 1 to {MAX_CUSTOMER_CHARACTERS} characters")
        try:
            keys = [self._index.key(customer) for customer in given]
        except UnicodeEncodeError:
            raise StoreError("a customer id is not text; check the source's encoding") from None
        order = sorted(range(len(keys)), key=keys.__getitem__)
        if self._tombstones:
            order = [place for place in order if keys[place] not in self._tombstones]
        self._order = order
        self._keys = [keys[place] for place in order]
        self._customers = given
        known = known_keys(self._connection, customers.c.customer_key, self._keys)
        new = [
            (key, given[place])
            for key, place in zip(self._keys, order, strict=True)
            if key not in known
        ]
        seal = self._column.seal
        bulk_load(self._connection, customers, ((key, seal(key, text)) for key, text in new))
        self.sealed += [key for key, _ in new]

    def _numbered(self, texts: set[str]) -> Mapping[str, int]:
        """The numbers of all known texts, after those of `texts` that are new have got theirs."""
        new = sorted(texts - self._terms.keys())
        if new:
            newest = max(self._terms.values(), default=0)
            self._connection.execute(insert(terms), [{"text": text} for text in new])
            # Nobody else writes meanwhile, and numbers only ever rise.
            added = select(terms.c.id, terms.c.text).where(terms.c.id > newest)
            self._terms.update({text: number for number, text in self._connection.execute(added)})
        return self._terms

    def _ordered(self, values: Sequence[Any] | None) -> Iterable[Any]:
        if values is None:
            return repeat(None)
        if len(self._order) < 2:
            return [values[place] for place in self._order]
        picked: tuple[Any, ...] = itemgetter(*self._order)(values)
        return picked


def _scores(tag: CatalogueTag, scores: Sequence[float]) -> list[float]:
    numbers = np.asarray(scores, dtype=np.float64)
    if numbers.ndim != 1 or not bool(np.all((numbers >= 0.0) & (numbers <= 1.0))):
        raise StoreError(f"tag {tag.name}: a score is a number from 0 to 1")
    found: list[float] = numbers.tolist()
    return found


def _drop_unconsented(
    connection: Connection,
    tags: Mapping[int, CatalogueTag],
    state: ConsentState,
    publication: Publication,
) -> int:
    """Unstage the tags of customers who consent to none of the tag's purposes; how many."""
    if state.asserted:
        return 0
    dropped, groups = 0, tags_by_purposes(tags)
    for purposes, numbers in groups.items():
        allowed = stands_for_any(state, staged.c.customer_key, purposes, publication.published_at)
        done = connection.execute(delete(staged).where(staged.c.tag_id.in_(numbers), ~allowed))
        dropped += done.rowcount
    return dropped


def tags_by_purposes(tags: Mapping[int, CatalogueTag]) -> dict[tuple[str, ...], list[int]]:
    """The tags' ids by their purposes: tags for the same purposes are asked about together."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, tag in sorted(tags.items()):
        groups.setdefault(tuple(sorted(tag.purposes)), []).append(number)
    return groups


def _insert_publication(
    connection: Connection,
    publication: Publication,
    state: ConsentState,
    tags: Mapping[int, CatalogueTag],
) -> int:
    made = publication.published_at.astimezone(UTC)
    done = connection.execute(
        insert(publications).values(
            run_id=publication.run_id,
            kind=publication.kind,
            plan_digest=publication.plan_digest,
            model_digest=publication.model_digest,
            parties=list(publication.parties),
            epsilon=publication.epsilon,
            delta=publication.delta,
            published_at=made.replace(tzinfo=None, microsecond=0),
            as_of=publication.as_of,
            consent_receipt=state.receipt,
            status="published",
        )
    )
    primary = done.inserted_primary_key
    assert primary is not None
    number = int(primary[0])
    if tags:
        connection.execute(
            insert(publication_tags),
            [
                {
                    "publication_id": number,
                    "tag_id": tag_id,
                    "valid_until": publication.valid_until or _until(made.date(), tag),
                }
                for tag_id, tag in tags.items()
            ],
        )
    return number


def _until(day: date, tag: CatalogueTag) -> date:
    return day + timedelta(days=tag.valid_days)


def _merge(connection: Connection, number: int, *, removes: bool) -> int:
    """What changes goes to the history, then the staged rows take its place; how many rows.

    `removes`: some of them have no value.
    """
    same = and_(
        tag_values.c.tag_id == staged.c.tag_id,
        tag_values.c.customer_key == staged.c.customer_key,
    )
    changed = or_(
        tag_values.c.value.is_distinct_from(staged.c.value),
        tag_values.c.score.is_distinct_from(staged.c.score),
    )
    earlier = (
        _into_history(number)
        .join_from(staged, tag_values, same)
        .where(changed)
        .order_by(tag_values.c.publication_id, tag_values.c.tag_id, tag_values.c.customer_key)
    )
    connection.execute(insert(tag_history).from_select(_HISTORY, earlier))
    if removes:
        gone = select(staged.c.customer_key).where(same, staged.c.value.is_(None))
        connection.execute(delete(tag_values).where(exists(gone.correlate(tag_values))))
    # In this order: MariaDB computes each from what the assignments before it have left.
    moved = (
        update(tag_values)
        .where(same)
        .ordered_values(
            (
                tag_values.c.changed_id,
                case((tag_values.c.value == staged.c.value, tag_values.c.changed_id), else_=number),
            ),
            (tag_values.c.value, staged.c.value),
            (tag_values.c.score, staged.c.score),
            (tag_values.c.reasons_id, staged.c.reasons_id),
            (tag_values.c.publication_id, literal(number)),
        )
    )
    count = select(func.count()).select_from(staged).where(staged.c.value.is_not(None))
    wanted = int(connection.execute(count).scalar_one())
    if connection.execute(moved).rowcount == wanted:  # every customer had every tag
        return wanted
    new = (
        select(
            staged.c.tag_id,
            staged.c.customer_key,
            staged.c.value,
            staged.c.score,
            staged.c.reasons_id,
            cast(literal(number), Integer),
            cast(literal(number), Integer),
        )
        .where(
            staged.c.value.is_not(None),
            ~exists(select(tag_values.c.tag_id).where(same).correlate(staged)),
        )
        .order_by(staged.c.tag_id, staged.c.customer_key)
    )
    connection.execute(insert(tag_values).from_select([c.name for c in tag_values.c], new))
    return wanted


def _retire(connection: Connection, number: int, tag_ids: Sequence[int]) -> None:
    """The tags that an earlier publication left go to the history: nobody named their customers."""
    older = and_(tag_values.c.tag_id.in_(tag_ids), tag_values.c.publication_id < number)
    earlier = (
        _into_history(number)
        .where(older)
        .order_by(tag_values.c.publication_id, tag_values.c.tag_id, tag_values.c.customer_key)
    )
    connection.execute(insert(tag_history).from_select(_HISTORY, earlier))
    connection.execute(delete(tag_values).where(older))


def _into_history(number: int) -> Select[Any]:
    return select(*(tag_values.c[name] for name in _KEPT), cast(literal(number), Integer))
