"""Ledger heads between real parties: cuts, restored backups, forks, and a hostile coordinator."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from party_client.head_exchange import HeadExchange
from party_client.node import Node
from party_client.service import settle
from privacy.accounting import rdp
from privacy.errors import CohortError, LedgerError, ProtocolError
from privacy.framing import read, seal
from privacy.ledger import Ledger, Provenance
from privacy.ledger_heads import SignedHead, read_head, sign_head
from privacy.mechanism import Gaussian
from privacy.messages import (
    COORDINATOR_MESSAGES,
    OFFER_BYTES,
    Decision,
    Evaluate,
    Header,
    OpenEvaluation,
    Publish,
    TrainRound,
)
from simulations.local_federation import MemoryChannel

from .conftest import PLAN, LocalRun, changed, tags_in

PARTIES = ("bank", "ecommerce", "retailer")
SMALL = changed(
    PLAN, "epsilon = 1.0\nevaluation_epsilon = 1.0", "epsilon = 0.3\nevaluation_epsilon = 0.3"
)
SPEND = Gaussian(30.0)
PROVENANCE = Provenance("logistic", "none", "00", "none", "none", "0", PARTIES)


def ledger_of(local: LocalRun, party: str = "bank") -> Path:
    return local.federation.homes[party] / "ledger.jsonl"


def memory_of(local: LocalRun) -> Path:
    return local.federation.homes["bank"] / "peer_heads.json"


def charged(local: LocalRun, party: str = "bank") -> tuple[float, ...]:
    return rdp(local.service(party).node.ledger.state().charged())


def kept(local: LocalRun, party: str) -> dict[str, SignedHead]:
    """What `party` remembers of the others' ledgers."""
    node = local.service(party).node
    return node.peers.of({name: node.federation.confirmed[name] for name in node.peers.read()})


# Cuts and restored backups -----------------------------------------------------------------------


def only_the_start(local: LocalRun, backup: Path) -> None:
    lines = ledger_of(local).read_bytes().splitlines(keepends=True)
    ledger_of(local).write_bytes(lines[0])


def the_evaluation(local: LocalRun, backup: Path) -> None:
    lines = ledger_of(local).read_bytes().splitlines(keepends=True)
    ledger_of(local).write_bytes(b"".join(lines[:-3]))  # its intent, its commit, the run's close
    ledger = Ledger(ledger_of(local))
    ledger.close("run-1", "failed")
    reserve(ledger, "aborted")
    ledger.refund("aborted")


def whole_home_restored(local: LocalRun, backup: Path) -> None:
    home = local.federation.homes["bank"]
    shutil.rmtree(home)
    shutil.copytree(backup, home)


# In the last case, later entries take the ledger past what the peers know: its length shows them
# nothing, and only the party itself finds that what they have seen is not there.
@pytest.mark.parametrize(
    ("lose", "peers_see_it"),
    [(only_the_start, True), (whole_home_restored, True), (the_evaluation, False)],
)
def test_a_cut_or_restored_ledger_is_noticed_charged_and_can_go_on(
    local: LocalRun,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lose: Callable[[LocalRun, Path], None],
    peers_see_it: bool,
) -> None:
    shutil.copytree(local.federation.homes["bank"], tmp_path / "backup")
    local.run(SMALL, "run-1")
    before = charged(local)
    known = kept(local, "retailer")["bank"].position
    local.services.pop("bank").close()
    lose(local, tmp_path / "backup")
    assert local.service("bank").node.ledger.verify()  # by itself it looks whole
    settle(local.services["bank"].node.ledger)  # as the next preflight does
    assert charged(local) != before

    with pytest.raises(CohortError, match=r"bank.* refused a message in phase keys") as caught:
        local.run(SMALL, "run-2")
    assert "ledger.jsonl lacks entries that other parties have seen" in caplog.text
    assert "submit the plan again" in caplog.text
    assert ("bank, ecommerce, retailer" in str(caught.value)) == peers_see_it
    assert caplog.text.count("the ledger of bank is shorter than it was") == 2 * peers_see_it
    ledger = local.services["bank"].node.ledger
    assert ledger.state().runs["run-2"].state == "refunded"
    assert charged(local) == pytest.approx(before, rel=1e-12)
    assert ledger.position().position > known

    local.run(SMALL, "run-3")
    ledger.verify()
    third = rdp([one.mechanism for one in ledger.state().runs["run-3"].intents])
    assert charged(local) == pytest.approx(tuple(map(sum, zip(before, third, strict=True))))
    for party in ("ecommerce", "retailer"):
        assert kept(local, party)["bank"].position > known


