"""Coordinators that lie, alone and with a party's help, against the real party services.

What a liar says is signed with the coordinator's own key: nothing here forges a signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.aggregate import Adder
from coordinator.exchange import Exchanges
from coordinator.outcome import Figures
from coordinator.rounds import Conduct
from party_client.session import Session
from privacy.ciphertexts import CIPHERTEXT_BYTES, MODULUS
from privacy.errors import CohortError, IntegrityError, RunStopped
from privacy.framing import body_of, read, statement_of
from privacy.masking import SumLabel, derive, uniform_words
from privacy.messages import (
    REFUSAL,
    Body,
    EvaluationOpened,
    OpenEvaluation,
    Publish,
    TrainRound,
    Unmask,
    Unmasked,
    Update,
)
from privacy.packing import DATA_SLOTS, pack_fields
from privacy.shared_keys import SharedKeys
from privacy.sum_mac import holds, inner_products
from simulations.local_federation import Fault, FaultyChannel, announced
from tests.integration.conftest import tags_in

from .conftest import FOUR, ROUNDS, SINGLE, Faulty

ALL = ("bank", "ecommerce", "grocer", "retailer")
OTHERS = ALL[1:]
# Which sum is lied about: an early one, the last round's, the evaluation's; where all notice it.
LATER = [(1, "round 2"), (ROUNDS, "evaluation"), (ROUNDS + 1, "evaluation")]
Lie = Callable[[dict[str, bytes], dict[str, bytes]], dict[str, bytes]]


def session_of(four: Faulty, party: str) -> Session:
    session = four.service(party)._session
    assert session is not None
    return session


def keys_of(four: Faulty, party: str) -> SharedKeys:
    keys = session_of(four, party).stage.keys
    assert keys is not None
    return keys


def nobody_published(four: Faulty) -> bool:
    homes = four.federation.homes.values()
    return not any((home / "reports" / "run-1.json").exists() for home in homes)


# Alone: the sum is not that of exactly the participants ------------------------------------------


@dataclass
class LyingAdder(Adder):
    """Adds something else than it was given in its `when`-th sum (from 1)."""

    lie: Lie
    when: int
    sums: int = 0
    before: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def total(self, contributions: Mapping[str, bytes]) -> bytes:
        self.sums += 1
        given, before = dict(contributions), self.before
        self.before = given
        return super().total(self.lie(given, before) if self.sums == self.when else given)


def drop(given: dict[str, bytes], before: dict[str, bytes]) -> dict[str, bytes]:
    return {party: one for party, one in given.items() if party != "bank"}


def double(given: dict[str, bytes], before: dict[str, bytes]) -> dict[str, bytes]:
    return {**given, "bank again": given["bank"]}


def rescale(given: dict[str, bytes], before: dict[str, bytes]) -> dict[str, bytes]:
    return {**given, **{f"{party} again": one for party, one in given.items()}}


def replace(given: dict[str, bytes], before: dict[str, bytes]) -> dict[str, bytes]:
    return {**given, "bank": given["grocer"]}


def replay(given: dict[str, bytes], before: dict[str, bytes]) -> dict[str, bytes]:
    return before if len(before["bank"]) == len(given["bank"]) else replace(given, before)


def flip(given: dict[str, bytes], before: dict[str, bytes]) -> dict[str, bytes]:
    """One bit of one coefficient."""
    changed = bytearray(given["bank"])
    changed[CIPHERTEXT_BYTES // 2] ^= 1
    return {**given, "bank": bytes(changed)}


@pytest.mark.parametrize(
    ("lie", "when", "where"),
    [
        *((lie, *LATER[0]) for lie in (drop, flip)),
        *((lie, *LATER[1]) for lie in (double, replace)),
        *((lie, *LATER[2]) for lie in (drop, rescale)),
    ],
)
def test_a_sum_of_anything_but_all_uploads_once_is_refused_by_every_party(
    four: Faulty, caplog: pytest.LogCaptureFixture, lie: Lie, when: int, where: str
) -> None:
    with (
        LyingAdder(lie, when) as adder,
        pytest.raises(CohortError, match=f"{', '.join(ALL)} refused a message in phase {where}"),
    ):
        four.conduct(FOUR, adder).run()
    assert caplog.text.count("a sum is not that of exactly its participants' uploads") == len(ALL)
    assert {four.run_of(party).state for party in ALL} == {"failed"}
    assert nobody_published(four)


def test_an_earlier_rounds_sum_is_refused(four: Faulty) -> None:
    with LyingAdder(replay, 2) as adder, pytest.raises(CohortError, match="round 3"):
        four.conduct(FOUR, adder).run()


# With a party's help: two sums, each of which opens ----------------------------------------------


@dataclass
class TwoSums(Adder):
    """With the grocer's keys it makes, in its `when`-th sum, another one that passes the MAC."""

    four: Faulty
    when: int
    sums: int = 0
    other: bytes = b""

    def __post_init__(self) -> None:
        super().__init__()

    def total(self, contributions: Mapping[str, bytes]) -> bytes:
        self.sums += 1
        self.other = b""
        if self.sums == self.when:
            chunks = len(contributions["bank"]) // CIPHERTEXT_BYTES
            forged = self._shift(chunks)
            self.other = super().total({**contributions, "shift": forged})
        return super().total(contributions)

    def _shift(self, chunks: int) -> bytes:
        """An upload that shifts the first slot by one, with the tag that belongs to it."""
        session, keys = session_of(self.four, "grocer"), keys_of(self.four, "grocer")
        sums = session._sums
        assert sums is not None
        assert sums.pending is not None
        r = uniform_words(
            derive(keys._key("mac"), sums.pending.info("mac hash", 0)), DATA_SLOTS, MODULUS
        )
        values = np.zeros((chunks, DATA_SLOTS), dtype=np.int64)
        values[0, 0] = 1
        tags = inner_products(values, r)[:, np.newaxis]
        return keys._run_key.encrypt(np.concatenate([values, tags], axis=1))


