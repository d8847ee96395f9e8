"""`kill -9` at every durable write of a run, as a loop: the recovered ledger never under-counts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.rounds import RunRequest, run
from models.plan import parse_plan
from models.training import Terms, party_terms
from party_client.node import open_ledger
from party_client.peer_heads import PeerHeads
from party_client.policy import load_policy
from party_client.service import PartyService, settle
from privacy.accounting import rdp
from privacy.hosting.supervision import child_environment
from privacy.identity import SigningKey, sign_plan
from privacy.ledger import Ledger
from privacy.mechanism import Mechanism
from simulations.homes import Federation
from simulations.local_federation import MemoryChannel, MemoryRecorder

from .kill_points_child import KILLED, RUN, SHORT

ROOT = Path(__file__).parents[2]
PUBLIC_SIZE = 700
PEERS = ("ecommerce", "retailer")
# reserve; intent and commit of a round and of the evaluation; close. Each of three relays of ledger
# heads, the manifest, the kept model and what is said of it writes a file and its folder. Seven
# messages are in the egress log.
LEDGER_LINES = 6
FSYNCS = LEDGER_LINES + 6 * 2 + 7


@dataclass(frozen=True)
class Killed:
    """What one kill left behind."""

    folder: Path

    @property
    def ledger(self) -> Path:
        return self.folder / "m" / KILLED / "ledger.jsonl"

    @property
    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines()

    def drawn(self) -> set[int]:
        """Rounds for whose noise the bank had drawn randomness; 0 is the evaluation."""
        found = [
            re.fullmatch(r"drawn (?:round (\d+) training|evaluation)", one) for one in self.notes
        ]
        return {int(one[1] or 0) for one in found if one}

    def answered(self) -> set[int]:
        """Rounds whose reply existed; 0 is the evaluation."""
        found = [re.fullmatch(r"answered (evaluation-)?update (\d+)", one) for one in self.notes]
        return {0 if one[1] else int(one[2]) for one in found if one}

    def attempts(self) -> set[tuple[int, int]]:
        """The rounds and attempts of the commits that the ledger holds, as bare JSON."""
        whole = [one for one in self.ledger.read_bytes().splitlines() if one.endswith(b"}")]
        commits = [one["body"] for one in map(json.loads, whole) if one["kind"] == "commit"]
        return {(one["round"], one["attempt"]) for one in commits}

    def intents(self) -> set[int]:
        """The rounds of the intents that the ledger holds, as bare JSON."""
        whole = [one for one in self.ledger.read_bytes().splitlines() if one.endswith(b"}")]
        entries = [json.loads(one) for one in whole]
        return {one["body"]["round"] for one in entries if one["kind"] == "intent"}


@pytest.fixture(scope="module")
def kills(
    market_template: tuple[Path, Federation], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with what each kill left, and the keys of the coordinator's organisation."""
    homes, federation = market_template
    folder = tmp_path_factory.mktemp("kills")
    shutil.copytree(homes, folder / "template")
    federation.coordinator.save(folder / "coordinator.pem")
    federation.requester.save(folder / "requester.pem")
    module = "tests.integration.kill_points_child"
    program = [sys.executable, "-m", module, str(folder), str(PUBLIC_SIZE)]
    environment = child_environment() | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(program, env=environment, cwd=ROOT, check=True, timeout=280)
    return folder


def test_every_durable_write_of_a_run_was_a_kill_point(kills: Path) -> None:
    counts = {"before": LEDGER_LINES, "torn": LEDGER_LINES, "fsync": FSYNCS}
    assert (kills / "whole-0" / "counts").read_text() == " ".join(map(str, counts.values()))
    assert {kind: len(list(kills.glob(f"{kind}-*"))) for kind in counts} == counts
    whole = Killed(kills / "whole-0")
    assert whole.intents() == whole.drawn() == whole.answered() == {0, 1}
    assert spend_of(whole, terms()) == pytest.approx(rdp(terms().mechanisms))


def terms() -> Terms:
    return party_terms(parse_plan(SHORT), PUBLIC_SIZE)


def spend_of(left: Killed, cost: Terms) -> tuple[float, ...]:
    """The least that must be charged: every round that may have touched data."""
    spent: list[Mechanism] = [
        cost.round_mechanism if number else cost.evaluation
        for number in left.intents() | left.drawn() | left.answered()
    ]
    return rdp(spent)


BETWEEN_LINES = [
    *(("before", number) for number in range(1, LEDGER_LINES + 1)),
    *(("fsync", number) for number in range(1, FSYNCS + 1)),
]


@pytest.mark.parametrize(("kind", "number"), BETWEEN_LINES)
def test_a_kill_between_any_two_writes_never_under_counts(
    kills: Path, kind: str, number: int
) -> None:
    least, charged = recovered(Killed(kills / f"{kind}-{number}"))
    # No line was cut off, so nothing is in doubt: what was begun is charged, and no more.
    assert charged == pytest.approx(least)


@pytest.mark.parametrize("number", range(1, LEDGER_LINES + 1))
def test_a_kill_in_the_middle_of_any_line_never_under_counts(kills: Path, number: int) -> None:
    _, charged = recovered(Killed(kills / f"torn-{number}"))
    if number > 1:
        # The line may have been an intent: all that was reserved stays charged.
        assert charged == pytest.approx(rdp(terms().mechanisms))


def recovered(left: Killed) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The least that must be charged, and what is, once the ledger is opened as a start does."""
    least = spend_of(left, terms())
    # Nothing was sealed under an attempt that the ledger does not know, so none is ever used again.
    assert {(number, 1) for number in left.answered()} <= left.attempts()
    ledger = open_ledger(left.ledger, load_policy(left.ledger.with_name("policy.toml")))
    settle(ledger)
    ledger.verify()
    state = ledger.state()
    assert all(one.state != "reserved" for one in state.runs.values())
    charged = rdp(state.charged())
    assert all(found >= wanted for found, wanted in zip(charged, least, strict=True))
    check_peers(left, ledger)
    return least, charged


def check_peers(left: Killed, ledger: Ledger) -> None:
    """What the others remember of the bank is in its ledger: no crash looks like a cut."""
    public = SigningKey.load(left.folder / "m" / KILLED / "keys" / "identity.pem").public
    for peer in PEERS:
        heads = PeerHeads(left.folder / "m" / peer / "peer_heads.json").of({KILLED: public})
        for head in heads.values():
            assert ledger.contains(head.position, head.hash)


@pytest.mark.parametrize("point", ["before-3", "torn-3", "fsync-9"])
def test_after_a_kill_the_next_run_works(kills: Path, tmp_path: Path, point: str) -> None:
    shutil.copytree(kills / point / "m", tmp_path / "m")
    services = {path.name: PartyService(path) for path in (tmp_path / "m").iterdir()}
    coordinator, requester = (
        SigningKey.load(kills / f"{name}.pem") for name in ("coordinator", "requester")
    )
    members = {party: one.node.key.public for party, one in services.items()}
    request = RunRequest(
        "run-2", SHORT, requester.public, sign_plan(requester, "run-2", SHORT), members
    )
    channel = MemoryChannel({party: one.answer for party, one in services.items()})
    try:
        run(request, channel, coordinator, MemoryRecorder())
        states = {
            name: one.state for name, one in services[KILLED].node.ledger.state().runs.items()
        }
    finally:
        for service in services.values():
            service.close()
    assert states["run-2"] == "finished"
    assert states.get(RUN, "refunded") != "reserved"