def test_with_another_local_key_a_cut_ledger_is_refused_until_it_is_restored(
    local: LocalRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    local.run(SMALL, "run-1")
    local.services.pop("bank").close()
    home = local.federation.homes["bank"]
    shutil.copytree(home, tmp_path / "newest")
    only_the_start(local, tmp_path)
    (home / "keys" / "local.key").write_bytes(bytes(32))
    for run in ("run-2", "run-3"):
        with pytest.raises(CohortError, match="refused a message in phase keys"):
            local.run(SMALL, run)
    assert caplog.text.count("restore the newest ledger.jsonl, or the keys/local.key") == 2
    assert local.services["bank"].node.ledger.state().gaps == []
    assert not any(charged(local))

    local.services.pop("bank").close()
    for name in ("ledger.jsonl", "keys/local.key"):
        shutil.copy(tmp_path / "newest" / name, home / name)
    local.run(SMALL, "run-4")


def test_no_message_is_answered_before_the_heads_it_brought_are_kept(local: LocalRun) -> None:
    """And each relay brings the newest: what others remember lags by one exchange."""
    seen: list[list[int]] = []

    class Looking(MemoryChannel):
        def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            replies = super().exchange(frames, timeout_s)
            seen.append(sorted(head.round for head in kept(local, "bank").values()))
            return replies

    local.wrap = lambda channel: Looking(channel.answers)
    outcome = local.run(SMALL)
    assert seen == [[], [0, 0], [0, 0], [0, 0], [1, 1], [2, 2], [3, 3], [3, 3]]
    assert sorted(outcome.ledger_heads) == list(PARTIES)
    for party, frame in outcome.ledger_heads.items():
        head = read_head(frame, party, local.federation.members[party])
        ledger = local.services[party].node.ledger
        assert (head.run, head.round) == ("run-1", 5)
        assert (head.position, head.hash) == (ledger.position().position, ledger.head().hash)


# A hostile coordinator signs and relays what it likes ---------------------------------------------


Replies = dict[str, bytes]
Relaying = type[TrainRound] | type[Evaluate] | type[OpenEvaluation] | type[Publish]


@dataclass(frozen=True)
class Tampering(MemoryChannel):
    """Changes the members' replies, and with them their heads, that one message of the coordinator
    brings to the bank."""

    local: LocalRun
    kind: Relaying
    change: Callable[[Replies, list[Replies]], Replies]
    relayed: list[Replies] = field(default_factory=list)

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        key = self.local.federation.coordinator
        received = read(frames["bank"], key.public, *COORDINATOR_MESSAGES)
        body, at = received.body, received.envelope
        if isinstance(body, TrainRound | OpenEvaluation | Publish):
            if type(body) is self.kind and at.round >= 2:
                replies = self.change(body.replies, self.relayed)
                changed_body = body.model_copy(update={"replies": replies})
                header = Header(**{name: getattr(at, name) for name in Header.model_fields})
                frames = {**frames, "bank": seal(header, changed_body, key)}
            self.relayed.append(body.replies)
        return super().exchange(frames, timeout_s)


def dropped(replies: Replies, earlier: list[Replies]) -> Replies:
    return {party: one for party, one in replies.items() if party != "retailer"}


def all_dropped(replies: Replies, earlier: list[Replies]) -> Replies:
    return {}


def replayed(replies: Replies, earlier: list[Replies]) -> Replies:
    return replies | {"retailer": earlier[-1]["retailer"]}


def swapped(replies: Replies, earlier: list[Replies]) -> Replies:
    return replies | {"retailer": replies["ecommerce"], "ecommerce": replies["retailer"]}


def altered(replies: Replies, earlier: list[Replies]) -> Replies:
    statement = bytearray(replies["retailer"])
    statement[-5] ^= 1  # in the envelope's last field
    return replies | {"retailer": bytes(statement)}


def own_replayed(replies: Replies, earlier: list[Replies]) -> Replies:
    return replies | {"bank": earlier[-1]["bank"]}


NOT_ALL = "not those of exactly the participants"
ANOTHER = "a relayed reply is not what retailer said"
ATTACKS = [
    (TrainRound, "round 2", all_dropped, NOT_ALL),
    *((kind, "evaluation", dropped, NOT_ALL) for kind in (Evaluate, OpenEvaluation)),
    *((kind, "evaluation", replayed, ANOTHER) for kind in (Evaluate, OpenEvaluation)),
    (TrainRound, "round 2", swapped, "signature does not verify"),
    (Publish, "publication", altered, "signature does not verify"),
    (Publish, "publication", own_replayed, "own reply came back other than it was sent"),
]


@pytest.mark.parametrize(("kind", "phase", "change", "told"), ATTACKS)
def test_a_coordinator_that_tampers_with_heads_is_caught(
    local: LocalRun,
    caplog: pytest.LogCaptureFixture,
    kind: Relaying,
    phase: str,
    change: Callable[[Replies, list[Replies]], Replies],
    told: str,
) -> None:
    local.wrap = lambda channel: Tampering(channel.answers, local, kind, change)
    with pytest.raises(CohortError, match=f"bank.* in phase {phase}"):
        local.run(SMALL)
    assert told in caplog.text
    assert "the run ended here (IntegrityError)" in caplog.text
    bank = local.services["bank"]
    assert bank._session is None
    assert bank.node.ledger.state().runs["run-1"].state == "failed"
    assert not tags_in(bank.node.store)


# Members that do not tell the truth ---------------------------------------------------------------


@dataclass
class Table:
    """Three parties' nodes that exchange decisions, without keys or data."""

    nodes: dict[str, Node]
    run: str = "run-1"

    def __post_init__(self) -> None:
        self.members = {party: node.key.public for party, node in self.nodes.items()}
        self.sides = {
            party: HeadExchange(node, self.run, self.members) for party, node in self.nodes.items()
        }

    def decisions(self) -> dict[str, Decision]:
        for node in self.nodes.values():
            reserve(node.ledger, self.run)
        return {party: decision(side.sign(0), side.known()) for party, side in self.sides.items()}

    def meet(self) -> None:
        decisions = self.decisions()
        for side in self.sides.values():
            side.meet(decisions)

    def forged(self, party: str, **changes: object) -> bytes:
        """A head that `party` itself signs, with something else in it than is true."""
        node = self.nodes[party]
        at = replace(node.ledger.position(), **changes)
        names = {"party": party, "run": self.run, "round_number": 0}
        return sign_head(node.key, node.local_key, at, **names, entropy=node.entropy)


def reserve(ledger: Ledger, run: str) -> None:
    named = {"plan_digest": "00", "plan": "churn", "purpose": "marketing"}
    ledger.reserve(run, **named, mechanisms=[SPEND], valid_for=timedelta(hours=1))


def spend(node: Node, run: str) -> None:
    node.ledger.intent(run, 1, SPEND, PROVENANCE)


def decision(head: bytes, known: Mapping[str, bytes]) -> Decision:
    return Decision(
        accepted=True,
        reason="",
        public_size=700,
        offer=bytes(OFFER_BYTES),
        applied=0,
        ledger_head=head,
        known_heads=dict(known),
    )


@pytest.fixture
def nodes(local: LocalRun) -> dict[str, Node]:
    return {party: local.service(party).node for party in PARTIES}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hash": "ab" * 32}, "the ledger of bank has two histories"),
        ({}, "the ledger of bank has not moved"),
        ({"position": 1}, "the ledger of bank is shorter than it was"),
    ],
)
def test_a_party_that_forks_its_ledger_is_caught_by_every_peer(
    nodes: dict[str, Node], changes: dict[str, object], told: str
) -> None:
    Table(nodes, "run-1").meet()
    second = Table(nodes, "run-2")
    lie = second.forged("bank", **changes)  # where the others know it to have been already
    decisions = {**second.decisions(), "bank": decision(lie, {})}
    for party in ("ecommerce", "retailer"):
        before = nodes[party].peers.read()
        with pytest.raises(ProtocolError, match=told):
            second.sides[party].meet(decisions)
        assert nodes[party].peers.read() == before


