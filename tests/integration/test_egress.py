"""What leaves a party's service is what its egress log says, and nothing leaves without a line."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from party_client import egress
from party_client.egress import EgressLog
from party_client.enrolment import join, refresh
from party_client.settings import load_settings
from party_client.socket_server import LENGTH, request
from privacy.accounting import epsilon
from privacy.errors import LedgerError, NotRunningError, PartyTimeout
from privacy.messages import REFUSAL
from simulations.local_federation import MemoryChannel
from tests.unit.test_egress_log import full_disk

from .conftest import HASTY, PLAN, LocalRun
from .control_plane_server import make_coordinator, make_party, served
from .test_party_service import preflight_frame
from .test_socket_service import Services, services  # noqa: F401  a fixture


@dataclass(frozen=True)
class Recorded(MemoryChannel):
    """Keeps every reply, by party, in the order in which it left."""

    left: dict[str, list[bytes]] = field(default_factory=dict)

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        replies = super().exchange(frames, timeout_s)
        for party, reply in replies.items():
            self.left.setdefault(party, []).append(reply)
        return replies


def hashes(frames: list[bytes]) -> list[str]:
    return [hashlib.sha256(frame).hexdigest() for frame in frames]


def test_a_run_leaves_exactly_its_logged_messages_and_their_epsilon_is_the_ledgers(
    local: LocalRun,
) -> None:
    left: dict[str, list[bytes]] = {}
    local.wrap = lambda channel: Recorded(channel.answers, left)
    local.run()
    for party, home in local.federation.homes.items():
        settings = load_settings(home)
        lines = egress.everything(settings)
        assert [one.sha256 for one in lines] == hashes(left[party])
        assert [one.bytes for one in lines] == [len(frame) for frame in left[party]]
        assert [one.kind for one in lines] == [
            *("decision", "key-seal", "key-confirm", "update", "update"),
            *("evaluation-update", "evaluation-opened", "receipt"),
        ]
        state = local.services[party].node.ledger.state()
        spent = [epsilon([one.mechanism], state.cap_delta) for one in state.runs["run-1"].intents]
        assert [one.epsilon for one in lines if one.epsilon] == spent
        assert [one.kind for one in lines if one.epsilon] == [
            *("update", "update", "evaluation-update")
        ]
        assert {one.run for one in lines} == {"run-1"}
        assert {one.plan_digest for one in lines} == {hashlib.sha256(PLAN).hexdigest()}


def test_the_same_bytes_again_and_refusals_are_lines_without_a_cost(local: LocalRun) -> None:
    bank, frame = local.service("bank"), preflight_frame(local)
    replies = [bank.answer(one) for one in (frame, frame, b"nonsense", b"nonsense", frame)]
    lines = egress.everything(load_settings(local.federation.homes["bank"]))
    assert [one.sha256 for one in lines] == hashes(replies)
    assert [one.resent for one in lines] == [False, True, False, False, True]
    assert [one.epsilon for one in lines] == [0.0] * 5


def test_while_the_log_cannot_be_written_nothing_leaves_and_afterwards_the_same_bytes_do(
    local: LocalRun, caplog: pytest.LogCaptureFixture
) -> None:
    bank, frame = local.service("bank"), preflight_frame(local)
    path = load_settings(local.federation.homes["bank"]).egress
    bank.answer(b"nonsense")
    # The ledger is shorter than the limit, the egress log is at it: `bank` decides, durably.
    before = path.stat().st_size
    padded = local.federation.homes["bank"] / "ledger.jsonl"
    for _ in range(40):
        bank.answer(b"nonsense")
    assert path.stat().st_size - before > 2 * padded.stat().st_size
    lines = len(egress.everything(load_settings(local.federation.homes["bank"])))
    with full_disk(path):
        assert bank.answer(frame) == b""
        assert bank.answer(b"nonsense") == b""
    assert "nothing leaves" in caplog.text
    assert bank.node.ledger.state().runs["run-1"].state == "reserved"
    reply = bank.answer(frame)
    assert reply not in (b"", REFUSAL)
    (line,) = EgressLog(path).entries()[lines:]
    assert (line.sha256, line.resent) == (hashes([reply])[0], False)


def test_a_party_whose_log_cannot_be_written_is_missing_from_the_run(local: LocalRun) -> None:
    class Damaging(MemoryChannel):
        def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            replies = super().exchange(frames, timeout_s)
            path = load_settings(local.federation.homes["bank"]).egress
            path.chmod(0o640)  # the log refuses to be open to others
            return {party: reply for party, reply in replies.items() if reply}

    local.wrap = lambda channel: Damaging(channel.answers)
    with pytest.raises(PartyTimeout, match="bank did not answer"):
        local.run(HASTY)


def test_a_damaged_log_stops_the_service_before_it_serves(local: LocalRun) -> None:
    home = local.federation.homes["bank"]
    local.service("bank").answer(b"nonsense")
    path = load_settings(home).egress
    path.write_bytes(path.read_bytes().replace(b'"refusal"', b'"receipt"'))
    ended = subprocess.run(
        [sys.executable, "-m", "party_client.service", "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 21
    assert "egress.jsonl line 2" in ended.stderr


# The socket, as a relay sees it ----------------------------------------------------------------


class RecordingSocket:
    """Stands on a Unix socket before a service and keeps all bytes that come out of it."""

    def __init__(self, path: Path, target: Path) -> None:
        self.out: list[bytes] = []
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inner:
                inner.connect(str(self._target))
                length = connection.recv(4, socket.MSG_WAITALL)
                inner.sendall(length)
                inner.sendall(connection.recv(LENGTH.unpack(length)[0], socket.MSG_WAITALL))
                said = bytearray()
                while piece := inner.recv(1 << 20):
                    said += piece
                self.out.append(bytes(said))
                connection.sendall(said)


def test_all_bytes_out_of_a_services_socket_are_logged_frames_behind_their_length(
    services: Services,  # noqa: F811
    tmp_path: Path,
) -> None:
    settings = load_settings(services.federation.homes["bank"])
    before = egress.count(settings)
    proxy = RecordingSocket(tmp_path / "proxy.sock", settings.socket)
    channel = services.channel()
    try:
        sockets = {**channel.sockets, "bank": tmp_path / "proxy.sock"}
        outcome, _ = services.run("run-recorded", channel=type(channel)(sockets))
        assert request(sockets["bank"], b"nonsense", 30) == REFUSAL
    finally:
        proxy.close()
    assert "bank" in outcome.parties
    lines = egress.everything(settings)[before:]
    assert len(lines) == 9
    frames = []
    for said in proxy.out:
        (length,) = LENGTH.unpack(said[:4])
        assert len(said) == 4 + length
        frames.append(said[4:])
    assert [one.sha256 for one in lines] == hashes(frames)


def test_a_service_with_a_log_that_it_cannot_write_closes_the_connection_without_a_byte(
    services: Services,  # noqa: F811
) -> None:
    settings = load_settings(services.federation.homes["retailer"])
    assert request(settings.socket, b"nonsense", 30) == REFUSAL
    settings.egress.chmod(0o640)
    try:
        with pytest.raises(NotRunningError):
            request(settings.socket, b"nonsense", 30)
    finally:
        settings.egress.chmod(0o600)
    assert request(settings.socket, b"nonsense", 30) == REFUSAL


# Enrolment -------------------------------------------------------------------------------------


def test_what_join_sends_is_logged_and_without_a_log_it_sends_nothing(tmp_path: Path) -> None:
    with served(make_coordinator(tmp_path / "coordinator")) as coordinator:
        bank, shop = make_party(tmp_path / "bank", "bank"), make_party(tmp_path / "shop", "shop")
        with coordinator.client() as client:
            invites = {name: client.invite(name) for name in ("bank", "shop")}
        join(bank, invites["bank"])
        EgressLog(shop.egress)
        shop.egress.chmod(0o640)  # the log refuses to be open to others
        with pytest.raises(LedgerError, match="chmod 600"):
            join(shop, invites["shop"])
        assert set(refresh(bank).members) == {"bank"}
    lines = egress.everything(bank)
    assert [one.kind for one in lines] == ["enrolment", "enrolment"]
    assert lines[0].shape.startswith("POST /v1/enrolments: ")
    assert lines[1].shape == "GET /v1/members: 0 bytes"
    assert invites["bank"].token not in bank.egress.read_text()


# The commands ------------------------------------------------------------------------------------


def party(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("fedtags-party")
    return subprocess.run(
        [program, "--home", home, *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_shows_and_checks_what_left(local: LocalRun) -> None:
    home = local.federation.homes["bank"]
    bank = local.service("bank")
    reply = bank.answer(preflight_frame(local))
    bank.answer(b"nonsense")
    shown = json.loads(party(home, "egress", "show", "--format", "json").stdout)
    assert [one["kind"] for one in shown] == ["refusal", "decision"]
    assert shown[1]["sha256"] == hashes([reply])[0]
    one_run = party(home, "egress", "show", "--run", "run-1", "--format", "json")
    assert [one["kind"] for one in json.loads(one_run.stdout)] == ["decision"]
    text = party(home, "egress", "show").stdout
    assert "decision" in text
    assert "refusal" in text
    head = json.loads(party(home, "egress", "verify", "--format", "json").stdout)["head"]
    assert party(home, "egress", "verify", "--known", head).returncode == 0
    path = load_settings(home).egress
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert party(home, "egress", "verify").returncode == 0
    cut = party(home, "egress", "verify", "--known", head)
    assert cut.returncode == 21
    assert "known from elsewhere" in cut.stderr
