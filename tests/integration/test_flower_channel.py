"""The Flower channel keeps the channel contract: a real SuperLink, SuperNodes, relays and sockets.

One deployment for the whole class. The tests play the ServerApp: they take its task from the
SuperLink as SuperExec would and drive the channel themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import shutil
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flwr.common.serde import run_from_proto
from flwr.proto.fab_pb2 import GetFabResponse
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

import coordinator.superlink
from coordinator.channel import Channel
from coordinator.flower_channel import FlowerChannel
from coordinator.rounds import RunRequest, run
from coordinator.superlink import (
    Node,
    SuperLink,
    SuperLinkFiles,
    canonical_public_key,
    superlink_child,
)
from party_client import egress
from party_client.processes import service_answers
from party_client.relay import FOREIGN_BUNDLE
from party_client.service import PartyService
from party_client.settings import PartySettings, load_settings
from party_client.supernode import SuperNodeFiles, free_port, supernode_children
from privacy.errors import ConfigError, PortInUseError
from privacy.hosting.bundle import bundle_bytes, bundle_hash
from privacy.hosting.certificates import (
    check_server,
    create_authority,
    create_node_key,
    create_server_certificate,
)
from privacy.hosting.processes import stat_fields
from privacy.hosting.supervision import Child, Supervisor
from privacy.identity import sign_plan, write_secret
from privacy.messages import REFUSAL
from simulations.homes import Federation
from simulations.local_federation import MemoryChannel, MemoryRecorder
from tests.contract.channel_contract import PARTIES, ChannelContract, Connect
from tests.contract.echo_service import LATE, answer_of

from .conftest import PLAN
from .wire import RecordingProxy, explained

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0  # an exchange takes about four seconds on two idle cores


@dataclass
class Deployment:
    """A running federation; `seconds` are those of its small exchanges that everyone answered."""

    folder: Path
    files: SuperLinkFiles
    link: SuperLink
    public_keys: Mapping[str, str]
    supervisors: list[Supervisor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def socket(self, party: str) -> Path:
        return self.folder / party / "run" / "service.sock"

    def nodes(self) -> dict[str, int]:
        by_key = {node.public_key: node.node_id for node in self.link.nodes()}
        return {party: by_key[canonical_public_key(key)] for party, key in self.public_keys.items()}

    def pids(self) -> list[int]:
        return [pid for each in self.supervisors for pid in each.pids().values()]


@dataclass
class TimedChannel:
    """A Flower channel that is patient whatever the contract says, and keeps the time."""

    channel: FlowerChannel
    deployment: Deployment

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        started = time.monotonic()
        replies = self.channel.exchange(frames, PATIENCE_S if timeout_s > 1 else timeout_s)
        if len(replies) == len(PARTIES):
            self.deployment.seconds.append(time.monotonic() - started)
        return replies


@contextlib.contextmanager
def server_app(deployment: Deployment) -> Iterator[HttpGrid]:
    """Start a Flower run and be its ServerApp."""
    files = deployment.files
    flower_run = deployment.link.start_run("a-run")
    assert not deployment.link.has_ended(flower_run)
    superexec = RuntimeHttpClient.from_server_address(
        server_address=files.address,
        insecure=False,
        root_certificates=str(files.ca_certificate),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(
                master_secret=files.superexec_secret.read_bytes(),
                protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
            ),
        ],
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    token = superexec.AcquireTask(request).token
    superexec.close()
    grid = HttpGrid(files.address, root_certificates=files.ca_certificate.read_bytes(), token=token)
    client: Any = grid._runtime_client
    given = client.PullTaskInput(PullTaskInputRequest())
    TaskIdentity.task_id = given.task_id
    TaskIdentity.run_id = given.run.run_id
    TaskIdentity.node_id = given.context.node_id
    grid.set_run(run_from_proto(given.run))
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    try:
        assert deployment.link.status(flower_run) == "running"
        yield grid
    finally:
        heartbeat.stop()
        client.PushTaskOutput(PushTaskOutputRequest(sub_status="completed"))
        grid.close()
    assert deployment.link.status(flower_run) == "finished:completed"
    deployment.link.stop_run(flower_run)  # one that has ended is no error


def prepare(folder: Path) -> Deployment:
    home = folder / "coordinator"
    keys = home / "keys"
    create_authority(home / "ca.crt", keys / "ca.key", "test")
    create_server_certificate(
        home / "server.crt", keys / "server.key", home / "ca.crt", keys / "ca.key"
    )
    write_secret(keys / "superexec.secret", secrets.token_hex(32).encode())
    files = SuperLinkFiles(
        home,
        "127.0.0.1",
        free_port(),
        home / "ca.crt",
        home / "server.crt",
        keys / "server.key",
        keys / "superexec.secret",
    )
    public_keys = {
        party: create_node_key(folder / party / "keys" / "node").decode() for party in PARTIES
    }
    return Deployment(folder, files, SuperLink(files.address, files.ca_certificate), public_keys)


def party_children(deployment: Deployment, party: str) -> list[Child]:
    home, socket = deployment.folder / party, deployment.socket(party)
    files = deployment.files
    service = Child(
        "service",
        [sys.executable, "-m", "tests.contract.echo_service", party, str(socket)],
        environment={"PYTHONPATH": str(ROOT)},
        ready=lambda: service_answers(socket),
    )
    node = SuperNodeFiles(
        home, party, files.address, files.ca_certificate, home / "keys" / "node", socket
    )
    return [service, *supernode_children(node)]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="class")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    running = prepare(tmp_path_factory.mktemp("flower"))
    pids: list[int] = []
    try:
        with contextlib.ExitStack() as stack:
            names = ["coordinator", *PARTIES]
            running.supervisors = [
                stack.enter_context(Supervisor(running.folder / name, name)) for name in names
            ]
            coordinator_, *parties = running.supervisors
            coordinator_.start(superlink_child(running.files))
            for party, key in running.public_keys.items():
                running.link.register_node(key, party)
            for supervisor, party in zip(parties, PARTIES, strict=True):
                supervisor.start(*party_children(running, party))
            wait_for(
                lambda: all(node.online for node in running.link.nodes()), "a node stayed offline"
            )
            pids += running.pids()
            assert len(pids) == 1 + 3 * len(PARTIES)
            yield running
    finally:
        assert not [pid for pid in pids if stat_fields(pid) is not None], "a process was left"


@pytest.fixture(scope="class")
def grid(deployment: Deployment) -> Iterator[HttpGrid]:
    with server_app(deployment) as connected:
        yield connected


@pytest.mark.deployed
class TestFlowerChannel(ChannelContract):
    @pytest.fixture
    def connect(self, deployment: Deployment, grid: HttpGrid) -> Iterator[Connect]:
        away: list[Path] = []

        def channel(present: Collection[str]) -> Channel:
            for party in set(PARTIES) - set(present):
                path = deployment.socket(party)
                away.append(path.rename(path.with_suffix(".away")))
            return TimedChannel(FlowerChannel(grid, deployment.nodes()), deployment)

        yield channel
        for path in away:
            path.rename(path.with_suffix(".sock"))

    # The contract's own frames would take an exchange each, and its large one minutes.

    def test_frames_are_opaque_bytes_of_any_length(self, connect: Connect) -> None:  # type: ignore[override]
        frames = dict(zip(PARTIES, (b"", b"\0", b"\xff" * 70_000), strict=True))
        replies = connect(PARTIES).exchange(frames, PATIENCE_S)
        assert replies == {party: answer_of(party, frame) for party, frame in frames.items()}

    def test_a_large_frame_arrives_whole_in_both_directions(self, connect: Connect) -> None:
        one, two = os.urandom(1 << 20), os.urandom(6 << 20)  # two chunks
        replies = connect(PARTIES).exchange({"bank": one, "retailer": two}, PATIENCE_S)
        assert set(replies) == {"bank", "retailer"}
        assert replies["bank"] == answer_of("bank", one)
        assert replies["retailer"] == answer_of("retailer", two)

    def test_a_reply_that_comes_too_late_is_missing_and_never_shows_up_later(
        self, connect: Connect
    ) -> None:
        channel = connect(PARTIES)
        # A poll that begins in time may end after it: the service itself is late by seconds.
        assert channel.exchange({"retailer": LATE + b" one"}, 1.0) == {}
        replies = channel.exchange({"retailer": b"the next"}, PATIENCE_S)
        assert replies == {"retailer": answer_of("retailer", b"the next")}

    def test_a_party_without_its_service_is_missing_long_before_the_timeout(
        self, connect: Connect
    ) -> None:
        started = time.monotonic()
        assert connect(()).exchange(dict.fromkeys(PARTIES, b"anybody?"), PATIENCE_S) == {}
        assert time.monotonic() - started < PATIENCE_S / 2

    def test_registering_again_changes_nothing_and_a_stranger_key_is_refused(
        self, deployment: Deployment
    ) -> None:
        before = deployment.nodes()
        deployment.link.register_node(deployment.public_keys["bank"] + " a comment", "bank")
        assert deployment.nodes() == before
        with pytest.raises(ConfigError, match="not an OpenSSH key"):
            deployment.link.register_node("nonsense", "bank")

    def test_the_port_is_taken_and_shows_the_pinned_certificate(
        self, deployment: Deployment
    ) -> None:
        files = deployment.files
        check_server(files.host, files.port, files.ca_certificate)
        with pytest.raises(PortInUseError, match=r"superlink\.port"):
            superlink_child(files)

    def test_a_bundle_that_the_party_did_not_install_is_not_run(
        self, deployment: Deployment, grid: HttpGrid, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        marker = deployment.folder / "foreign-code-ran"
        monkeypatch.setattr(coordinator.superlink, "bundle_bytes", lambda: foreign_bundle(marker))
        with another_server_app(deployment) as hostile:
            channel = FlowerChannel(hostile, deployment.nodes())
            frames = dict.fromkeys(PARTIES, b"run this")
            assert channel.exchange(frames, PATIENCE_S) == {}
        assert not marker.exists()
        for party in PARTIES:
            log = (deployment.folder / party / "logs" / "relay.log").read_text()
            assert "not the one that this party installed" in log

    def test_an_empty_message_needs_no_service_and_its_time_is_printed(
        self, deployment: Deployment, grid: HttpGrid
    ) -> None:
        channel = FlowerChannel(grid, deployment.nodes())
        started = time.monotonic()
        assert set(channel.exchange_empty(PARTIES, PATIENCE_S)) == set(PARTIES)
        times = [time.monotonic() - started, *deployment.seconds]
        print(f"\nsmall exchange with three nodes: median {statistics.median(times):.1f} s", times)

    def test_a_party_sends_its_logged_frames_and_besides_only_what_flower_needs(
        self, grid: HttpGrid, observed: Observed
    ) -> None:
        """A whole run of three; one of them is behind a proxy that records all it sends."""
        made, settings = observed.made, observed.settings
        bank = FlowerChannel(grid, {"bank": observed.node})
        homes = {party: home for party, home in observed.homes.items() if party != "bank"}
        others = {party: PartyService(home) for party, home in homes.items()}
        inside = MemoryChannel({party: one.answer for party, one in others.items()})
        signature = sign_plan(made.requester, "run-1", PLAN)
        wanted = RunRequest("run-1", PLAN, made.requester.public, signature, made.members)
        try:
            run(wanted, Both(bank, inside), made.coordinator, MemoryRecorder())
        finally:
            for service in others.values():
                service.close()
        refusal = bank.exchange({"bank": b"something else"}, PATIENCE_S)
        assert refusal == {"bank": REFUSAL}

        # Whatever else there was is Flower's: `explained` fails for any byte that is not.
        wire, lines = explained(observed.proxy.requests), egress.everything(settings)
        sent = [hashlib.sha256(frame).hexdigest() for frame in wire.frames]
        assert sent == [one.sha256 for one in lines]
        assert [one.kind for one in lines] == [
            *("decision", "key-seal", "key-confirm", "update", "update"),
            *("evaluation-update", "evaluation-opened", "receipt", "refusal"),
        ]
        assert wire.errors == []
        assert wire.calls["push-messages"] == len(lines)
        assert wire.calls["pull-messages"] >= len(lines)
        everything = b"".join(one.body for one in observed.proxy.requests)
        for secret in (settings.local_key.read_bytes(), settings.identity_key.read_bytes()):
            assert secret not in everything
        assert str(settings.home).encode() not in everything

    def test_a_foreign_bundle_gets_an_error_and_is_never_unpacked(
        self,
        deployment: Deployment,
        grid: HttpGrid,
        observed: Observed,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        marker = deployment.folder / "foreign-code-ran-here"
        monkeypatch.setattr(coordinator.superlink, "bundle_bytes", lambda: foreign_bundle(marker))
        before, lines = len(observed.proxy.requests), egress.count(observed.settings)
        with another_server_app(deployment) as hostile:
            channel = FlowerChannel(hostile, {"bank": observed.node})
            assert channel.exchange({"bank": b"run this"}, PATIENCE_S) == {}
        wire = explained(observed.proxy.requests[before:])
        assert (wire.frames, wire.errors) == ([], [FOREIGN_BUNDLE])
        assert egress.count(observed.settings) == lines
        assert not marker.exists()
        # The SuperNode holds the bundle in memory, and has read no more than its pyproject.toml.
        assert list(observed.settings.home.rglob("client_app.py")) == []
        assert not (observed.settings.home / "flower" / "apps").exists()

    def test_a_bundle_under_the_trusted_bundles_hash_ends_the_supernode_before_it_is_read(
        self,
        deployment: Deployment,
        grid: HttpGrid,
        observed: Observed,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The SuperLink delivers other bytes than those whose hash it states: Flower itself
        notices. Not the last word, because the relay would ask for the hash again."""
        marker = deployment.folder / "lying-code-ran"
        proxy, foreign = observed.proxy, foreign_bundle(marker)
        before = len(proxy.requests)
        monkeypatch.setattr(proxy, "altered", lambda path, body: lying(path, body, foreign))
        with another_server_app(deployment) as hostile:
            channel = FlowerChannel(hostile, {"bank": observed.node})
            assert channel.exchange({"bank": b"run this"}, PATIENCE_S) == {}
        wire = explained(proxy.requests[before:])
        assert wire.calls["get-fab"] == 1
        assert (wire.frames, wire.errors) == ([], [])
        assert not marker.exists()
        log = observed.settings.home / "logs" / "supernode.log"
        assert "FAB hash mismatch" in log.read_text()


