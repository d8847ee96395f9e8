"""One exchange: say one thing to some parties, wait, and hear who answered, in which words.

The coordinator relays signed frames and checks that everyone said what the protocol allows. It is
no root of trust: parties check each other's signatures themselves. An exchange that an earlier
process of the run has made is not made again (`coordinator.checkpoints`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from coordinator.channel import Channel, Recorder
from coordinator.checkpoints import Answers, Journal, Measured, Replay, digest_of
from models.plan import Plan
from privacy.conversation import Conversation
from privacy.errors import ProtocolError, RunStopped
from privacy.evidence_statements import Heard
from privacy.framing import Attached, frame_digest, statement_of
from privacy.identity import SigningKey
from privacy.ledger_heads import SignedHead, check_ahead, read_head
from privacy.messages import REFUSAL, Body, Decision, manifest_hash

COORDINATOR = "coordinator"
# How long a party that was lost gets to answer. It may be gone for good, and others wait for it.
SHORT_WAIT_S = 20.0
# What an exchange with lost parties alone is recorded as.
RETURN = "return"
BodyT = TypeVar("BodyT", bound=Body)


@dataclass(frozen=True)
class RunRequest:
    """A signed request for one run. `members`: every enrolled party and its public key."""

    run_id: str
    plan_source: bytes
    requester_public: bytes
    requester_signature: bytes
    members: Mapping[str, bytes]


class Exchanges:
    """The conversations of one run, each with the party's newest epoch, and their record.

    `carried` gives the attachments that later messages may bring.
    """

    def __init__(
        self,
        request: RunRequest,
        plan: Plan,
        channel: Channel,
        signer: SigningKey,
        recorder: Recorder,
        journal: Journal | None = None,
    ) -> None:
        self.request, self.plan, self.recorder = request, plan, recorder
        self.phase, self.round = "", 0
        self._channel, self._signer = channel, signer
        self._talks: dict[str, Conversation] = {}
        self._heads: dict[str, SignedHead] = {}
        self.carried: Callable[[], Iterable[bytes]] = tuple
        self._replay = Replay(journal)
        self._attached = Attached(0, b"")
        # Of each party the digest of what it was asked last, and who was named as participants.
        self._asked: dict[str, bytes] = {}
        self._named: dict[str, tuple[str, ...]] = {}
        # Parties that did not answer the last time: an abort would only wait for them again.
        self._silent: set[str] = set()

    def enter(self, phase: str, number: int = 0) -> None:
        """A phase begins; `number` is the round that it belongs to, 0 if none."""
        if (phase, number) == (self.phase, self.round):
            return
        self.phase, self.round = phase, number
        self.recorder.phase(phase, number or None, self.plan.training.rounds)

    @property
    def where(self) -> str:
        """The phase for people, such as 'round 3'."""
        return self.phase + (f" {self.round}" if self.round else "")

    def begin(self, parties: Iterable[str], epoch: int, cohort: Mapping[str, bytes]) -> None:
        """New conversations, of this epoch, with these of the proposed cohort."""
        plan = hashlib.sha256(self.request.plan_source).digest()
        for party in parties:
            self._talks[party] = Conversation(
                COORDINATOR,
                self._signer,
                party,
                cohort[party],
                self.request.run_id,
                plan,
                manifest_hash(cohort),
                epoch,
            )
            self._named[party] = tuple(sorted(cohort))

    def narrow(self, parties: Iterable[str]) -> None:
        """From now on these and no others take part."""
        keys = {party: self.request.members[party] for party in parties}
        for party in keys:
            self._talks[party].manifest = manifest_hash(keys)
            self._named[party] = tuple(sorted(keys))

    def forget(self, parties: Iterable[str]) -> None:
        """These have said no by a decision, and hold nothing of the run."""
        for party in parties:
            del self._talks[party]

    def say(
        self, parties: Iterable[str], body: Body, number: int, attempt: int = 1
    ) -> dict[str, bytes]:
        """The frames that begin an exchange; `number` and `attempt` as in a message's header. Of
        one that was answered before, perhaps their statements only."""
        attached = self._attached = self._replay.attached(body)
        frames = {}
        for party in parties:
            talk = self._talks[party]
            frame = talk.say(body, number, attempt=attempt, begins=True, attached=attached)
            frames[party], self._asked[party] = frame, frame_digest(frame)
        return frames

    @contextmanager
    def ask(
        self, parties: Iterable[str], body: Body, number: int, attempt: int = 1
    ) -> Iterator[Answers]:
        """Say `body` to `parties`. What the block does with the answers belongs to the exchange,
        and so to its recorded time. Raises RunStopped if an operator wishes so."""
        frames = self.say(parties, body, number, attempt)
        timeout = float(self.plan.cohort.timeout_seconds)
        with self._carry(frames, timeout, self.phase) as answers:
            yield answers

    @contextmanager
    def ask_lost(self, frames: Mapping[str, bytes]) -> Iterator[Answers]:
        """Ask parties that were lost, with the short wait."""
        timeout = min(SHORT_WAIT_S, self.plan.cohort.timeout_seconds)
        with self._carry(dict(frames), timeout, RETURN) as answers:
            yield answers

    @contextmanager
    def _carry(self, frames: dict[str, bytes], timeout_s: float, phase: str) -> Iterator[Answers]:
        if self._replay.pending:
            answers = self._replay.answers(frames)
            self._note_silent(frames, answers.vanished)
            yield answers
            return
        self._replay.begin()
        if self.recorder.stop_requested():
            raise RunStopped("an operator stopped the run")
        asked = digest_of(frames) if self._replay.durable else b""
        down = {party: len(frame) for party, frame in frames.items()}
        started = time.monotonic()
        replies = dict(self._channel.exchange(frames, timeout_s))
        frames.clear()  # a sum for every party: not to be kept while theirs are added
        up = {party: len(frame) for party, frame in replies.items()}
        refused = tuple(sorted(one for one, frame in replies.items() if frame == REFUSAL))
        for party in refused:
            del replies[party]
        vanished = tuple(sorted(set(down) - set(up)))
        self._note_silent(down, vanished)
        answers = Answers(replies, refused, vanished)
        yield answers
        seconds, number = time.monotonic() - started, self.round or None
        if self._replay.durable:
            measured = Measured(phase, number, seconds, up, down)
            self._replay.answered(asked, self._attached, answers, self.carried(), measured)
        else:
            self.recorder.exchange(phase, number, seconds, up, down)

    def _note_silent(self, asked: Iterable[str], vanished: Iterable[str]) -> None:
        self._silent = (self._silent - set(asked)) | set(vanished)

    @property
    def durable(self) -> bool:
        """True if another process can take the run up where this one ends."""
        return self._replay.durable

    @property
    def pending(self) -> bool:
        """True while the run is told again: nothing is waited for then."""
        return self._replay.pending

    @property
    def resumed(self) -> bool:
        """True in a process that took the run up, until its first exchange has ended."""
        return self._replay.resumed

    def moment(self, now: Callable[[], datetime]) -> datetime:
        """The moment that the run decides by at this point; the same one when it is taken up."""
        return self._replay.moment(now)

    def hear(
        self, answers: Answers, expected: type[BodyT], number: int, attempt: int = 1
    ) -> tuple[dict[str, BodyT], dict[str, bytes]]:
        """Everyone's reply as `expected`, and as the statement to be relayed.

        Takes the frames out of `answers`, so that only the bodies keep what was attached. Raises
        ProtocolError, naming the party, for what is not the one reply that may come now, or whose
        ledger head is not of this run and round or goes back.
        """
        bodies, statements = {}, answers.statements
        heard: list[Heard] = []
        try:
            for party in sorted(answers.frames):
                frame, talk = answers.frames.pop(party), self._talks[party]
                read = talk.receive_again if answers.again else talk.receive
                try:
                    received = read(frame, expected)
                    bodies[party] = talk.hear(
                        received, expected, number, attempt=attempt, begins=False
                    )
                except ProtocolError as error:
                    raise type(error)(f"{party}: {error}") from error
                statements[party] = statement_of(frame)
                heard.append(
                    Heard(received, self._asked[party], self._named[party], statements[party])
                )
                self._check_head(party, bodies[party], number)
        finally:
            if heard and not answers.again:
                self.recorder.statements(heard)
        return bodies, statements

    def tell(self, body: Body, timeout_s: float) -> None:
        """Say a last thing to everyone who still answers; what comes back is not heard."""
        spoken = [party for party, talk in self._talks.items() if talk.sequence > 0]
        asked = [party for party in spoken if party not in self._silent]
        if asked:
            self._channel.exchange(self.say(asked, body, 0), timeout_s)

    def _check_head(self, party: str, body: Body, number: int) -> None:
        frame = getattr(body, "ledger_head", b"")
        if not frame and not (isinstance(body, Decision) and body.accepted):
            return
        head = read_head(frame, party, self.request.members[party])
        if (head.run, head.round) != (self.request.run_id, number):
            raise ProtocolError(f"the ledger head of {party} is not of this run and round")
        if party in self._heads:
            check_ahead(head, self._heads[party], stands=True)
        self._heads[party] = head

    @property
    def heads(self) -> dict[str, bytes]:
        """Each party's newest signed ledger head in this run."""
        return {party: head.frame for party, head in self._heads.items()}
