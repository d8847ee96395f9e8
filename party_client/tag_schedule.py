"""Which local tags are due: what was computed when, from what, in HOME/local_tags.json.

The file never leaves the node. It holds days and two hashes, no customer and no count; without it
every tag is due.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.plan import describe_validation_error
from models.tag_catalogue import Catalogue, CatalogueTag
from party_client.durable_file import replace_durably
from party_client.readers import Connection, data_errors
from party_client.sources import Source, SourceView
from privacy.errors import StoreError

FILE_NAME = "local_tags.json"


class LastRefresh(BaseModel):
    """rules, events: digests of the catalogue and of what was read. days: tag -> last refresh."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: str = ""
    events: str = ""
    days: Mapping[str, date] = Field(default_factory=dict)


def due_tags(catalogue: Catalogue, last: LastRefresh, events: str, today: date) -> frozenset[str]:
    """The local tags to compute now.

    All, when the catalogue has changed; a tag that was never computed, or half of whose validity
    has passed; an event tag, when the source reads otherwise than at the last refresh.
    """
    changed = events != last.events
    return frozenset(
        tag.name
        for tag in catalogue.tags
        if tag.computed
        and (
            last.rules != catalogue.digest
            or (changed and tag.update == "event")
            or _half_over(tag, last.days.get(tag.name), today)
        )
    )


def _half_over(tag: CatalogueTag, computed: date | None, today: date) -> bool:
    return computed is None or today >= computed + timedelta(days=max(1, tag.valid_days // 2))


def events_digest(source: Source, catalogue: Catalogue) -> str:
    """A digest of the events that local tags are computed from, with consent as it is now.

    It is the same for the same rows in another order.
    """

    def look(connection: Connection, view: SourceView) -> str:
        if view.events is None:
            return ""
        with data_errors("the event log"):
            row = connection.execute(
                "SELECT count(*), sum(hash(customer, time, amount_cents, type, category, channel)"
                f"::HUGEINT) FROM {view.events}"
            ).fetchone()
        return repr(row)

    purposes = sorted({one for tag in catalogue.tags if tag.computed for one in tag.purposes})
    found = [f"{purpose} {source.inspect(look, purpose)}" for purpose in purposes]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def read_last(home: Path) -> LastRefresh:
    """What HOME says of the last refresh. Raises StoreError for a file that is damaged."""
    path = home / FILE_NAME
    try:
        return LastRefresh.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return LastRefresh()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise StoreError(
            describe_validation_error(f"file {path}", error) + "\nremove it: all tags are due then"
        ) from error


def write_last(
    home: Path, catalogue: Catalogue, events: str, tags: tuple[str, ...], today: date
) -> None:
    """Note that `tags` were computed today from these events. Raises StoreError."""
    before = read_last(home).days
    days = {name: day for name, day in before.items() if name in catalogue}
    last = LastRefresh(
        rules=catalogue.digest, events=events, days={**days, **dict.fromkeys(tags, today)}
    )
    try:
        replace_durably(home / FILE_NAME, last.model_dump_json().encode())
    except OSError as error:
        raise StoreError(f"{home / FILE_NAME} cannot be written ({error.strerror})") from error
