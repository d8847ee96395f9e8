"""One party's profile store: the tags of its own customers, with provenance and history.

Everything here stays inside the party. Tags of one run appear together or not at all: `publish`
is one transaction, and so is `withdraw`. Only Core expressions that every SQLAlchemy database
understands are used; SQLite is the embedded default.
"""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    Connection,
    Row,
    Select,
    delete,
    insert,
    literal,
    make_url,
    select,
)
from sqlalchemy.exc import IntegrityError

from models.tags import JOINT_TAGS
from party_client.profile_tables import (
    MAX_CUSTOMER_CHARACTERS,
    publications,
    tag_history,
    tag_values,
)
from privacy.errors import StoreError
from privacy.hosting.database import open_engine, reading, store_errors
from privacy.hosting.migrations import upgrade_engine

MIGRATIONS = Path(__file__).parent / "migrations"
CHUNK = 1000  # rows a statement; well below every database's limit of bound values
TagRow = tuple[str, str, str, float]


@dataclass(frozen=True)
class Publication:
    """Where the tags of one run come from, and how long they hold.

    Digests are SHA-256 in hex. `epsilon` at `delta` is what the run cost a customer at this party.
    `valid_until` is the last day (UTC) on which the tags may be used.
    """

    run_id: str
    plan_digest: str
    model_digest: str
    parties: tuple[str, ...]
    epsilon: float
    delta: float
    published_at: datetime
    as_of: date
    valid_until: date
    status: str = "published"


@dataclass(frozen=True)
class TagRecord:
    """One tag of one customer, with its provenance."""

    customer: str
    tag: str
    value: str
    score: float
    valid_until: date
    status: Literal["valid", "expired"]
    publication: Publication


