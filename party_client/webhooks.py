"""Webhooks: the outbox's events, sent to a system of the party's own, signed.

As the Standard Webhooks specification has it (github.com/standard-webhooks/standard-webhooks):
headers webhook-id, webhook-timestamp and webhook-signature, HMAC-SHA256 over
`id.timestamp.body`, a secret `whsec_` + base64 of 24 to 64 bytes. An event is sent until it is
answered with 2xx, so it may arrive twice; its id stays the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx

from party_client.credentials import resolve_secret
from party_client.profile_records import Event
from party_client.profile_store import ProfileStore
from party_client.settings import LOOPBACK, PartySettings, WebhookSettings
from privacy.errors import ConfigError

LOG = logging.getLogger(__name__)
PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
TIMEOUT_S = 10.0
# After the first, second, ... failure; the last one from then on.
RETRY_AFTER = tuple(
    timedelta(seconds=one) for one in (5, 60, 300, 1800, 2 * 3600, 6 * 3600, 24 * 3600)
)


def deliver_pending(store: ProfileStore, settings: PartySettings) -> int:
    """Send what is due, oldest first, until one event cannot be delivered; how many arrived.

    Without a webhook in the settings nothing is sent. Raises ConfigError for a URL or a secret that
    cannot be used.
    """
    if settings.webhook is None:
        return 0
    url, key = _checked_url(settings.webhook), webhook_key(settings)
    delivered = 0
    # No proxy and no redirect: only the system that was named may learn who opted out.
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client:
        while events := store.pending_events():
            for event in events:
                problem = _send(client, url, key, event)
                if problem is not None:
                    delay = RETRY_AFTER[min(event.attempts, len(RETRY_AFTER) - 1)]
                    store.mark_failed(event.event_id, datetime.now(UTC) + delay)
                    LOG.warning("webhook: %s was not delivered (%s)", event.event_id, problem)
                    return delivered
                store.mark_delivered(event.event_id)
                delivered += 1
    return delivered


def webhook_key(settings: PartySettings) -> bytes:
    """The bytes that sign. Raises ConfigError for a secret of another form."""
    assert settings.webhook is not None
    text = resolve_secret(settings.webhook.secret, settings.home).strip()
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(PREFIX) or len(key) not in SECRET_BYTES:
        raise ConfigError(
            f"webhook.secret: it is {PREFIX} and the base64 of {SECRET_BYTES.start} to "
            f"{SECRET_BYTES.stop - 1} random bytes; see docs/how-to/use-the-tags.md"
        )
    return key


def signature(key: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def body_of(event: Event) -> bytes:
    """The JSON that is sent: type, timestamp (of the change, ISO 8601) and data."""
    message = {
        "type": event.type,
        "timestamp": event.created_at.isoformat(),
        "data": dict(event.data),
    }
    return json.dumps(message, separators=(",", ":")).encode()


def _checked_url(webhook: WebhookSettings) -> str:
    try:
        parts = urlsplit(webhook.url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise ConfigError("webhook.url: it is not a URL")
    if parts.scheme != "https" and host not in LOOPBACK:
        raise ConfigError("webhook.url: https, or http to this machine (127.0.0.1) only")
    return webhook.url


def _send(client: httpx.Client, url: str, key: bytes, event: Event) -> str | None:
    """None if the event has arrived; what went wrong otherwise, without anything it holds."""
    body, now = body_of(event), int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "fedtags",
        "webhook-id": event.event_id,
        "webhook-timestamp": str(now),
        "webhook-signature": signature(key, event.event_id, now, body),
    }
    try:
        # Only the status counts; a body, however long, is never read.
        with client.stream("POST", url, content=body, headers=headers) as answer:
            return None if answer.is_success else f"HTTP status {answer.status_code}"
    except httpx.HTTPError as error:
        return type(error).__name__
