"""Kills a whole run of three services at each durable write of one party: one process for each.

`python -m tests.integration.kill_points_child FOLDER N^`: FOLDER/template holds the three homes (of
public size N^), FOLDER/*.pem the keys of the coordinator's organisation. Every run has a copy of
the homes, in FOLDER/KIND-NUMBER/m, and is killed (SIGKILL) before the bank writes the NUMBER-th
line of its ledger, in the middle of it, or before its NUMBER-th fsync. FOLDER/KIND-NUMBER/notes
says what the bank had answered by then, and for what it had drawn randomness.

Everything is imported once, and each run is a fork of that: no thread has been started by then.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.rounds import RunRequest, run
from models.plan import parse_plan
from models.training import party_terms
from party_client.service import PartyService
from privacy.accounting import epsilon
from privacy.framing import read
from privacy.identity import SigningKey, sign_plan
from privacy.messages import PARTY_MESSAGES, REFUSAL
from privacy.randomness import system_entropy
from simulations.local_federation import MemoryChannel, MemoryRecorder

from .conftest import PLAN, changed

KILLED = "bank"
RUN = "run-1"
SHORT = changed(PLAN, "rounds = 2", "rounds = 1")
KINDS = ("before", "torn", "fsync")
AT_ONCE = 2


@dataclass(frozen=True)
class Noting(MemoryChannel):
    """Notes each answer of the party that will be killed, as soon as it exists."""

    notes: int
    public: bytes

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        replies = super().exchange(frames, timeout_s)
        reply = replies[KILLED]
        assert reply != REFUSAL
        envelope = read(reply, self.public, *PARTY_MESSAGES).envelope
        os.write(self.notes, f"answered {envelope.type} {envelope.round}\n".encode())
        return replies


class Killer:
    """Counts the bank's durable writes, and ends this process at one of them. 0: at none."""

    def __init__(self, home: Path, kind: str, number: int) -> None:
        self._home, self._kind, self._number = str(home), kind, number
        self.count = dict.fromkeys(KINDS, 0)
        self._fsync, self._write = os.fsync, os.write

    def install(self) -> None:
        """Stand between the party's software and the operating system."""
        os.fsync, os.write = self.fsync, self.write  # type: ignore[assignment]

    def fsync(self, descriptor: int) -> None:
        """What was written lies in the file; it is not yet safe from a power cut."""
        if self._path(descriptor).startswith(self._home) and self._is_next("fsync"):
            os.kill(os.getpid(), signal.SIGKILL)
        self._fsync(descriptor)

    def write(self, descriptor: int, data: bytes) -> int:
        """Nothing, or half of the line, lies in the file."""
        if self._path(descriptor) == f"{self._home}/ledger.jsonl":
            if self._is_next("before"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self._is_next("torn"):
                self._write(descriptor, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        return self._write(descriptor, data)

    def _is_next(self, kind: str) -> bool:
        self.count[kind] += 1
        return (kind, self.count[kind]) == (self._kind, self._number)

    @staticmethod
    def _path(descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")


def one_run(folder: Path, kind: str, number: int) -> None:
    """A whole run on a copy of the homes; counts go to the file `counts` if it ends."""
    own = folder / f"{kind}-{number}"
    shutil.copytree(folder / "template", own / "m")
    homes = {path.name: path for path in sorted((own / "m").iterdir()) if path.is_dir()}
    coordinator, requester = (
        SigningKey.load(folder / f"{name}.pem") for name in ("coordinator", "requester")
    )
    killer = Killer(homes[KILLED], kind, number)
    notes = os.open(own / "notes", os.O_WRONLY | os.O_CREAT, 0o600)

    def noted(label: str) -> bytes:
        os.write(notes, f"drawn {label}\n".encode())
        return system_entropy(label)

    entropy = dict.fromkeys(homes, system_entropy) | {KILLED: noted}
    services = {party: PartyService(home, entropy[party]) for party, home in homes.items()}
    members = {party: one.node.key.public for party, one in services.items()}
    answers = {party: one.answer for party, one in services.items()}
    channel = Noting(answers, notes, members[KILLED])
    signature = sign_plan(requester, RUN, SHORT)
    request = RunRequest(RUN, SHORT, requester.public, signature, members)
    killer.install()
    run(request, channel, coordinator, MemoryRecorder())
    (own / "counts").write_text(" ".join(str(killer.count[one]) for one in KINDS))


def forked(work: Callable[[], None]) -> int:
    """The pid of a process that does `work` and then exits: 0, or 1 with the error shown."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a fork must never go on as its parent
        traceback.print_exc()
        os._exit(1)


def main() -> int:
    """Every kill point. 0 if each run but the first, whole one was killed."""
    folder, public_size = Path(sys.argv[1]), int(sys.argv[2])
    # Once for all runs: calibration, and what the run costs.
    terms = party_terms(parse_plan(SHORT), public_size)
    epsilon(terms.mechanisms, terms.delta)
    os.waitpid(forked(lambda: one_run(folder, "whole", 0)), 0)
    counts = [int(one) for one in (folder / "whole-0" / "counts").read_text().split()]
    points = [(k, n) for k, most in zip(KINDS, counts, strict=True) for n in range(1, most + 1)]
    running: list[int] = []
    for kind, number in points:
        if len(running) == AT_ONCE:
            pid, status = os.wait()
            running.remove(pid)
            if os.WIFEXITED(status):
                return 1
        running.append(forked(lambda kind=kind, number=number: one_run(folder, kind, number)))
    return any(os.WIFEXITED(os.waitpid(pid, 0)[1]) for pid in running)


if __name__ == "__main__":
    sys.exit(main())
