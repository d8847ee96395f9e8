"""The egress log: a line for every message, on the disk before the message leaves."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from party_client import egress
from party_client.egress import EgressLog, LoggedRequests
from party_client.settings import PartySettings, load_settings
from party_client.setup import initialise
from privacy.ciphertexts import CIPHERTEXT_BYTES
from privacy.errors import ConfigError, LedgerError, ProtocolError, SignatureError
from privacy.framing import seal
from privacy.hosting.signed_requests import SignedRequestAuth, verify_request
from privacy.identity import SigningKey
from privacy.messages import HEAD_BYTES, PARTY_MESSAGES, REFUSAL, Body, Header, Update
from tests.fuzz.samples import COORDINATOR_SAMPLES, PARTY_SAMPLES, header

KEY = SigningKey.generate()


def own_header() -> Header:
    return header().model_copy(update={"sender": "bank", "recipient": "coordinator"})


def frame_of(body: Body, key: SigningKey = KEY) -> bytes:
    return seal(own_header(), body, key)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "egress.jsonl"


@pytest.fixture
def log(path: Path) -> EgressLog:
    return EgressLog(path)


@pytest.fixture
def settings(tmp_path: Path) -> PartySettings:
    return initialise(tmp_path / "bank", "bank", 100)


@contextmanager
def full_disk(path: Path, room: int = 50) -> Iterator[None]:
    """No file of this process may grow beyond `path`'s size and `room` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("body", PARTY_SAMPLES, ids=lambda body: body.kind)
def test_every_message_of_a_party_has_a_line_with_its_hash_and_each_fields_length(
    log: EgressLog, body: Body
) -> None:
    frame = frame_of(body)
    log.record_frame(frame, KEY.public, epsilon=0.25)
    (line,) = log.entries()
    assert (line.kind, line.bytes) == (body.kind, len(frame))
    assert line.sha256 == hashlib.sha256(frame).hexdigest()
    at = own_header()
    assert (line.run, line.round, line.attempt) == (at.run, at.round, at.attempt)
    assert (line.plan_digest, line.recipient) == (at.plan.hex(), "coordinator")
    assert (line.epsilon, line.resent) == (0.25, False)
    assert [part.split(":")[0] for part in line.shape.split(", ") if part] == list(
        type(body).model_fields
    )


def test_all_kinds_of_message_are_tried_here() -> None:
    assert {type(body) for body in PARTY_SAMPLES} == set(PARTY_MESSAGES)


def test_an_update_says_how_many_ciphertexts_it_holds_and_why_each_part_may_leave(
    log: EgressLog,
) -> None:
    body = Update(
        ciphertexts=bytes(3 * CIPHERTEXT_BYTES), opened=bytes(32), ledger_head=bytes(HEAD_BYTES)
    )
    log.record_frame(frame_of(body), KEY.public, epsilon=0.5)
    (line,) = log.entries()
    assert f"ciphertexts: 3 of {CIPHERTEXT_BYTES} bytes" in line.shape
    assert line.treatment == "constant, encrypted, disclosed"


def test_the_refusal_and_a_message_sent_again_are_logged_and_cost_nothing(log: EgressLog) -> None:
    frame = frame_of(PARTY_SAMPLES[0])
    log.record_frame(REFUSAL, KEY.public)
    log.record_frame(frame, KEY.public, epsilon=0.5)
    log.record_frame(frame, KEY.public, epsilon=0.5, resent=True)
    assert [(one.kind, one.epsilon, one.resent) for one in log.entries()] == [
        ("refusal", 0.0, False),
        ("decision", 0.5, False),
        ("decision", 0.0, True),
    ]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"customer 17",
        REFUSAL + b"!",
        frame_of(PARTY_SAMPLES[0], SigningKey.generate()),
        frame_of(PARTY_SAMPLES[4]) + b"more",
        *(frame_of(body) for body in COORDINATOR_SAMPLES),
    ],
)
def test_what_is_no_message_of_a_party_under_its_own_key_gets_no_line(
    log: EgressLog, frame: bytes
) -> None:
    with pytest.raises((ProtocolError, SignatureError)):
        log.record_frame(frame, KEY.public)
    assert log.entries() == ()


def test_a_full_disk_is_an_error_and_the_next_line_seals_what_was_cut(
    log: EgressLog, path: Path
) -> None:
    log.record_frame(REFUSAL, KEY.public)
    with full_disk(path), pytest.raises(LedgerError, match="cannot be used"):
        log.record_frame(REFUSAL, KEY.public)
    assert len(log.entries()) == 1
    log.record_frame(frame_of(PARTY_SAMPLES[0]), KEY.public)
    assert [one.kind for one in EgressLog(path).entries()] == ["refusal", "decision"]
    EgressLog(path).verify()


