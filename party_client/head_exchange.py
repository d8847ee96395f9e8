"""The exchange of ledger heads in one run: what this party shows of ledgers, and what it accepts.

Every decision, update, evaluation and receipt carries the signed head of its party's ledger
(`privacy.ledger_heads`); the coordinator relays these replies at the next exchange. Each member
keeps the newest of every other one (`party_client.peer_heads`), and its decision shows those to
all. So

- a party whose ledger lacks an entry that a member has seen charges what is missing;
- a party whose ledger went back, forked or stood still is refused by every other member;
- a coordinator that drops, replays, swaps or alters heads ends the run.

Not noticed: a ledger put back to exactly the newest head that others hold. It can hide the intents
that are not relayed yet: one round's, or two if only this party was sent the next round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from party_client.node import Node
from privacy.errors import LedgerError, ProtocolError
from privacy.ledger_heads import SignedHead, check_ahead, open_head, read_head, sign_head
from privacy.messages import Decision

Shown = Mapping[str, Sequence[SignedHead]]


class HeadExchange:
    """The heads of one run's epoch at this party.

    Invariant: a member's head is kept, durably, before this party's next message, and only if it
    is ahead of every head of that member that anyone in the run has shown.
    """

    def __init__(self, node: Node, run: str, members: Mapping[str, bytes]) -> None:
        self._node, self._run = node, run
        self._members = dict(members)
        self._sent = b""

    def sign(self, round_number: int) -> bytes:
        """This party's head as of now; `round_number` as in `SignedHead`."""
        node = self._node
        self._sent = sign_head(
            node.key,
            node.local_key,
            node.ledger.position(),
            party=node.party,
            run=self._run,
            round_number=round_number,
            entropy=node.entropy,
        )
        return self._sent

    def known(self) -> dict[str, bytes]:
        """The newest heads that this party holds of the other members."""
        return {party: head.frame for party, head in self._kept().items()}

    def meet(self, decisions: Mapping[str, Decision], *, stands: bool = False) -> None:
        """Check and keep what the final cohort's decisions say of every member's ledger.

        `stands`: a ledger may be where it was last shown, as in the middle of a run.

        Raises LedgerError if this party's own ledger lacks an entry that a member has seen; by then
        the gap is charged, and the next run can go on. Raises ProtocolError, naming the party, if a
        member's ledger is not ahead of what anyone here has seen of it.
        """
        self._members = {party: self._members[party] for party in decisions}
        shown = {party: self._shown(party, decisions) for party in decisions}
        self._reconcile(shown[self._node.party])
        heads = {party: one.ledger_head for party, one in decisions.items()}
        self._accept(heads, 0, shown, stands)

    def follow(self, frames: Mapping[str, bytes], round_number: int) -> None:
        """Check and keep the participants' heads of the exchange before, as the coordinator relays
        them; these are `frames`' parties.

        Raises ProtocolError unless each is of this run and round, and ahead.
        """
        self._accept(frames, round_number, {}, stands=False)

    def _shown(self, party: str, decisions: Mapping[str, Decision]) -> list[SignedHead]:
        """What the others' decisions show of `party`'s ledger."""
        found = []
        for witness, decision in decisions.items():
            if witness != party and party in decision.known_heads:
                frame = decision.known_heads[party]
                try:
                    found.append(read_head(frame, party, self._members[party]))
                except ProtocolError as error:
                    raise ProtocolError(f"{witness} shows a head that is none: {error}") from error
        return found

    def _reconcile(self, shown: Sequence[SignedHead]) -> None:
        """Charge what this party's ledger has lost. Each lost place is charged by itself, because
        nothing shows that one led to the other: that may be too much, and never too little."""
        ledger = self._node.ledger
        lost = [one for one in shown if not ledger.contains(one.position, one.hash)]
        gaps = [open_head(one, self._node.local_key) for one in lost]
        for gap in sorted(gaps, key=lambda one: one.position):
            ledger.charge_gap(gap)
        if gaps:
            raise LedgerError(
                "ledger.jsonl lacks entries that other parties have seen: it was cut, or restored "
                "from an older copy. What was charged there is charged now, as a gap. The run "
                "ends here; submit the plan again"
            )

    def _accept(
        self, frames: Mapping[str, bytes], round_number: int, shown: Shown, stands: bool
    ) -> None:
        if frames.get(self._node.party) != self._sent:
            raise ProtocolError("this party's own ledger head came back other than it was sent")
        kept, fresh = self._kept(), []
        for party in sorted(set(frames) & set(self._others())):
            head = read_head(frames[party], party, self._members[party])
            if (head.run, head.round) != (self._run, round_number):
                raise ProtocolError(f"the ledger head of {party} is not of this run and round")
            for known in (*shown.get(party, ()), *([kept[party]] if party in kept else [])):
                check_ahead(head, known, stands=stands)
            fresh.append(head)
        self._node.peers.keep(fresh)

    def _others(self) -> dict[str, bytes]:
        return {party: key for party, key in self._members.items() if party != self._node.party}

    def _kept(self) -> dict[str, SignedHead]:
        return self._node.peers.of(self._others())
