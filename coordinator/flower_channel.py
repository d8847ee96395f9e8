"""`coordinator.channel.Channel` over Flower.

Flower offers every run every registered node; here only the nodes of the cohort, as our own
enrolment maps them, are ever addressed. Flower's own `send_and_receive` polls every three seconds,
so replies are polled for here.

What is left of the time of an empty exchange is Flower's: a SuperNode that finds no message sleeps
three seconds, and looks for a reply every half second. Keeping it awake with small messages was
tried: on two cores they cost the SuperLink as much as they saved.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.run import RunNotRunningException

from privacy.errors import RunInterrupted

logger = logging.getLogger(__name__)

POLL_S = 0.15
# A reply that is still on its way is waited for this long before the others are looked after.
OBJECTS_S = 1.0
# Flower moves every object of a message by a request of its own, and a ConfigRecord is two objects
# fewer than an array; but only arrays are cut into chunks.
SMALL_FRAME_BYTES = 1 << 20


@dataclass
class _Coming:
    """A reply that Flower has announced. `asked`: the message that it answers; `number`: its own;
    `parts`: ids of what it is made of,
    `objects`: what has come of that."""

    asked: str
    number: str
    parts: list[str]
    objects: dict[str, bytes] = field(default_factory=dict)


class FlowerChannel:
    """Exchanges frames with the parties named in `nodes` (party → Flower node id)."""

    def __init__(self, grid: Grid, nodes: Mapping[str, int]) -> None:
        self._grid: Any = grid
        self._nodes = dict(nodes)

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """As `Channel.exchange`. Raises RunInterrupted if Flower ended its run, or the SuperLink
        refuses; while it is away, Flower's own client asks again until it is back."""
        return self._exchange("query.frame", frames, timeout_s)

    def exchange_empty(self, parties: Iterable[str], timeout_s: float) -> Mapping[str, bytes]:
        """An exchange that no party service sees: eight bytes to each node's relay and back."""
        # Different bytes each: Flower stores equal contents once, and takes them away once.
        frames = {party: secrets.token_bytes(8) for party in parties}
        return self._exchange("query.empty", frames, timeout_s)

    def _exchange(
        self, kind: str, frames: Mapping[str, bytes], timeout_s: float
    ) -> Mapping[str, bytes]:
        try:
            return self._carry(kind, frames, timeout_s)
        except RunNotRunningException:  # a BaseException of Flower's
            raise RunInterrupted("Flower ended its run") from None
        except httpx.HTTPError as error:
            raise RunInterrupted(
                f"the SuperLink failed an exchange ({type(error).__name__}); see logs/superlink.log"
            ) from error

    def _carry(self, kind: str, frames: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
        deadline = time.monotonic() + timeout_s
        sent = [party for party in frames if party in self._nodes]
        numbers = self._grid.push_messages(
            [self._message(kind, party, frames[party], timeout_s) for party in sent]
        )
        # Flower answers in order, with nothing for a message that it did not take.
        waiting = {number: party for number, party in zip(numbers, sent, strict=False) if number}
        replies: dict[str, bytes] = {}
        coming: list[_Coming] = []
        while waiting and time.monotonic() < deadline:
            pulled = self._pull(list(waiting), coming)
            for message in pulled:
                # Flower's own error replies name no sender: only the id they answer is sure.
                party = waiting.pop(message.metadata.reply_to_message_id)
                frame = None if message.has_error() else _frame_of(message)
                if frame is None:
                    logger.warning("no reply from %s: %s", party, _reason(message))
                else:
                    replies[party] = frame
            if waiting and not pulled:
                time.sleep(POLL_S)
        return replies

    def _message(self, kind: str, party: str, frame: bytes, ttl: float) -> Message:
        content = RecordDict()
        if len(frame) <= SMALL_FRAME_BYTES:
            content["frame"] = ConfigRecord({"bytes": frame})
        else:
            array = Array("uint8", (len(frame),), "bytes", frame)
            content["frame"] = ArrayRecord({"bytes": array})
        return Message(content, self._nodes[party], kind, ttl=ttl)

    def _pull(self, numbers: list[str], coming: list[_Coming]) -> list[Any]:
        """The replies that have come to messages `numbers`; `coming` is kept between two looks.

        `Grid.pull_messages` does the same but tries an object that is still on its way again
        after one, two, four seconds; a reply is nearly always caught in that state. And it waits
        for minutes, and fails, if a node was killed while it sent its reply: Flower announces a
        reply once, before its objects are there.
        """
        grid, client = self._grid, self._grid._runtime_client
        announced = {one.asked for one in coming}
        if wanted := [one for one in numbers if one not in announced]:
            found = client.PullMessages(PullAppMessagesRequest(message_ids=wanted))
            for stub, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                known = stub.metadata
                parts = [each.object_id for each in iterate_object_tree(tree)]
                coming.append(_Coming(known.reply_to_message_id, known.message_id, parts))
        replies = []
        for one in list(coming):
            if not self._whole(one):
                continue
            coming.remove(one)
            client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=grid.node, run_id=grid.run.run_id, message_object_id=one.number
                )
            )
            replies.append(inflate_object_from_contents(one.number, one.objects))
        return replies

    def _whole(self, one: _Coming) -> bool:
        """Pull what is missing of a reply, and say whether all of it is there."""
        grid = self._grid
        pull = make_pull_object_fn_protobuf(
            grid._runtime_client.PullObject, grid.node, grid.run.run_id
        )

        def keep(object_id: str) -> bytes:
            one.objects[object_id] = pull(object_id)
            return one.objects[object_id]

        try:
            pull_objects(
                [each for each in one.parts if each not in one.objects],
                keep,
                max_time=OBJECTS_S,
                initial_backoff=0.05,
                backoff_cap=OBJECTS_S / 4,
            )
        except ObjectPullError:
            return False
        return True


def _frame_of(message: Any) -> bytes | None:
    try:
        record = message.content["frame"]["bytes"]
        return bytes(record.data if isinstance(record, Array) else record)
    except (KeyError, TypeError):
        return None


def _reason(message: Any) -> str:
    return f"{message.error.code} {message.error.reason}" if message.has_error() else "no frame"