class ProfileStore:
    """Tags by customer, unique on (customer, tag).

    Creates or upgrades its database when opened. A new SQLite file is readable by its owner only.
    Every error is a StoreError (ConfigError for a URL that cannot be used) and holds no
    customer's data.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        _create_private_file(url)
        upgrade_engine(self._engine, MIGRATIONS)

    def close(self) -> None:
        """Give up all connections."""
        self._engine.dispose()

    def publish(
        self,
        publication: Publication,
        rows: Iterable[TagRow],
        *,
        consented: Container[str] | None = None,
    ) -> None:
        """Write one run's tags, all or none; what they replace goes to the history.

        `rows` are (customer, tag, value, score), read once, a chunk at a time. With `consented`,
        every stored tag of a customer outside it is removed in the same transaction, and a row
        for one is an error. Publishing a run a second time changes no tag, so it may be repeated
        after a crash; under another plan or model it is an error.
        """
        with store_errors(), self._engine.begin() as connection:
            if not _already_published(connection, publication):
                connection.execute(insert(publications).values(_stored(publication)))
                iterator = iter(rows)
                while chunk := list(islice(iterator, CHUNK)):
                    _write(connection, publication, chunk, consented)
            if consented is not None:
                _remove(connection, _without_consent(connection, consented))

    def show(self, customer: str, *, today: date | None = None) -> list[TagRecord]:
        """All tags of one customer by name; an expired one is marked by its status."""
        query = _records().where(tag_values.c.customer == customer).order_by(tag_values.c.tag)
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [_record(row, _day(today)) for row in rows]

    def export(
        self, tag: str, value: str | None = None, *, today: date | None = None
    ) -> Iterator[TagRecord]:
        """Every customer's `tag` (that has `value`, if given) in the order of customers.

        Expired tags are left out. One statement answers it all, so a run that is published
        meanwhile shows up wholly or not at all.
        """
        day = _day(today)
        query = _records().where(tag_values.c.tag == tag, tag_values.c.valid_until >= day)
        if value is not None:
            query = query.where(tag_values.c.value == value)
        with store_errors(), reading(self._engine) as connection:
            for page in connection.execute(query.order_by(tag_values.c.customer)).partitions(CHUNK):
                for row in page:
                    yield _record(row, day)

    def withdraw(self, customers: Iterable[str]) -> None:
        """Remove all tags of these customers, in one transaction; their history goes too.

        This does not unlearn them from any model.
        """
        with store_errors(), self._engine.begin() as connection:
            _remove(connection, customers)


def _create_private_file(url: str) -> None:
    """SQLite would make its file by the umask; its side files take over the mode found here."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return
    try:
        os.close(os.open(parsed.database, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(
            f"the profile store's file cannot be opened ({error.strerror}); check "
            "profile_store.url in party.toml and the permissions of its folder"
        ) from error


def _already_published(connection: Connection, publication: Publication) -> bool:
    query = select(publications.c.plan_digest, publications.c.model_digest).where(
        publications.c.run_id == publication.run_id
    )
    found = connection.execute(query).one_or_none()
    if found is None:
        return False
    if tuple(found) != (publication.plan_digest, publication.model_digest):
        raise StoreError(
            f"run {publication.run_id} has published its tags already, under another plan or "
            "model; a run is never published over: start a new run"
        )
    return True


def _write(
    connection: Connection,
    publication: Publication,
    rows: Sequence[TagRow],
    consented: Container[str] | None,
) -> None:
    by_tag: dict[str, list[str]] = {}
    values: list[dict[str, Any]] = []
    for customer, tag, value, score in rows:
        _check_row(customer, tag, value, score)
        if consented is not None and customer not in consented:
            raise StoreError("a tag was offered for a customer without consent; nothing is written")
        by_tag.setdefault(tag, []).append(customer)
        values.append(
            {
                "customer": customer,
                "tag": tag,
                "value": value,
                "score": float(score),
                "run_id": publication.run_id,
                "valid_until": publication.valid_until,
            }
        )
    kept = ("customer", "tag", "value", "score", "run_id", "valid_until")
    for tag, customers in by_tag.items():
        # This run's own rows are never replaced: a second one for a customer meets the key below.
        replaced = (
            (tag_values.c.tag == tag)
            & tag_values.c.customer.in_(customers)
            & (tag_values.c.run_id != publication.run_id)
        )
        earlier = select(*(tag_values.c[name] for name in kept), literal(publication.run_id)).where(
            replaced
        )
        connection.execute(insert(tag_history).from_select([*kept, "replaced_by"], earlier))
        connection.execute(delete(tag_values).where(replaced))
    try:
        connection.execute(insert(tag_values), values)
    except IntegrityError:
        raise StoreError(
            "two rows for one customer and one tag; nothing is written: a customer has exactly "
            "one row, run the data check"
        ) from None


def _check_row(customer: str, tag: str, value: str, score: float) -> None:
    if not 0 < len(customer) <= MAX_CUSTOMER_CHARACTERS:
        raise StoreError(f"a customer id has 1 to {MAX_CUSTOMER_CHARACTERS} characters")
    definition = JOINT_TAGS.get(tag)
    if definition is None:
        raise StoreError(f"only known tags are stored; known are {', '.join(JOINT_TAGS)}")
    if value not in definition.values:
        raise StoreError(f"tag {tag}: a value is one of {', '.join(definition.values)}")
    if not (math.isfinite(score) and 0 <= score <= 1):
        raise StoreError(f"tag {tag}: a score is a number from 0 to 1")


def _without_consent(connection: Connection, consented: Container[str]) -> list[str]:
    found = connection.execute(select(tag_values.c.customer).distinct())
    return [customer for (customer,) in found if customer not in consented]


def _remove(connection: Connection, customers: Iterable[str]) -> None:
    iterator = iter(customers)
    while chunk := list(islice(iterator, CHUNK)):
        for table in (tag_values, tag_history):
            connection.execute(delete(table).where(table.c.customer.in_(chunk)))


def _records() -> Select[Any]:
    provenance = [column for column in publications.c if column.name not in tag_values.c]
    return select(tag_values, *provenance).join_from(tag_values, publications)


def _stored(publication: Publication) -> dict[str, Any]:
    moment = publication.published_at.astimezone(UTC).replace(tzinfo=None, microsecond=0)
    return {
        **{column.name: getattr(publication, column.name) for column in publications.c},
        "parties": list(publication.parties),
        "published_at": moment,
    }


def _record(row: Row[Any], today: date) -> TagRecord:
    return TagRecord(
        customer=row.customer,
        tag=row.tag,
        value=row.value,
        score=row.score,
        valid_until=row.valid_until,
        status="expired" if row.valid_until < today else "valid",
        publication=Publication(
            run_id=row.run_id,
            plan_digest=row.plan_digest,
            model_digest=row.model_digest,
            parties=tuple(row.parties),
            epsilon=row.epsilon,
            delta=row.delta,
            published_at=row.published_at.replace(tzinfo=UTC),
            as_of=row.as_of,
            valid_until=row.valid_until,
            status=row.status,
        ),
    )


def _day(today: date | None) -> date:
    return datetime.now(UTC).date() if today is None else today
