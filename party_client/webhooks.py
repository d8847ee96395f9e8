"""Sends the outbox's events to a system of the party's own (`privacy.hosting.webhooks`)."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from party_client.profile_records import Event
from party_client.profile_store import ProfileStore
from party_client.settings import PartySettings
from privacy.hosting import webhooks
from privacy.hosting.credentials import resolve_secret
from privacy.hosting.webhooks import RETRY_AFTER, retry_delay, signature

__all__ = ["RETRY_AFTER", "body_of", "deliver_pending", "signature", "webhook_key"]

LOG = logging.getLogger(__name__)


def deliver_pending(store: ProfileStore, settings: PartySettings) -> int:
    """Send what is due, oldest first, until one event cannot be delivered; how many arrived.

    Without a webhook in the settings nothing is sent. Raises ConfigError for a URL or a secret that
    cannot be used.
    """
    if settings.webhook is None:
        return 0
    url = webhooks.check_url(settings.webhook.url, "webhook.url")
    key = webhook_key(settings)
    delivered = 0
    with webhooks.open_client() as client:
        while events := store.pending_events():
            for event in events:
                problem = webhooks.send(client, url, key, event.event_id, body_of(event))
                if problem is not None:
                    delay = retry_delay(event.attempts)
                    store.mark_failed(event.event_id, datetime.now(UTC) + delay)
                    LOG.warning("webhook: %s was not delivered (%s)", event.event_id, problem)
                    return delivered
                store.mark_delivered(event.event_id)
                delivered += 1
    return delivered


def webhook_key(settings: PartySettings) -> bytes:
    """The bytes that sign. Raises ConfigError for a secret of another form."""
    assert settings.webhook is not None
    text = resolve_secret(settings.webhook.secret, settings.home)
    return webhooks.parse_key(text, "webhook.secret")


def body_of(event: Event) -> bytes:
    """The JSON that is sent."""
    return webhooks.body_of(event.type, event.created_at, event.data)
