"""A coordinator that a test leads by hand, message by message: honest unless the test lies."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from party_client.session import Session
from privacy.conversation import Conversation
from privacy.encryption import Adder
from privacy.framing import statement_of
from privacy.identity import sign_plan
from privacy.messages import (
    REFUSAL,
    Body,
    ConfirmKeys,
    Decision,
    Evaluate,
    EvaluationOpened,
    EvaluationUpdate,
    KeyConfirm,
    KeySeal,
    OpenEvaluation,
    Preflight,
    Publish,
    Receipt,
    Regroup,
    SealKeys,
    TrainRound,
    Unmask,
    Unmasked,
    Update,
    Weigh,
    WeightUpdate,
    manifest_hash,
)
from tests.integration.conftest import LocalRun

REPLIES: dict[type[Body], type[Body]] = {
    Preflight: Decision,
    Regroup: Decision,
    SealKeys: KeySeal,
    ConfirmKeys: KeyConfirm,
    Weigh: WeightUpdate,
    TrainRound: Update,
    Evaluate: EvaluationUpdate,
    Unmask: Unmasked,
    OpenEvaluation: EvaluationOpened,
    Publish: Receipt,
}


@dataclass
class Script:
    """One run. `present`: whom `ask` asks; `replies`: the statements of what they said last, and
    `bodies` what it was; `total`: the sum that they have not been given yet."""

    local: LocalRun
    plan: bytes
    run: str = "run-1"
    epoch: int = 0
    present: tuple[str, ...] = ()
    replies: dict[str, bytes] = field(default_factory=dict)
    bodies: dict[str, Body] = field(default_factory=dict)
    total: bytes = b""
    talks: dict[str, Conversation] = field(default_factory=dict)

    def keys_of(self, parties: Collection[str]) -> dict[str, bytes]:
        return {party: self.local.federation.members[party] for party in sorted(parties)}

    def session(self, party: str) -> Session:
        """The run at this party. Fails if it has ended there."""
        session = self.local.service(party)._session
        assert session is not None
        return session

    def active(self, party: str) -> bool:
        return self.local.service(party)._session is not None

    # One message at a time ---------------------------------------------------------------------

    def send(self, party: str, body: Body, number: int = 0, attempt: int = 1) -> bytes:
        """The party's reply; after a refusal the conversation stands as before."""
        talk = self.talks[party]
        before = talk.transcript, talk.sequence
        reply = self.local.service(party).answer(
            talk.say(body, number, attempt=attempt, begins=True)
        )
        if reply == REFUSAL:
            talk.transcript, talk.sequence = before
        else:
            self.hear(party, reply, body, number, attempt)
        return reply

    def send_last(self, party: str, body: Body) -> bytes:
        """Something whose answer does not matter."""
        frame = self.talks[party].say(body, 0, begins=True)
        return self.local.service(party).answer(frame)

    def hear(self, party: str, reply: bytes, body: Body, number: int, attempt: int) -> None:
        talk, kind = self.talks[party], REPLIES[type(body)]
        received = talk.receive(reply, kind)
        self.bodies[party] = talk.hear(received, kind, number, attempt=attempt, begins=False)
        self.replies[party] = statement_of(reply)

    def ask(self, body: Body, number: int = 0, attempt: int = 1) -> None:
        """Everybody present answers."""
        self.narrow(self.present)
        self.replies, self.bodies = {}, {}
        for party in self.present:
            assert self.send(party, body, number, attempt) != REFUSAL, party

    def narrow(self, parties: Collection[str]) -> None:
        """From now on headers name exactly these."""
        self.present = tuple(sorted(parties))
        for party in self.present:
            self.talks[party].manifest = manifest_hash(self.keys_of(self.present))

    # A run's steps -----------------------------------------------------------------------------

    def begin(self, parties: Collection[str], cohort: Collection[str]) -> None:
        """New conversations with `parties`, in the next epoch, about this cohort."""
        self.epoch += 1
        plan = hashlib.sha256(self.plan).digest()
        manifest = manifest_hash(self.keys_of(cohort))
        for party, key in self.keys_of(parties).items():
            signer = self.local.federation.coordinator
            self.talks[party] = Conversation(
                "coordinator", signer, party, key, self.run, plan, manifest, self.epoch
            )

    def proposal(self, cohort: Collection[str]) -> dict[str, object]:
        requester = self.local.federation.requester
        return {
            "plan": self.plan,
            "requester": requester.public,
            "requester_signature": sign_plan(requester, self.run, self.plan),
            "cohort": self.keys_of(cohort),
        }

    def preflight(self, parties: Collection[str]) -> None:
        self.present = tuple(sorted(parties))
        self.begin(parties, parties)
        for party in self.present:
            self.send(party, Preflight.model_validate(self.proposal(parties)))

    def regroup(self, parties: Collection[str]) -> None:
        """All of `parties` enter the next epoch; who holds the last one's keys opens its sum."""
        self.begin(parties, parties)
        replies, total = self.replies, self.total
        proposal = self.proposal(parties)
        body = Regroup.model_validate({**proposal, "replies": replies, "total": total})
        self.present, self.total, self.replies = tuple(sorted(parties)), b"", {}
        for party in self.present:
            assert self.send(party, body) != REFUSAL, party

    def agree(self) -> None:
        """Keys among all who are present, after their decisions."""
        self.ask(SealKeys(replies=dict(self.replies)))
        models = [one.model for one in self.bodies.values() if isinstance(one, KeySeal)]
        self.ask(ConfirmKeys(replies=dict(self.replies), model=max(models, key=len)))

    def start(self, parties: Collection[str]) -> None:
        self.preflight(parties)
        self.agree()

    def sum(self, body: Body, number: int, attempt: int = 1) -> None:
        """Ask all present for their part, and add."""
        self.ask(body, number, attempt)
        self.total = added(self.bodies)

    def training(self, *, again: bool = False, lost: bool = False) -> TrainRound:
        """What an honest coordinator says next."""
        replies = {} if again or lost else dict(self.replies)
        total = b"" if again else self.total
        return TrainRound(members=self.present, replies=replies, total=total, lost=lost)

    def train(self, number: int, attempt: int = 1, *, again: bool = False) -> None:
        self.sum(self.training(again=again), number, attempt)

    def weigh(self, attempt: int = 1) -> None:
        self.sum(Weigh(members=self.present, replies=dict(self.replies)), 0, attempt)

    def unmask(self, number: int, attempt: int = 1) -> None:
        self.ask(Unmask(replies=dict(self.replies)), number, attempt)

    def evaluate(self, number: int, attempt: int = 1) -> None:
        self.sum(self.evaluation(), number, attempt)

    def evaluation(self) -> Evaluate:
        return Evaluate.model_validate(self.training().model_dump())

    def finish(self, rounds: int) -> None:
        self.ask(OpenEvaluation(replies=dict(self.replies), total=self.total), rounds + 2)
        self.ask(Publish(replies=dict(self.replies)), rounds + 3)


def parts_of(bodies: Mapping[str, Body]) -> dict[str, bytes]:
    """What the parties uploaded."""
    kinds = Update | EvaluationUpdate | WeightUpdate
    return {party: one.ciphertexts for party, one in bodies.items() if isinstance(one, kinds)}


def added(bodies: Mapping[str, Body]) -> bytes:
    with Adder() as adder:
        return adder.add(list(parts_of(bodies).values()))