def test_a_fork_that_one_peer_can_see_is_caught_by_all(nodes: dict[str, Node]) -> None:
    """The retailer has never seen a head of the bank; what the ecommerce party shows is enough."""
    Table({party: nodes[party] for party in ("bank", "ecommerce")}, "run-1").meet()
    second = Table(nodes, "run-2")
    lie = second.forged("bank", hash="ab" * 32)
    decisions = {**second.decisions(), "bank": decision(lie, {})}
    assert "bank" not in nodes["retailer"].peers.read()
    with pytest.raises(ProtocolError, match="the ledger of bank has two histories"):
        second.sides["retailer"].meet(decisions)


def test_a_member_that_shows_a_head_nobody_signed_is_named(nodes: dict[str, Node]) -> None:
    table = Table(nodes)
    decisions = table.decisions()
    lie = decisions["ecommerce"].ledger_head
    decisions["retailer"] = decision(decisions["retailer"].ledger_head, {"bank": lie})
    for side in table.sides.values():
        with pytest.raises(ProtocolError, match="retailer shows a head that is none"):
            side.meet(decisions)


def test_heads_of_others_than_the_members_are_not_even_read(nodes: dict[str, Node]) -> None:
    table = Table(nodes)
    decisions = table.decisions()
    lie = {"stranger": bytes(len(decisions["bank"].ledger_head))}
    decisions["retailer"] = decision(decisions["retailer"].ledger_head, lie)
    for side in table.sides.values():
        side.meet(decisions)
    frames = {}
    for party, node in nodes.items():
        spend(node, "run-1")
        frames[party] = table.sides[party].sign(1)
    for side in table.sides.values():
        side.follow(frames | lie, 1)
    assert sorted(nodes["bank"].peers.read()) == ["ecommerce", "retailer"]
    assert {head.round for head in peers_of(nodes).values()} == {1}


