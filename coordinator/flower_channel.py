"""`coordinator.channel.Channel` over Flower.

Flower offers every run every registered node; here only the nodes of the cohort, as our own
enrolment maps them, are ever addressed. Flower's own `send_and_receive` polls every three seconds,
so replies are polled for here.

A SuperNode that finds no message waiting sleeps three seconds, which is fixed in Flower. A party
that answered is therefore sent small wake messages, which ask nothing of it, until the exchange
ends: its next frame is picked up at once instead of after that sleep.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.supercore.run import RunNotRunningException

from privacy.errors import RunError, RunStopped

POLL_S = 0.1
# Flower moves every object of a message by a request of its own, and a ConfigRecord is two objects
# fewer than an array; but only arrays are cut into chunks.
SMALL_FRAME_BYTES = 1 << 20
# A SuperNode needs at least half a second for a message, and sleeps three when it finds none.
WAKE_EVERY_S = 0.8
WAKE_TTL_S = 3.0


class FlowerChannel:
    """Exchanges frames with the parties named in `nodes` (party → Flower node id)."""

    def __init__(self, grid: Grid, nodes: Mapping[str, int], keep_awake: bool = True) -> None:
        self._grid = grid
        self._nodes = dict(nodes)
        self._keep_awake = keep_awake

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        """As `Channel.exchange`. Raises RunStopped if Flower ended the run, RunError if the
        SuperLink refuses."""
        try:
            return self._exchange(frames, timeout_s)
        except RunNotRunningException:  # a BaseException of Flower's
            raise RunStopped("the Flower run was stopped") from None
        except httpx.HTTPError as error:
            raise RunError(
                f"the SuperLink failed an exchange ({type(error).__name__}); see logs/superlink.log"
            ) from error

    def _exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> dict[str, bytes]:
        deadline = time.monotonic() + timeout_s
        sent = [party for party in frames if party in self._nodes]
        waiting = self._push(
            (party, self._message(party, "query.frame", timeout_s, frames[party]))
            for party in sent
        )
        # One wake behind each frame: a SuperNode that sent its reply looks for the next message
        # before we can have seen that reply.
        self._wake(sent)
        replies: dict[str, bytes] = {}
        next_wake: dict[str, float] = {}
        while waiting and time.monotonic() < deadline:
            pulled = self._pull(list(waiting))
            for message in pulled:
                # Flower's own error replies name no sender: only the id they answer is sure.
                party = waiting.pop(message.metadata.reply_to_message_id)
                frame = None if message.has_error() else _frame_of(message)
                if frame is not None:
                    replies[party] = frame
                    next_wake[party] = 0.0
            now = time.monotonic()
            due = [party for party, when in next_wake.items() if when <= now]
            if waiting and due:
                self._wake(due)
                next_wake |= dict.fromkeys(due, now + WAKE_EVERY_S)
            if waiting and not pulled:
                time.sleep(POLL_S)
        return replies

    def _wake(self, parties: Iterable[str]) -> None:
        if self._keep_awake:
            self._push((party, self._message(party, "query.wake", WAKE_TTL_S)) for party in parties)

    def _message(self, party: str, kind: str, ttl: float, frame: bytes | None = None) -> Message:
        content = RecordDict()
        if frame is not None and len(frame) <= SMALL_FRAME_BYTES:
            content["frame"] = ConfigRecord({"bytes": frame})
        elif frame is not None:
            array = Array("uint8", (len(frame),), "bytes", frame)
            content["frame"] = ArrayRecord({"bytes": array})
        return Message(content, self._nodes[party], kind, ttl=ttl)

    def _push(self, messages: Iterable[tuple[str, Message]]) -> dict[str, str]:
        """Send; returns party by message id, without those that Flower did not take."""
        named = list(messages)
        if not named:
            return {}
        numbers = self._grid.push_messages([message for _, message in named])
        return {number: party for number, (party, _) in zip(numbers, named, strict=False) if number}

    def _pull(self, numbers: list[str]) -> list[Any]:
        """The replies that have come to messages `numbers`.

        `Grid.pull_messages` does the same but tries an object that is still on its way again
        after one, two, four seconds; a reply is nearly always caught in that state.
        """
        grid: Any = self._grid
        client = grid._runtime_client
        found = client.PullMessages(PullAppMessagesRequest(message_ids=numbers))
        replies = []
        for stub, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            number = stub.metadata.message_id
            objects = pull_objects(
                [each.object_id for each in iterate_object_tree(tree)],
                make_pull_object_fn_protobuf(client.PullObject, grid.node, grid.run.run_id),
                initial_backoff=POLL_S,
                backoff_cap=1.0,
                max_time=60.0,
            )
            client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=grid.node, run_id=grid.run.run_id, message_object_id=number
                )
            )
            replies.append(inflate_object_from_contents(number, objects))
        return replies


def _frame_of(message: Any) -> bytes | None:
    try:
        record = message.content["frame"]["bytes"]
        return bytes(record.data if isinstance(record, Array) else record)
    except (KeyError, TypeError):
        return None
