"""Webhooks, against a real HTTP server: what is sent, how it is signed, and when again."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import select, update

from party_client.profile_store import ProfileStore, open_profile_store
from party_client.profile_tables import outbox
from party_client.settings import PartySettings, load_settings, party_toml
from party_client.webhooks import RETRY_AFTER, deliver_pending, signature
from privacy.errors import ConfigError
from tests.profile_stores import FIRST, SECOND, batch

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@dataclass
class Receiver:
    """A system that gets webhooks. `answers`: statuses to give, the last one for ever."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [204])
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
            status = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            self.send_response(status)
            if status == 302:
                self.send_header("location", found.url + "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/hooks"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def configured(folder: Path, url: str, secret: str = SECRET) -> PartySettings:
    folder.mkdir(exist_ok=True)
    webhook = f'\n[webhook]\nurl = "{url}"\nsecret = "file:webhook.secret"\n'
    (folder / "party.toml").write_text(party_toml("bank", 6000) + webhook)
    path = folder / "webhook.secret"
    path.write_text(secret + "\n")
    path.chmod(0o600)
    return load_settings(folder)


@pytest.fixture
def settings(tmp_path: Path, receiver: Receiver) -> PartySettings:
    return configured(tmp_path / "bank", receiver.url)


@pytest.fixture
def store(settings: PartySettings) -> Iterator[ProfileStore]:
    store = open_profile_store(settings)
    store.set_consents(None)
    yield store
    store.close()


def make_due(store: ProfileStore) -> None:
    """As if the time until the next attempt had passed."""
    with store._engine.begin() as connection:
        connection.execute(update(outbox).values(next_attempt_at=datetime(2020, 1, 1)))


def test_a_publication_and_an_opt_out_are_told_once_and_signed(
    store: ProfileStore, settings: PartySettings, receiver: Receiver
) -> None:
    store.publish(FIRST, [batch([("c1", "high", 0.9)])])
    store.opt_out("c1", person="ann", reason="a private reason")
    assert deliver_pending(store, settings) == 2
    assert deliver_pending(store, settings) == 0
    assert len(receiver.received) == 2
    messages = [json.loads(body) for _, body in receiver.received]
    assert [one["type"] for one in messages] == ["tags.changed", "customer.opted_out"]
    assert messages[0]["data"] == {"run_id": "run-1", "kind": "joint", "tags": ["churn_risk"]}
    assert messages[0]["timestamp"] == "2024-07-01T09:30:00+00:00"
    assert messages[1]["data"] == {"customer": "c1"}
    for headers, body in receiver.received:
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        assert headers["content-type"] == "application/json"
        assert b"private reason" not in body


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of its reference libraries."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    found = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_customer_who_was_named_is_erased_from_the_outbox_once_delivered(
    store: ProfileStore, settings: PartySettings
) -> None:
    store.opt_out("c1", person="ann", reason="asked")
    with store._engine.connect() as connection:
        (before,) = connection.execute(select(outbox.c.sealed_customer)).scalars()
    assert before is not None
    assert b"c1" not in bytes(before)
    deliver_pending(store, settings)
    with store._engine.connect() as connection:
        assert connection.execute(select(outbox.c.sealed_customer)).scalars().all() == [None]


@pytest.mark.parametrize("status", [302, 400, 404, 410, 500, 503])
def test_whatever_is_no_2xx_is_tried_again_later_with_the_same_id(
    store: ProfileStore, settings: PartySettings, receiver: Receiver, status: int
) -> None:
    receiver.answers = [status, 200]
    store.publish(FIRST, [batch([("c1", "high", 0.9)])])
    assert deliver_pending(store, settings) == 0
    assert deliver_pending(store, settings) == 0  # not due yet
    assert len(receiver.received) == 1
    assert store.has_undelivered()
    make_due(store)
    assert deliver_pending(store, settings) == 1
    first, second = receiver.received
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    assert first[1] == second[1]
    assert not store.has_undelivered()


def test_each_failure_waits_longer_and_no_event_is_given_up(
    store: ProfileStore, settings: PartySettings, receiver: Receiver
) -> None:
    receiver.answers = [500]
    store.publish(FIRST, [batch([("c1", "high", 0.9)])])
    waits = []
    for _ in range(len(RETRY_AFTER) + 2):
        before = datetime.now(UTC).replace(tzinfo=None)
        deliver_pending(store, settings)
        with store._engine.connect() as connection:
            (at,) = connection.execute(select(outbox.c.next_attempt_at)).scalars()
        waits.append(at - before)
        make_due(store)
    expected = [*RETRY_AFTER, RETRY_AFTER[-1], RETRY_AFTER[-1]]
    for wait, wanted in zip(waits, expected, strict=True):
        assert wanted <= wait < wanted + timedelta(seconds=60)


def test_nobody_who_listens_is_an_attempt_that_failed(tmp_path: Path) -> None:
    settings = configured(tmp_path / "bank", "http://127.0.0.1:9/hooks")
    store = open_profile_store(settings)
    store.set_consents(None)
    store.publish(FIRST, [batch([("c1", "high", 0.9)])])
    store.publish(SECOND, [batch([("c1", "low", 0.1)])])
    assert deliver_pending(store, settings) == 0
    assert [one.attempts for one in store.pending_events()] == [0]  # the other one waits
    store.close()


@pytest.mark.parametrize(
    ("url", "secret", "words"),
    [
        ("http://crm.example/hooks", SECRET, "https"),
        ("http://127.0.0.1.crm.example/hooks", SECRET, "https"),
        ("https:///hooks", SECRET, "not a URL"),
        ("https://crm.example/hooks", "password", "whsec_"),
        ("https://crm.example/hooks", "whsec_c2hvcnQ=", "24 to 64"),
        ("https://crm.example/hooks", "whsec_not base64", "whsec_"),
    ],
)
def test_a_url_or_secret_that_cannot_be_used_is_refused_and_not_shown(
    tmp_path: Path, url: str, secret: str, words: str
) -> None:
    settings = configured(tmp_path / "bank", url, secret)
    store = open_profile_store(settings)
    with pytest.raises(ConfigError, match=words) as caught:
        deliver_pending(store, settings)
    assert secret not in str(caught.value)
    store.close()


def test_without_a_webhook_nothing_is_noted(tmp_path: Path) -> None:
    (tmp_path / "party.toml").write_text(party_toml("bank", 6000))
    settings = load_settings(tmp_path)
    store = open_profile_store(settings)
    store.set_consents(None)
    store.publish(FIRST, [batch([("c1", "high", 0.9)])])
    assert deliver_pending(store, settings) == 0
    assert store.pending_events() == []
    store.close()