class TwoFaced(Exchanges):
    """Tells the bank the other sum."""

    adder: TwoSums

    def say(
        self, parties: Iterable[str], body: Body, number: int, attempt: int = 1
    ) -> dict[str, bytes]:
        names = tuple(parties)
        if not isinstance(body, TrainRound | OpenEvaluation) or not (
            body.total and self.adder.other
        ):
            return super().say(names, body, number, attempt)
        told = body.model_copy(update={"total": self.adder.other})
        others = super().say([one for one in names if one != "bank"], body, number, attempt)
        return others | super().say([one for one in names if one == "bank"], told, number, attempt)


def two_faced(four: Faulty, adder: TwoSums) -> Conduct:
    conduct = four.conduct(FOUR, adder, TwoFaced)
    assert isinstance(conduct.exchanges, TwoFaced)
    conduct.exchanges.adder = adder
    return conduct


class Careless(Conduct):
    """Does not compare what the parties opened."""

    def _open_evaluation(self) -> tuple[tuple[str, ...], Figures]:
        number, carried = ROUNDS + 2, self.epochs.carried
        body = OpenEvaluation(replies=carried.replies, total=carried.total)
        with self.exchanges.ask(ALL, body, number) as answers:
            _, statements = self.exchanges.hear(answers, EvaluationOpened, number)
        assert answers.complete
        with self.exchanges.ask(ALL, Publish(replies=statements), number + 1) as answers:
            self.refused = answers.refused
        raise RunStopped("what was to be seen has been seen")


@pytest.mark.parametrize(("when", "where"), [(1, "round 3"), (ROUNDS, "evaluation")])
def test_two_sums_are_noticed_at_the_next_reply_by_every_party(
    four: Faulty, caplog: pytest.LogCaptureFixture, when: int, where: str
) -> None:
    with (
        TwoSums(four, when) as adder,
        pytest.raises(CohortError, match=f"{', '.join(ALL)} refused a message in phase {where}"),
    ):
        two_faced(four, adder).run()
    assert caplog.text.count("the members did not all open the same sum") == len(ALL)
    assert nobody_published(four)


def test_two_evaluations_are_noticed_by_the_coordinator(four: Faulty) -> None:
    with TwoSums(four, ROUNDS + 1) as adder, pytest.raises(IntegrityError, match=r"bank than ecom"):
        two_faced(four, adder).run()
    assert nobody_published(four)


def test_two_evaluations_are_noticed_by_every_party_before_it_publishes(four: Faulty) -> None:
    with TwoSums(four, ROUNDS + 1) as adder:
        careless = Careless(two_faced(four, adder).exchanges, adder)
        with pytest.raises(RunStopped):
            careless.run()
    assert careless.refused == ALL
    assert nobody_published(four)
    assert not any(tags_in(four.service(party).node.store) for party in ALL)


# A drop that was none ----------------------------------------------------------------------------


