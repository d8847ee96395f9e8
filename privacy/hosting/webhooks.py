"""Webhooks: telling another system of one's own that something happened, signed.

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
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from privacy.errors import ConfigError

PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
TIMEOUT_S = 10.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# After the first, second, ... failure; the last one from then on.
RETRY_AFTER = tuple(
    timedelta(seconds=one) for one in (5, 60, 300, 1800, 2 * 3600, 6 * 3600, 24 * 3600)
)


def retry_delay(attempts: int) -> timedelta:
    """How long to wait after `attempts` (from 0) earlier failures and one more."""
    return RETRY_AFTER[min(attempts, len(RETRY_AFTER) - 1)]


def parse_key(text: str, setting: str) -> bytes:
    """The bytes that sign. Raises ConfigError, naming `setting`, for a secret of another form."""
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.strip().startswith(PREFIX) or len(key) not in SECRET_BYTES:
        raise ConfigError(
            f"{setting}: it is {PREFIX} and the base64 of {SECRET_BYTES.start} to "
            f"{SECRET_BYTES.stop - 1} random bytes, such as openssl rand -base64 32 makes"
        )
    return key


def check_url(url: str, setting: str) -> str:
    """`url`. Raises ConfigError, naming `setting`, unless it is https, or http to this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host:
        raise ConfigError(f"{setting}: it is not a URL")
    if parts.scheme != "https" and host not in LOOPBACK:
        raise ConfigError(f"{setting}: https, or http to this machine (127.0.0.1) only")
    return url


def signature(key: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def body_of(kind: str, at: datetime, data: Mapping[str, Any]) -> bytes:
    """The JSON that is sent: type, timestamp (of what happened, ISO 8601) and data."""
    message = {"type": kind, "timestamp": at.isoformat(), "data": dict(data)}
    return json.dumps(message, separators=(",", ":")).encode()


def open_client() -> httpx.Client:
    """No proxy and no redirect: only the system that was named may learn of an event."""
    return httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False)


def send(client: httpx.Client, url: str, key: bytes, event_id: str, body: bytes) -> str | None:
    """None if the event has arrived; what went wrong otherwise, without anything it holds."""
    now = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "fedtags",
        "webhook-id": event_id,
        "webhook-timestamp": str(now),
        "webhook-signature": signature(key, event_id, now, body),
    }
    try:
        # Only the status counts; a body, however long, is never read.
        with client.stream("POST", url, content=body, headers=headers) as answer:
            return None if answer.is_success else f"HTTP status {answer.status_code}"
    except httpx.HTTPError as error:
        return type(error).__name__
