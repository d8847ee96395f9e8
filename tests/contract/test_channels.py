"""The channels that need no Flower keep the channel contract; Flower's does when deployed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import pytest

from coordinator.channel import Channel
from party_client.processes import service_answers
from simulations.local_federation import FaultyChannel, MemoryChannel, SocketChannel
from tests.contract.channel_contract import (
    ENOUGH_S,
    HASTE_S,
    PARTIES,
    ChannelContract,
    Connect,
)
from tests.contract.echo_service import LATE, LATE_S, answer_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A process for each party, serving the real socket server."""
    folder = tmp_path_factory.mktemp("sockets")
    paths = {party: folder / f"{party}.sock" for party in PARTIES}
    program = [sys.executable, "-m", "tests.contract.echo_service"]
    processes = [
        subprocess.Popen([*program, party, str(path)], cwd=ROOT) for party, path in paths.items()
    ]
    deadline = time.monotonic() + 60
    while not all(service_answers(path) for path in paths.values()):
        assert time.monotonic() < deadline, "a socket server did not start"
        time.sleep(0.05)
    yield paths
    for process in processes:
        process.terminate()
    assert [process.wait(30) for process in processes] == [0, 0, 0]


class TestMemoryChannel(ChannelContract):
    @pytest.fixture
    def connect(self) -> Connect:
        return lambda present: MemoryChannel(
            {party: partial(answer_of, party) for party in present}
        )


class TestFaultyChannel(ChannelContract):
    """Without a fault it is the channel that it stands before."""

    @pytest.fixture
    def connect(self) -> Connect:
        return lambda present: FaultyChannel(
            MemoryChannel({party: partial(answer_of, party) for party in present}), []
        )


class TestSocketChannel(ChannelContract):
    @pytest.fixture
    def connect(self, sockets: dict[str, Path], tmp_path: Path) -> Connect:
        def channel(present: Collection[str]) -> Channel:
            nobody = tmp_path / "nobody.sock"
            return SocketChannel(
                {party: path if party in present else nobody for party, path in sockets.items()}
            )

        return channel

    def test_a_slow_party_holds_nobody_up_beyond_the_timeout(self, connect: Connect) -> None:
        channel = connect(PARTIES)
        started = time.monotonic()
        frames = {"bank": b"quick", "ecommerce": LATE, "retailer": LATE}
        assert set(channel.exchange(frames, HASTE_S)) == {"bank"}
        assert time.monotonic() - started < LATE_S
        # The late answers are spoken into closed connections; the services go on.
        assert set(channel.exchange(dict.fromkeys(PARTIES, b"still there?"), ENOUGH_S)) == set(
            PARTIES
        )