@dataclass
class Keeping:
    """Passes everything on, and keeps the uploads of round 1 by attempt; calls `look` when it has
    those of the second one."""

    four: Faulty
    look: Callable[[], None] = lambda: None
    uploads: dict[int, dict[str, Update]] = field(default_factory=dict)
    statements: dict[int, dict[str, bytes]] = field(default_factory=dict)
    said: list[tuple[str, int]] = field(default_factory=list)

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        replies = self.four.services_channel().exchange(frames, timeout_s)
        for party, reply in replies.items():
            if reply != REFUSAL:
                self.said.append(announced(reply)[:2])
                self._keep(party, reply)
        return replies

    def _keep(self, party: str, reply: bytes) -> None:
        kind, number, _ = announced(reply)
        if (kind, number) == (Update.kind, 1):
            received = read(reply, self.four.federation.members[party], Update)
            at = received.envelope
            self.uploads.setdefault(at.attempt, {})[party] = body_of(received, Update)
            self.statements.setdefault(at.attempt, {})[party] = statement_of(reply)
            if at.attempt == 2 and len(self.uploads[2]) == len(OTHERS):
                self.look()


def decrypted(
    keys: SharedKeys, uploads: Mapping[str, Update], label: SumLabel
) -> tuple[NDArray[np.int64], bool]:
    """What a key holder sees of a sum, and whether it is the true one."""
    with Adder() as adder:
        total = adder.total({party: one.ciphertexts for party, one in uploads.items()})
    opened = keys._run_key.decrypt(total)
    data, tags = opened[:, :DATA_SLOTS], opened[:, DATA_SLOTS]
    return data, holds(keys._key("mac"), label, data, tags)


@pytest.mark.parametrize("options", [b"", SINGLE], ids=["default", "single_opening"])
def test_a_feigned_drop_shows_a_key_holder_the_dropped_party_unless_the_plan_forbids(
    four: Faulty, options: bytes
) -> None:
    """The coordinator hears all of round 1, says that the bank has vanished, and hears the rest
    again. With the grocer's keys it opens both sums; their difference is the bank's noised update.
    Only the bank's own noise protects it then. Under single_opening neither sum opens before the
    seeds are revealed, and they are for one attempt alone."""
    seen: list[tuple[NDArray[np.int64], bool]] = []
    true: list[NDArray[np.int64]] = []

    def look() -> None:
        keys = keys_of(four, "grocer")
        for attempt, names in ((1, ALL), (2, OTHERS)):
            label = SumLabel(1, attempt, "update", names)
            seen.append(decrypted(keys, keeping.uploads[attempt], label))
        true.append(pack_fields(session_of(four, "bank").draws._updates[1].values))

    keeping = Keeping(four, look)
    gone = Fault("bank", "train-round", 1, loses="reply", away=10**6)
    four.wrap = lambda _: FaultyChannel(keeping, [gone])
    assert four.run(FOUR + options).parties == OTHERS
    (first, first_opens), (second, second_opens) = seen
    exposed = np.array_equal((first - second) % MODULUS, true[0])
    if options == SINGLE:
        assert not any((first_opens, second_opens, exposed))
    else:
        assert first_opens
        assert second_opens
        assert exposed


class Greedy(Exchanges):
    """Asks for the seeds of the first attempt when the second was answered."""

    keeping: Keeping

    def say(
        self, parties: Iterable[str], body: Body, number: int, attempt: int = 1
    ) -> dict[str, bytes]:
        if isinstance(body, Unmask) and number == 1:
            body, attempt = Unmask(replies=self.keeping.statements[1]), 1
        return super().say(parties, body, number, attempt)


def test_seeds_of_an_attempt_that_was_asked_again_are_never_revealed(four: Faulty) -> None:
    keeping = Keeping(four)
    gone = Fault("bank", "train-round", 1, loses="reply", away=10**6)
    four.wrap = lambda _: FaultyChannel(keeping, [gone])
    with Adder() as adder:
        conduct = four.conduct(FOUR + SINGLE, adder, Greedy)
        assert isinstance(conduct.exchanges, Greedy)
        conduct.exchanges.keeping = keeping
        conduct.run()  # without round 1, which nobody can ever open
    assert (Update.kind, 1) in keeping.said
    assert (Unmasked.kind, 1) not in keeping.said
    assert (Unmasked.kind, 2) in keeping.said


class AskingAgain(Conduct):
    """Asks for round 1 again when its seeds are revealed."""

    refused: tuple[str, ...] = ()

    def _unmask(self, wanted: object, attempt: int) -> None:
        super()._unmask(wanted, attempt)  # type: ignore[arg-type]
        body = TrainRound(members=OTHERS, replies={}, total=b"", lost=False)
        self.exchanges.narrow(OTHERS)
        with self.exchanges.ask(OTHERS, body, 1, 2) as answers:
            self.refused = answers.refused
        raise RunStopped("what was to be seen has been seen")


def test_a_round_whose_seeds_are_revealed_is_never_answered_again(four: Faulty) -> None:
    with Adder() as adder:
        asking = AskingAgain(four.conduct(FOUR + SINGLE, adder).exchanges, adder)
        with pytest.raises(RunStopped):
            asking.run()
    assert asking.refused == OTHERS