def test_a_member_that_answers_without_a_head_is_refused(nodes: dict[str, Node]) -> None:
    table = Table(nodes)
    decisions = {**table.decisions(), "bank": decision(b"", {})}
    with pytest.raises(ProtocolError, match="ledger head of bank is missing"):
        table.sides["retailer"].meet(decisions)


def put_back(local: LocalRun, nodes: dict[str, Node], ledger: bytes) -> None:
    """The bank's ledger as it was, read by a new process."""
    ledger_of(local).write_bytes(ledger)
    nodes["bank"] = replace(nodes["bank"], ledger=Ledger(ledger_of(local)))


def test_two_lost_branches_are_both_charged(local: LocalRun, nodes: dict[str, Node]) -> None:
    """Put back twice, each time before what another member had seen: no branch is forgotten."""
    start = ledger_of(local).read_bytes()
    for run, peer in (("run-1", "ecommerce"), ("run-2", "retailer")):
        Table({party: nodes[party] for party in ("bank", peer)}, run).meet()
        spend(nodes["bank"], run)
        put_back(local, nodes, start)
    table = Table(nodes, "run-3")
    decisions = table.decisions()
    with pytest.raises(LedgerError, match="lacks entries"):
        table.sides["bank"].meet(decisions)
    nodes["bank"].ledger.refund("run-3")
    state = nodes["bank"].ledger.state()
    assert rdp(state.charged()) == pytest.approx(rdp([SPEND, SPEND]))
    assert len(state.gaps) == 2
    Table(nodes, "run-4").meet()


