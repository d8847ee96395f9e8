"""Alerts: raised once when something begins to be wrong, resolved when it no longer is.

An alert is a kind and a subject (a party, a run). It holds public facts only: what a party
disclosed, states of runs and nodes, which check failed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Row, and_, case, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from coordinator.alert_tables import alerts
from coordinator.run_store import MIGRATIONS
from coordinator.settings import CoordinatorSettings
from privacy.hosting import webhooks
from privacy.hosting.credentials import resolve_secret
from privacy.hosting.database import open_engine, reading, store_errors, utc_now
from privacy.hosting.migrations import upgrade_engine

logger = logging.getLogger(__name__)


class Kind(StrEnum):
    """What people are warned of. A subject is a party's name, a run's id or `audit log`."""

    BUDGET_LOW = "budget-low"
    PARTY_SILENT = "party-silent"
    RUN_STALLED = "run-stalled"
    VERIFICATION_FAILED = "verification-failed"


@dataclass(frozen=True)
class Alert:
    """One alert. `told`: how many of its events the webhook has taken (1: that it was raised, 2:
    that it was resolved, too)."""

    number: int
    kind: Kind
    subject: str
    message: str
    raised_at: datetime
    resolved_at: datetime | None
    told: int

    @property
    def open(self) -> bool:
        """Whether it is still wrong, as far as was seen."""
        return self.resolved_at is None


Findings = Mapping[tuple[Kind, str], str]


class AlertStore:
    """The alerts in the coordinator's database. Raises StoreError if it cannot be used."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        upgrade_engine(self._engine, MIGRATIONS)

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def observe(self, looked_at: AbstractSet[Kind], findings: Findings) -> Sequence[Alert]:
        """Raise what is wrong now and was not, resolve what was and no longer is.

        Of a kind that is not in `looked_at` nothing is known now, so nothing changes. Returns what
        was raised. Safe if several processes look at the same moment.
        """
        now = utc_now()
        wrong = {_key(kind, subject): (kind, subject) for kind, subject in findings}
        raised: list[Alert] = []
        known = {_key(one.kind, one.subject): one for one in self.open()}
        for key, (kind, subject) in wrong.items():
            if key not in known and kind in looked_at:
                raised += self._raise(key, kind, subject, findings[kind, subject], now)
        over = [
            one.number for key, one in known.items() if one.kind in looked_at and key not in wrong
        ]
        if over:
            with store_errors(), self._engine.begin() as connection:
                connection.execute(
                    update(alerts)
                    .where(alerts.c.number.in_(over), alerts.c.resolved_at.is_(None))
                    .values(resolved_at=now, open_key=None, attempts=0, next_attempt_at=None)
                )
        return raised

    def open(self) -> Sequence[Alert]:
        """Everything that is wrong now, the newest first."""
        query = select(alerts).where(alerts.c.open_key.is_not(None))
        return self._read(query.order_by(alerts.c.number.desc()))

    def page(self, before: int | None = None, limit: int = 50) -> Sequence[Alert]:
        """Alerts, open or not, the newest first; those with a number below `before`."""
        query = select(alerts)
        if before is not None:
            query = query.where(alerts.c.number < before)
        return self._read(query.order_by(alerts.c.number.desc()).limit(limit))

    def counts(self) -> Mapping[Kind, int]:
        """How many are open, by kind; every kind is in it."""
        query = select(alerts.c.kind, func.count()).where(alerts.c.open_key.is_not(None))
        with store_errors(), reading(self._engine) as connection:
            rows = connection.execute(query.group_by(alerts.c.kind))
            found = {row[0]: row[1] for row in rows}
        return {kind: found.get(kind.value, 0) for kind in Kind}

    def deliver(self, settings: CoordinatorSettings) -> int:
        """Send what is due to the webhook of the settings, until one event does not arrive; how
        many did. Raises ConfigError for a URL or secret that cannot be used."""
        if not settings.alerts.url:
            return 0
        url = webhooks.check_url(settings.alerts.url, "alerts.url")
        text = resolve_secret(settings.alerts.secret, settings.home)
        key = webhooks.parse_key(text, "alerts.secret")
        delivered = 0
        with webhooks.open_client() as client:
            for row in self._due():
                alert, resolved = _alert(row), row.told == 1
                event = f"alert-{alert.number}-{'resolved' if resolved else 'raised'}"
                body = _body(settings.federation, alert, resolved=resolved)
                problem = webhooks.send(client, url, key, event, body)
                if problem is not None:
                    logger.warning("webhook: %s was not delivered (%s)", event, problem)
                    self._put_off(row)
                    break
                self._told(row)
                delivered += 1
        return delivered

    def _raise(
        self, key: str, kind: Kind, subject: str, message: str, now: datetime
    ) -> Sequence[Alert]:
        values = {
            "kind": kind.value,
            "subject": subject[:127],
            "message": message,
            "open_key": key,
            "raised_at": now,
        }
        try:
            with store_errors(), self._engine.begin() as connection:
                try:
                    number = connection.execute(insert(alerts).values(values)).inserted_primary_key
                except IntegrityError:  # another process saw it at the same moment
                    connection.rollback()
                    return []
        finally:
            logger.warning("alert: %s", message)
        assert number is not None
        return [Alert(number[0], kind, subject[:127], message, now, None, 0)]

    def _due(self) -> Sequence[Row[tuple[object, ...]]]:
        wanted = case((alerts.c.resolved_at.is_(None), 1), else_=2)
        when = or_(alerts.c.next_attempt_at.is_(None), alerts.c.next_attempt_at <= utc_now())
        query = select(alerts).where(and_(alerts.c.told < wanted, when))
        with store_errors(), reading(self._engine) as connection:
            return connection.execute(query.order_by(alerts.c.number).limit(100)).all()

    def _told(self, row: Row[tuple[object, ...]]) -> None:
        self._change(row, told=row.told + 1, attempts=0, next_attempt_at=None)

    def _put_off(self, row: Row[tuple[object, ...]]) -> None:
        delay = webhooks.retry_delay(row.attempts)
        self._change(row, attempts=row.attempts + 1, next_attempt_at=utc_now() + delay)

    def _change(self, row: Row[tuple[object, ...]], **values: object) -> None:
        with store_errors(), self._engine.begin() as connection:
            connection.execute(
                update(alerts)
                .where(alerts.c.number == row.number, alerts.c.told == row.told)
                .values(**values)
            )

    def _read(self, query: object) -> Sequence[Alert]:
        with store_errors(), reading(self._engine) as connection:
            return [_alert(row) for row in connection.execute(query)]  # type: ignore[call-overload]


def _key(kind: Kind, subject: str) -> str:
    return f"{kind.value}:{subject[:127]}"


def _alert(row: Row[tuple[object, ...]]) -> Alert:
    return Alert(
        number=row.number,
        kind=Kind(row.kind),
        subject=row.subject,
        message=row.message,
        raised_at=row.raised_at,
        resolved_at=row.resolved_at,
        told=row.told,
    )


def _body(federation: str, alert: Alert, *, resolved: bool) -> bytes:
    at = alert.resolved_at if resolved else alert.raised_at
    assert at is not None
    data = {
        "federation": federation,
        "number": alert.number,
        "kind": alert.kind.value,
        "subject": alert.subject,
        "message": alert.message,
    }
    return webhooks.body_of(f"alert.{'resolved' if resolved else 'raised'}", at, data)