@contextlib.contextmanager
def another_server_app(deployment: Deployment) -> Iterator[HttpGrid]:
    """A second Flower run beside the class's own, whose identity in this process is kept."""
    identity = TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id
    try:
        with server_app(deployment) as other:
            yield other
    finally:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = identity


def lying(path: str, body: bytes, foreign: bytes) -> bytes:
    """The SuperLink's answer, with `foreign` in place of the bundle and the hash left as it was."""
    if not path.endswith("/get-fab"):
        return body
    answer = GetFabResponse.FromString(body)
    assert answer.fab.hash_str == bundle_hash()
    answer.fab.content = foreign
    return bytes(answer.SerializeToString())


@dataclass(frozen=True)
class Observed:
    """A real party whose SuperNode reaches the SuperLink through a recording proxy only."""

    proxy: RecordingProxy
    node: int
    settings: PartySettings
    homes: Mapping[str, Path]
    made: Federation


@pytest.fixture(scope="class")
def observed(
    deployment: Deployment,
    market_template: tuple[Path, Federation],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Observed]:
    template, made = market_template
    folder = tmp_path_factory.mktemp("observed") / "m"
    shutil.copytree(template, folder)
    homes = {party: folder / party for party in made.homes}
    settings = load_settings(homes["bank"])
    with observed_node(deployment, settings) as (proxy, node):
        yield Observed(proxy, node, settings, homes, made)


