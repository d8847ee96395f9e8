"""The outbox: what a webhook will tell, written in the transaction of the change that it tells.

An event says that something changed and where to read it; whoever gets it asks for the customers
themselves (`tags export --since RUN`). Only an opt-out names its customer, sealed until it is
delivered and erased then.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, or_, select, update

from party_client.profile_records import Event
from party_client.profile_tables import outbox
from privacy.hosting.sealing import Column

TAGS_CHANGED = "tags.changed"
CONSENT_CHANGED = "consent.changed"
CUSTOMER_OPTED_OUT = "customer.opted_out"
AT_ONCE = 100


def add_event(
    connection: Connection,
    kind: str,
    data: Mapping[str, Any],
    now: datetime,
    sealed: tuple[Column, str] | None = None,
) -> None:
    """Note an event; `sealed`: the outbox's sealed column and the customer whom it names."""
    event_id = f"evt_{secrets.token_hex(16)}"
    moment = _plain(now)
    customer = None if sealed is None else sealed[0].seal(event_id.encode(), sealed[1])
    connection.execute(
        insert(outbox).values(
            event_id=event_id,
            type=kind,
            created_at=moment,
            data=json.dumps(data),
            sealed_customer=customer,
            attempts=0,
            next_attempt_at=moment,
            delivered_at=None,
        )
    )


def due_events(connection: Connection, column: Column, now: datetime) -> list[Event]:
    """At most AT_ONCE events that were not delivered and may be tried now, the oldest first."""
    query = (
        select(outbox)
        .where(
            outbox.c.delivered_at.is_(None),
            or_(outbox.c.attempts == 0, outbox.c.next_attempt_at <= _plain(now)),
        )
        .order_by(outbox.c.id)
        .limit(AT_ONCE)
    )
    found = []
    for row in connection.execute(query).all():
        data = json.loads(row.data)
        if row.sealed_customer is not None:
            data["customer"] = column.open(row.event_id.encode(), row.sealed_customer)
        made = row.created_at.replace(tzinfo=UTC)
        found.append(Event(row.id, row.event_id, row.type, made, data, row.attempts))
    return found


def any_waiting(connection: Connection) -> bool:
    """Whether some event was not delivered yet, due or not."""
    query = select(outbox.c.id).where(outbox.c.delivered_at.is_(None)).limit(1)
    return connection.execute(query).first() is not None


def note_delivered(connection: Connection, event_id: str, now: datetime) -> None:
    """The event has arrived: it is never sent again, and the customer it names is erased."""
    connection.execute(
        update(outbox)
        .where(outbox.c.event_id == event_id)
        .values(delivered_at=_plain(now), sealed_customer=None, attempts=outbox.c.attempts + 1)
    )


def note_failed(connection: Connection, event_id: str, retry_at: datetime) -> None:
    """The event has not arrived; it may be tried again from `retry_at` on."""
    connection.execute(
        update(outbox)
        .where(outbox.c.event_id == event_id)
        .values(next_attempt_at=_plain(retry_at), attempts=outbox.c.attempts + 1)
    )


def _plain(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