def test_in_the_middle_of_a_run_a_ledger_may_stand_still_and_not_fall_back(
    nodes: dict[str, Node],
) -> None:
    """When members form anew, nothing need have been written since their last reply."""
    first = Table(nodes, "run-1")
    first.meet()
    again = {party: decision(side.sign(0), side.known()) for party, side in first.sides.items()}
    for party, side in first.sides.items():
        with pytest.raises(ProtocolError, match="has not moved"):
            side.meet(again)
        side.meet(again, stands=True)
        assert len(nodes[party].peers.read()) == 2
    for changes in ({"hash": "ab" * 32}, {"position": 1}):
        lie = {**again, "bank": decision(first.forged("bank", **changes), {})}
        with pytest.raises(ProtocolError, match=r"two histories|shorter than it was"):
            first.sides["retailer"].meet(lie, stands=True)


def test_a_ledger_put_back_to_the_very_head_that_others_hold_is_not_noticed(
    local: LocalRun, nodes: dict[str, Node]
) -> None:
    """The stated residual: the intent after the newest relayed head is forgotten."""
    Table(nodes, "run-1").meet()
    known = ledger_of(local).read_bytes()
    spend(nodes["bank"], "run-1")
    put_back(local, nodes, known)
    nodes["bank"].ledger.close("run-1", outcome="failed")
    Table(nodes, "run-2").meet()
    nodes["bank"].ledger.refund("run-2")
    assert nodes["bank"].ledger.state().charged() == []


# The file ----------------------------------------------------------------------------------------


def test_what_is_remembered_is_this_users_alone_and_never_moves_back(
    local: LocalRun, nodes: dict[str, Node]
) -> None:
    path = memory_of(local)
    assert not path.exists()
    Table(nodes, "run-1").meet()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.glob("peer_heads.json*")) == [path]
    first = {party: head.position for party, head in peers_of(nodes).items()}
    Table(nodes, "run-2").meet()
    assert {party: head.position for party, head in peers_of(nodes).items()} == {
        party: position + 1 for party, position in first.items()
    }


def peers_of(nodes: dict[str, Node]) -> dict[str, SignedHead]:
    members = {party: node.key.public for party, node in nodes.items() if party != "bank"}
    return nodes["bank"].peers.of(members)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"format": 2, "heads": {}}',
        b'{"format": 1}',
        b'{"format": 1, "heads": []}',
        b'{"format": 1, "heads": {"bank": 7}}',
        b'{"format": 1, "heads": {"bank": "xyz"}}',
    ],
)
def test_a_damaged_memory_stops_the_service_and_says_what_deleting_it_costs(
    local: LocalRun, content: bytes
) -> None:
    path = memory_of(local)
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"peer_heads\.json is damaged.*delete it.*loses"):
        local.service("bank")
    path.unlink()
    assert local.service("bank").node.peers.read() == {}


def test_a_remembered_head_that_its_member_did_not_sign_is_damage(
    local: LocalRun, nodes: dict[str, Node]
) -> None:
    Table(nodes, "run-1").meet()
    path = memory_of(local)
    content = json.loads(path.read_bytes())
    heads = content["heads"]
    heads["retailer"], heads["ecommerce"] = heads["ecommerce"], heads["retailer"]
    path.write_text(json.dumps(content))
    with pytest.raises(LedgerError, match="is damaged"):
        HeadExchange(nodes["bank"], "run-2", {p: n.key.public for p, n in nodes.items()}).known()


def test_a_memory_damaged_mid_run_ends_the_run_and_not_the_service(local: LocalRun) -> None:
    path = memory_of(local)

    class Damaging(MemoryChannel):
        def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            if path.exists():
                path.write_bytes(b"{")
            return super().exchange(frames, timeout_s)

    local.wrap = lambda channel: Damaging(channel.answers)
    with pytest.raises(CohortError, match="bank refused a message in phase round 2"):
        local.run(SMALL)
    assert local.services["bank"]._session is None
    path.unlink()
    local.wrap = lambda channel: channel
    local.run(SMALL, "run-2")