@dataclass(frozen=True)
class Both:
    """One party over Flower, the others in this process."""

    flower: FlowerChannel
    inside: MemoryChannel

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        there = {party: frame for party, frame in frames.items() if party == "bank"}
        here = {party: frame for party, frame in frames.items() if party != "bank"}
        replies = dict(self.flower.exchange(there, PATIENCE_S)) if there else {}
        return {**replies, **self.inside.exchange(here, timeout_s)}


@contextlib.contextmanager
def observed_node(
    deployment: Deployment, settings: PartySettings
) -> Iterator[tuple[RecordingProxy, int]]:
    """A real party service with its SuperNode, which reaches the SuperLink through a proxy only.
    Yields the proxy, and the node's id."""
    ca, authority_key = deployment.files.ca_certificate, deployment.folder / "coordinator/keys"
    certificate, key = settings.home / "proxy.crt", settings.home / "proxy.key"
    create_server_certificate(certificate, key, ca, authority_key / "ca.key")
    proxy = RecordingProxy(deployment.files.address, ca, certificate, key)
    public = settings.node_key.with_name("node.pub").read_text()
    deployment.link.register_node(public, "observed")
    service = Child(
        "service",
        [sys.executable, "-m", "party_client.service", "--home", str(settings.home)],
        ready=lambda: service_answers(settings.socket),
        ready_timeout_s=PATIENCE_S,
    )
    files = SuperNodeFiles(
        *(settings.home, settings.party, f"127.0.0.1:{proxy.port}", ca),
        *(settings.node_key, settings.socket),
    )

    def node() -> Node | None:
        key = canonical_public_key(public)
        return next((one for one in deployment.link.nodes() if one.public_key == key), None)

    def online() -> bool:
        found = node()
        return found is not None and found.online

    try:
        with Supervisor(settings.home, "observed") as supervisor:
            supervisor.start(service, *supernode_children(files))
            wait_for(online, "the observed node stayed offline")
            found = node()
            assert found is not None
            yield proxy, found.node_id
    finally:
        proxy.close()


def foreign_bundle(marker: Path) -> bytes:
    """Our bundle with a ClientApp that does more than it should, signed off by its own manifest."""
    source = zipfile.ZipFile(io.BytesIO(bundle_bytes()))
    contents = {name: source.read(name) for name in source.namelist() if name != ".info/CONTENT"}
    contents["client_app.py"] += f"\nopen({str(marker)!r}, 'w').close()\n".encode()
    manifest = "\n".join(
        f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}"
        for name, data in contents.items()
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, data in {**contents, ".info/CONTENT": manifest.encode()}.items():
            target.writestr(name, data)
    return buffer.getvalue()