@pytest.mark.parametrize("change", ["alter", "drop", "swap"])
def test_a_changed_log_is_noticed_and_nothing_more_is_recorded(path: Path, change: str) -> None:
    log = EgressLog(path)
    for body in PARTY_SAMPLES[:4]:
        log.record_frame(frame_of(body), KEY.public)
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "alter":
        lines[2] = lines[2].replace(b'"epsilon":0.0', b'"epsilon":0.1')
    elif change == "drop":
        del lines[2]
    else:
        lines[1:3] = lines[2:0:-1]
    path.write_bytes(b"".join(lines))
    for again in (log, None):
        with pytest.raises(LedgerError, match=r"egress\.jsonl"):
            (again or EgressLog(path)).record_frame(REFUSAL, KEY.public)


def test_lines_cut_from_the_end_show_against_a_head_that_was_kept(
    settings: PartySettings,
) -> None:
    log = EgressLog(settings.egress)
    log.record_frame(REFUSAL, KEY.public)
    whole = settings.egress.read_bytes()
    log.record_frame(REFUSAL, KEY.public)
    kept = log.head()
    known = f"{kept.sequence}:{kept.hash}"
    assert egress.verify(settings, known) == kept
    settings.egress.write_bytes(whole)
    assert egress.verify(settings) is not None
    with pytest.raises(LedgerError, match="known from elsewhere"):
        egress.verify(settings, known)
    with pytest.raises(ConfigError, match="SEQUENCE:HASH"):
        egress.verify(settings, "17")
    settings.egress.unlink()
    assert egress.verify(settings) is None
    with pytest.raises(LedgerError, match="does not exist"):
        egress.verify(settings, known)


def test_the_file_is_for_its_owner_only_and_holds_no_frame(log: EgressLog, path: Path) -> None:
    frame = frame_of(PARTY_SAMPLES[0])
    log.record_frame(frame, KEY.public)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert frame.hex() not in path.read_text()
    for line in path.read_text().splitlines():
        assert len(line) < 2000
        json.loads(line)


def test_pages_are_newest_first_and_end(settings: PartySettings) -> None:
    assert egress.read_page(settings) == []
    assert (egress.count(settings), egress.head(settings)) == (0, None)
    log = EgressLog(settings.egress)
    for body in PARTY_SAMPLES:
        log.record_frame(frame_of(body), KEY.public)
    kinds = [body.kind for body in PARTY_SAMPLES][::-1]
    pages = [egress.read_page(settings, page, 4) for page in (1, 2, 3, 4)]
    assert [one.kind for page in pages for one in page] == kinds
    assert [len(page) for page in pages] == [4, 4, 2, 0]
    assert egress.count(settings) == len(PARTY_SAMPLES)


def test_a_request_to_the_coordinator_is_on_the_disk_before_it_leaves(
    log: EgressLog, path: Path
) -> None:
    seen: list[tuple[int, httpx.Request]] = []

    def coordinator(request: httpx.Request) -> httpx.Response:
        seen.append((len(EgressLog(path).entries()), request))
        return httpx.Response(200, json={})

    auth = LoggedRequests(SignedRequestAuth("bank", KEY), log)
    with httpx.Client(transport=httpx.MockTransport(coordinator), auth=auth) as client:
        client.post("https://coordinator/v1/enrolments", json={"token": "secret"})
        client.get("https://coordinator/v1/members")
    lines = log.entries()
    assert [count for count, _ in seen] == [1, 2]
    for line, (_, request) in zip(lines, seen, strict=True):
        body = request.read()
        assert (line.kind, line.bytes) == ("enrolment", len(body))
        assert line.sha256 == hashlib.sha256(body).hexdigest()
        verify_request(KEY.public, request.method, request.url.path, request.headers, body)
    assert lines[0].shape.startswith("POST /v1/enrolments")
    assert "secret" not in path.read_text()
    with (
        httpx.Client(transport=httpx.MockTransport(coordinator), auth=auth) as client,
        full_disk(path),
        pytest.raises(LedgerError),
    ):
        client.get("https://coordinator/v1/members")
    assert len(seen) == 2


def test_a_home_older_than_the_log_gets_one(tmp_path: Path) -> None:
    settings = initialise(tmp_path / "bank", "bank", 100)
    assert not settings.egress.exists()
    EgressLog(load_settings(settings.home).egress)
    assert settings.egress.exists()
    assert egress.read_page(settings) == []
