"""The party service as a process of its own, over its real socket: whole runs, and sudden ends."""

from __future__ import annotations

import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinator.channel import Channel
from coordinator.rounds import RunOutcome, RunRequest, run
from party_client.processes import service_answers
from party_client.profile_store import open_profile_store
from party_client.settings import load_settings
from party_client.socket_server import LENGTH, request
from privacy.accounting import epsilon
from privacy.errors import NotRunningError, PartyTimeout
from privacy.framing import MAX_FRAME_BYTES, read
from privacy.hosting.supervision import child_environment
from privacy.identity import sign_plan
from privacy.ledger import Ledger, RunState
from privacy.messages import COORDINATOR_MESSAGES, REFUSAL, TrainRound
from simulations.homes import Federation
from simulations.local_federation import MemoryRecorder, SocketChannel

from .conftest import HASTY, PLAN, changed, tags_in

START_S = 120.0
# Long enough for a service to be killed in the middle of a round.
LONG_ROUNDS = changed(HASTY, "local_steps = 4", "local_steps = 150")


@dataclass
class Services:
    """One federation's homes, and a service process for each party that was started."""

    federation: Federation
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def socket(self, party: str) -> Path:
        return load_settings(self.federation.homes[party]).socket

    def start(self, *parties: str) -> None:
        for party in parties:
            home = self.federation.homes[party]
            program = [sys.executable, "-m", "party_client.service", "--home", str(home)]
            self.processes[party] = subprocess.Popen(
                program, env=child_environment(), cwd=home, stderr=subprocess.DEVNULL
            )
        deadline = time.monotonic() + START_S
        while not all(service_answers(self.socket(party)) for party in parties):
            for party in parties:
                assert self.processes[party].poll() is None, f"the service of {party} ended"
            assert time.monotonic() < deadline, "a service did not start"
            time.sleep(0.05)

    def end(self, party: str, number: signal.Signals) -> int:
        process = self.processes.pop(party)
        process.send_signal(number)
        return process.wait(60)

    def channel(self) -> SocketChannel:
        return SocketChannel({party: self.socket(party) for party in self.federation.homes})

    def ledger(self, party: str) -> Ledger:
        return Ledger(load_settings(self.federation.homes[party]).ledger)

    def recorded(self, party: str, run_id: str) -> RunState:
        return self.ledger(party).state().runs[run_id]

    def run(
        self, run_id: str, plan: bytes = PLAN, channel: Channel | None = None
    ) -> tuple[RunOutcome, MemoryRecorder]:
        key, recorder = self.federation.requester, MemoryRecorder()
        signature = sign_plan(key, run_id, plan)
        wanted = RunRequest(run_id, plan, key.public, signature, self.federation.members)
        coordinator = self.federation.coordinator
        return run(wanted, channel or self.channel(), coordinator, recorder), recorder


@pytest.fixture(scope="module")
def services(
    market_template: tuple[Path, Federation], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """Three running services. A test that ends one starts it again."""
    folder, made = market_template
    copy = tmp_path_factory.mktemp("services") / "m"
    shutil.copytree(folder, copy)
    homes = {party: copy / party for party in made.homes}
    running = Services(Federation(homes, made.coordinator, made.requester, made.members))
    try:
        running.start(*homes)
        yield running
    finally:
        for process in running.processes.values():
            process.kill()
            process.wait()


def tags_of(home: Path) -> int:
    store = open_profile_store(load_settings(home))
    try:
        return tags_in(store)
    finally:
        store.close()


def test_a_whole_run_over_real_sockets_with_real_processes(services: Services) -> None:
    before = {party: tags_of(home) for party, home in services.federation.homes.items()}
    outcome, recorder = services.run("run-whole")
    assert outcome.parties == ("bank", "ecommerce", "retailer")
    assert recorder.phases == [
        *("preflight", "keys", "round 1", "round 2", "evaluation", "publication")
    ]
    assert recorder.metrics.get("auc") == outcome.auc
    for party, home in services.federation.homes.items():
        assert services.recorded(party, "run-whole").state == "finished"
        assert (home / "reports" / "run-whole.json").is_file()
        assert tags_of(home) > before[party]


def test_the_socket_is_for_its_user_and_group_only(services: Services) -> None:
    for party in services.federation.homes:
        mode = services.socket(party).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00\x00",
        b"GET / HTTP/1.1\r\nHost: party\r\n\r\n",
        LENGTH.pack(MAX_FRAME_BYTES + 1),
        LENGTH.pack(1000) + b"less than was promised",
    ],
)
def test_a_connection_that_speaks_garbage_is_closed_and_harms_nobody(
    services: Services, garbage: bytes
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        connection.connect(str(services.socket("bank")))
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        try:
            answer = connection.recv(100)
        except ConnectionResetError:  # closed with bytes unread
            answer = b""
    assert answer == b""
    assert request(services.socket("bank"), b"hello", 30) == REFUSAL
    assert services.processes["bank"].poll() is None


def test_a_service_killed_in_a_round_has_spent_that_round_once_it_is_back(
    services: Services,
) -> None:
    channel = Killing(services.channel().sockets, services, "bank")
    with pytest.raises(PartyTimeout, match="bank did not answer in phase round 2"):
        services.run("run-killed", LONG_ROUNDS, channel)
    assert channel.killed
    left = services.recorded("bank", "run-killed")
    assert (left.state, len(left.intents), left.attempts) == ("reserved", 2, {1: 1})

    services.start("bank")  # it could come back to the run, so that stays reserved
    assert services.recorded("bank", "run-killed").state == "reserved"
    assert services.run("run-after-the-kill")[0].parties == ("bank", "ecommerce", "retailer")
    assert services.recorded("bank", "run-killed").state == "failed"
    # Both rounds that were begun count, the one without a reply as well; what never began is free.
    charged = services.ledger("bank").spent_by_run()["run-killed"]
    delta = services.ledger("bank").state().cap_delta
    assert charged == epsilon([one.mechanism for one in left.intents], delta)
    assert charged == pytest.approx(services.ledger("retailer").spent_by_run()["run-killed"])
    assert 0 < charged < epsilon(left.mechanisms, delta)
    for party in ("ecommerce", "retailer"):
        assert services.recorded(party, "run-killed").state == "failed"


@dataclass(frozen=True)
class Killing(SocketChannel):
    """Kills a party's service with SIGKILL once its round 2 has begun and before it ends."""

    services: Services
    party: str
    killed: list[int] = field(default_factory=list)

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        public = self.services.federation.coordinator.public
        envelope = read(next(iter(frames.values())), public, *COORDINATOR_MESSAGES).envelope
        if envelope.type != TrainRound.kind or envelope.round != 2:
            return super().exchange(frames, timeout_s)
        killer = threading.Thread(target=self._kill, args=(envelope.run,))
        killer.start()
        replies = super().exchange(frames, timeout_s)
        killer.join()
        return replies

    def _kill(self, run_id: str) -> None:
        deadline = time.monotonic() + 60
        while len(self.services.recorded(self.party, run_id).intents) < 2:
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)
        self.killed.append(self.services.end(self.party, signal.SIGKILL))


def test_sigterm_ends_a_service_cleanly_and_removes_its_socket(services: Services) -> None:
    path = services.socket("retailer")
    assert services.end("retailer", signal.SIGTERM) == 0
    assert not path.exists()
    with pytest.raises(NotRunningError, match="fedtags-party start"):
        request(path, b"hello", 5)
    home = services.federation.homes["retailer"]
    assert list(home.glob(".spill-*")) == []
    services.start("retailer")
    assert request(path, b"hello", 30) == REFUSAL
