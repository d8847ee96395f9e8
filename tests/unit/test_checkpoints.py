"""What a run keeps to be told again: it reads back as it was, and nothing else is taken for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.checkpoints import (
    Answered,
    Answers,
    Entry,
    Kept,
    Measured,
    Replay,
    digest_of,
    entry_from_bytes,
    entry_to_bytes,
)
from privacy.errors import RunError, StoreError
from privacy.framing import Attached, seal, statement_of
from privacy.identity import SigningKey
from privacy.messages import VERSION, Header, OpenEvaluation, Publish

HASHES = st.binary(min_size=32, max_size=32)
NAMES = st.text("abcdefgh-", min_size=1, max_size=31)
ANSWERED = st.builds(
    Answered,
    asked=HASHES,
    attached=st.builds(Attached, st.integers(0, 48 << 20), HASHES),
    statements=st.dictionaries(NAMES, st.binary(max_size=200), max_size=4),
    refused=st.lists(NAMES, max_size=3).map(tuple),
    vanished=st.lists(NAMES, max_size=3).map(tuple),
    kept=st.one_of(st.just(b""), HASHES),
    needed=st.lists(HASHES, max_size=3).map(tuple),
)
MOMENTS = st.datetimes(timezones=st.just(UTC))
KEY = SigningKey.generate()
MEASURED = Measured("round", 1, 0.5, {"bank": 1}, {"bank": 2})


@dataclass
class MemoryJournal:
    """Keeps entries in a list."""

    kept: Kept = field(default_factory=Kept)
    entries: list[Entry] = field(default_factory=list)
    attachments: list[bytes] = field(default_factory=list)
    told: int = 0

    def load(self) -> Kept:
        return self.kept

    def answered(self, entry: Answered, attachment: bytes, measured: Measured) -> None:
        self.entries.append(entry)
        self.attachments.append(attachment)

    def moment(self, at: datetime) -> None:
        self.entries.append(at)

    def caught_up(self) -> None:
        self.told += 1


def frame(body: OpenEvaluation | Publish, attached: Attached | None = None) -> bytes:
    header = Header(
        version=VERSION, manifest=b"m" * 32, plan=b"p" * 32, run="run-1", epoch=1, round=1,
        attempt=1, sender="coordinator", recipient="bank", sequence=1, previous=b"t" * 32,
    )  # fmt: skip
    return seal(header, body, KEY, attached)


@given(st.one_of(ANSWERED, MOMENTS))
def test_an_entry_reads_back_as_it_was(entry: Entry) -> None:
    assert entry_from_bytes(entry_to_bytes(entry)) == entry


@given(st.binary(max_size=200))
def test_what_is_no_entry_is_a_store_error(data: bytes) -> None:
    with pytest.raises(StoreError):
        entry_from_bytes(data)


def test_a_cut_entry_is_a_store_error() -> None:
    whole = entry_to_bytes(Answered(b"a" * 32, Attached(0, b""), {"bank": b"yes"}, (), ()))
    for length in range(len(whole)):
        with pytest.raises(StoreError):
            entry_from_bytes(whole[:length])


def test_a_frame_whose_attachment_is_gone_is_the_statement_of_the_whole_one() -> None:
    body = OpenEvaluation(replies={"bank": b"reply"}, total=b"ciphertext")
    whole = frame(body)
    bare = frame(body.model_copy(update={"total": b""}), Attached.of(body))
    assert bare == statement_of(whole) != whole
    assert digest_of({"bank": bare}) == digest_of({"bank": whole})


@given(st.dictionaries(NAMES, st.sampled_from([b"x" * 90, b"y" * 90]), min_size=1, max_size=3))
def test_the_digest_tells_who_is_sent_what(said: dict[str, bytes]) -> None:
    frames = {party: frame(Publish(replies={"bank": text})) for party, text in said.items()}
    party = sorted(frames)[0]
    other = frames | {party: frame(Publish(replies={"bank": b"z"}))}
    renamed = {f"{name}x": one for name, one in frames.items()}
    assert len({digest_of(frames), digest_of(other), digest_of(renamed)}) == 3


def test_what_was_heard_is_told_again_in_its_order_and_then_the_run_goes_on() -> None:
    said = {"bank": frame(Publish(replies={}))}
    at = datetime(2026, 1, 1, tzinfo=UTC)
    entry = Answered(digest_of(said), Attached(0, b""), {"bank": b"yes"}, ("shop",), ("post",))
    journal = MemoryJournal(Kept([entry, at]))
    replay = Replay(journal)
    assert (replay.pending, replay.resumed, replay.durable) == (True, True, True)
    answers = replay.answers(said)
    assert (answers.frames, answers.refused, answers.vanished) == (
        {"bank": b"yes"}, ("shop",), ("post",),
    )  # fmt: skip
    assert answers.again
    assert not answers.complete
    assert replay.moment(lambda: pytest.fail("the clock was asked")) == at
    assert (replay.pending, replay.resumed, journal.told) == (False, True, 0)
    replay.begin()
    replay.begin()
    replay.answered(digest_of(said), Attached(0, b""), Answers({}, (), ()), [], MEASURED)
    later = datetime(2026, 1, 2, tzinfo=UTC)
    assert replay.moment(lambda: later) == later
    assert (replay.resumed, journal.told, journal.entries[1:]) == (False, 1, [later])


def test_a_run_that_would_send_something_else_is_not_taken_up() -> None:
    said = {"bank": frame(Publish(replies={}))}
    other = {"bank": frame(Publish(replies={"bank": b"reply"}))}
    entry = Answered(digest_of(said), Attached(0, b""), {}, (), ())
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(RunError, match="cannot be taken up"):
        Replay(MemoryJournal(Kept([entry]))).answers(other)
    with pytest.raises(RunError, match="cannot be taken up"):
        Replay(MemoryJournal(Kept([entry]))).moment(lambda: at)
    with pytest.raises(RunError, match="cannot be taken up"):
        Replay(MemoryJournal(Kept([at]))).answers(said)


def test_of_attachments_only_what_is_still_carried_is_needed() -> None:
    journal = MemoryJournal()
    replay = Replay(journal)
    sums = [b"one", b"two", b"three"]
    hashes = [hashlib.sha256(one).digest() for one in sums]
    for number, carried in enumerate(([], [0], [1])):
        answers = Answers({}, (), ())
        assert answers.keep(lambda: sums[number]) is sums[number]  # noqa: B023
        replay.answered(b"", Attached(0, b""), answers, [sums[one] for one in carried], MEASURED)
    kept = [one for one in journal.entries if isinstance(one, Answered)]
    assert [one.kept for one in kept] == hashes
    assert [set(one.needed) for one in kept] == [
        {hashes[0]}, {hashes[0], hashes[1]}, {hashes[1], hashes[2]},
    ]  # fmt: skip
    assert journal.attachments == sums


def test_what_is_needed_must_be_there() -> None:
    entry = Answered(b"", Attached(0, b""), {}, (), (), b"k" * 32, (b"k" * 32,))
    with pytest.raises(StoreError, match="lacks a ciphertext"):
        Replay(MemoryJournal(Kept([entry])))
    # An older entry's may be gone: no message carries it any more.
    newer = replace(entry, kept=b"", needed=())
    assert Replay(MemoryJournal(Kept([entry, newer]))).pending


def test_without_a_journal_nothing_is_kept() -> None:
    replay = Replay(None)
    assert (replay.durable, replay.pending, replay.resumed) == (False, False, False)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert replay.moment(lambda: at) == at
