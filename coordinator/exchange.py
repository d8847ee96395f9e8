"""One exchange: say one thing to some parties, wait, and hear who answered, in which words.

The coordinator relays signed frames and checks that everyone said what the protocol allows. It is
no root of trust: parties check each other's signatures themselves.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from coordinator.channel import Channel, Recorder
from models.plan import Plan
from privacy.conversation import Conversation
from privacy.errors import ProtocolError, RunStopped
from privacy.framing import statement_of
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


@dataclass
class Answers:
    """What came back: a frame, a refusal or nothing from each party that was asked."""

    frames: dict[str, bytes]
    refused: tuple[str, ...]
    vanished: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """True if everyone answered and nobody refused."""
        return not self.refused and not self.vanished


class Exchanges:
    """The conversations of one run, each with the party's newest epoch, and their record."""

    def __init__(
        self,
        request: RunRequest,
        plan: Plan,
        channel: Channel,
        signer: SigningKey,
        recorder: Recorder,
    ) -> None:
        self.request, self.plan, self.recorder = request, plan, recorder
        self.phase, self.round = "", 0
        self._channel, self._signer = channel, signer
        self._talks: dict[str, Conversation] = {}
        self._heads: dict[str, SignedHead] = {}
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

    def narrow(self, parties: Iterable[str]) -> None:
        """From now on these and no others take part."""
        keys = {party: self.request.members[party] for party in parties}
        for party in keys:
            self._talks[party].manifest = manifest_hash(keys)

    def forget(self, parties: Iterable[str]) -> None:
        """These have said no by a decision, and hold nothing of the run."""
        for party in parties:
            del self._talks[party]

    def say(
        self, parties: Iterable[str], body: Body, number: int, attempt: int = 1
    ) -> dict[str, bytes]:
        """The frames that begin an exchange; `number` and `attempt` as in a message's header."""
        return {
            party: self._talks[party].say(body, number, attempt=attempt, begins=True)
            for party in parties
        }

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
        if self.recorder.stop_requested():
            raise RunStopped("an operator stopped the run")
        down = {party: len(frame) for party, frame in frames.items()}
        started = time.monotonic()
        replies = dict(self._channel.exchange(frames, timeout_s))
        frames.clear()  # a sum for every party: not to be kept while theirs are added
        up = {party: len(frame) for party, frame in replies.items()}
        refused = tuple(sorted(one for one, frame in replies.items() if frame == REFUSAL))
        for party in refused:
            del replies[party]
        vanished = tuple(sorted(set(down) - set(up)))
        self._silent = (self._silent - set(up)) | set(vanished)
        yield Answers(replies, refused, vanished)
        seconds = time.monotonic() - started
        self.recorder.exchange(phase, self.round or None, seconds, up, down)

    def hear(
        self, answers: Answers, expected: type[BodyT], number: int, attempt: int = 1
    ) -> tuple[dict[str, BodyT], dict[str, bytes]]:
        """Everyone's reply as `expected`, and as the statement to be relayed.

        Takes the frames out of `answers`, so that only the bodies keep what was attached. Raises
        ProtocolError, naming the party, for what is not the one reply that may come now, or whose
        ledger head is not of this run and round or goes back.
        """
        bodies, statements = {}, {}
        for party in sorted(answers.frames):
            frame, talk = answers.frames.pop(party), self._talks[party]
            try:
                received = talk.receive(frame, expected)
                bodies[party] = talk.hear(received, expected, number, attempt=attempt, begins=False)
                statements[party] = statement_of(frame)
            except ProtocolError as error:
                raise type(error)(f"{party}: {error}") from error
            self._check_head(party, bodies[party], number)
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
