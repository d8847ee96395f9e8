"""What every `coordinator.channel.Channel` owes the coordinator, whatever carries the frames."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from coordinator.channel import Channel
from tests.contract.echo_service import LATE, SLOW, answer_of

# `connect(present)` gives a channel that knows PARTIES, of which only `present` are running.
Connect = Callable[[Collection[str]], Channel]
PARTIES = ("bank", "ecommerce", "retailer")
ENOUGH_S = 30.0
# A busy machine answers at once in this time, and nobody answers LATE in it.
HASTE_S = 1.5


class ChannelContract:
    """Inherit and give the fixture `connect`; parties answer as `echo_service.answer_of` does."""

    @pytest.fixture
    def connect(self) -> Connect:
        raise NotImplementedError

    def test_every_party_gets_its_own_frame_and_its_reply_comes_back_whole(
        self, connect: Connect
    ) -> None:
        frames = {party: f"to {party}".encode() for party in PARTIES}
        replies = connect(PARTIES).exchange(frames, ENOUGH_S)
        assert replies == {party: f"{party} heard to {party}".encode() for party in PARTIES}

    def test_only_parties_that_were_named_are_asked(self, connect: Connect) -> None:
        assert set(connect(PARTIES).exchange({"bank": b"you"}, ENOUGH_S)) == {"bank"}
        assert connect(PARTIES).exchange({}, ENOUGH_S) == {}

    @pytest.mark.parametrize("frame", [b"", b"\0", b"\xff" * 70_000])
    def test_frames_are_opaque_bytes_of_any_length(self, connect: Connect, frame: bytes) -> None:
        assert connect(PARTIES).exchange({"bank": frame}, ENOUGH_S) == {
            "bank": answer_of("bank", frame)
        }

    def test_a_large_frame_arrives_whole_in_both_directions(self, connect: Connect) -> None:
        frame = bytes(range(256)) * (24 * 4096)  # 24 MiB: far beyond any buffer on the way
        replies = connect(PARTIES).exchange({"bank": frame, "retailer": frame[::-1]}, ENOUGH_S)
        assert set(replies) == {"bank", "retailer"}
        # Not compared by ==: a difference would be printed byte by byte.
        assert all(
            replies[party] == answer_of(party, sent)
            for party, sent in (("bank", frame), ("retailer", frame[::-1]))
        ), "a large frame was changed on its way"

    def test_a_party_that_is_not_there_is_missing_and_the_others_are_not(
        self, connect: Connect
    ) -> None:
        frames = dict.fromkeys(PARTIES, b"anybody?")
        replies = connect(("bank", "retailer")).exchange(frames, ENOUGH_S)
        assert set(replies) == {"bank", "retailer"}

    def test_a_reply_that_comes_too_late_is_missing_and_never_shows_up_later(
        self, connect: Connect
    ) -> None:
        channel = connect(PARTIES)
        frames = {"bank": b"at once", "retailer": LATE + b" one"}
        assert set(channel.exchange(frames, HASTE_S)) == {"bank"}
        assert channel.exchange({"retailer": b"the next"}, ENOUGH_S) == {
            "retailer": answer_of("retailer", b"the next")
        }

    def test_a_slow_reply_in_time_counts(self, connect: Connect) -> None:
        replies = connect(PARTIES).exchange({"bank": SLOW, "retailer": b"quick"}, ENOUGH_S)
        assert set(replies) == {"bank", "retailer"}
