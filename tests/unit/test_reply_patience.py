"""A reply that never comes whole is no reply, and keeps nobody else's from coming.

Flower's own messages and pulling code are real here; a table stands for the SuperLink.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from coordinator import flower_channel
from coordinator.flower_channel import FlowerChannel


class SuperLink:
    """Replies with what it was sent. `cut`: nodes whose reply is announced without its objects;
    `slow`: nodes whose objects come at the given look."""

    node = Node(node_id=1)
    run = SimpleNamespace(run_id=7)

    def __init__(self, cut: tuple[int, ...] = (), slow: dict[int, int] | None = None) -> None:
        self.cut, self.slow = cut, slow or {}
        self.asked: dict[str, tuple[int, Message]] = {}
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.looks = 0
        self.pulled: list[str] = []
        self.confirmed: list[str] = []
        self._runtime_client = self

    def push_messages(self, messages: list[Message]) -> list[str]:
        numbers = [f"m{len(self.asked) + one}" for one in range(len(messages))]
        for number, message in zip(numbers, messages, strict=True):
            message.metadata._message_id = number
            self.asked[number] = (message.metadata.dst_node_id, message)
        return numbers

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        response = PullAppMessagesResponse()
        for number in request.message_ids:
            node, message = self.asked.pop(number, (0, None))
            if message is None:  # announced once, as Flower does
                continue
            reply = Message(RecordDict({"frame": message.content["frame"]}), reply_to=message)
            nested = get_all_nested_objects(reply)
            reply.metadata._message_id = reply.object_id
            self.objects |= {each: (node, one.deflate()) for each, one in nested.items()}
            response.messages_list.append(message_to_proto(reply))
            response.message_object_trees.append(get_object_tree(reply))
        return response

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        node, content = self.objects[request.object_id]
        self.looks += 1
        there = node not in self.cut and self.looks >= self.slow.get(node, 0)
        if there:
            self.pulled.append(request.object_id)
        return PullObjectResponse(
            object_found=True, object_available=there, object_content=content if there else b""
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_channel, "OBJECTS_S", 0.1)
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 7)


def test_a_party_that_dies_while_it_replies_is_missing_and_the_others_are_heard() -> None:
    link = SuperLink(cut=(1,))
    channel = FlowerChannel(link, {"bank": 1, "retailer": 2, "shop": 3})
    frames = {"bank": b"b", "retailer": b"r", "shop": b"s"}
    started = time.monotonic()
    assert channel.exchange(frames, 1.0) == {"retailer": b"r", "shop": b"s"}
    assert time.monotonic() - started < 30  # Flower itself waits for eight minutes
    assert len(link.confirmed) == 2


def test_a_reply_whose_parts_come_late_is_whole_and_no_part_is_pulled_twice() -> None:
    link = SuperLink(slow={1: 12})
    channel = FlowerChannel(link, {"bank": 1, "shop": 2})
    assert channel.exchange({"bank": b"b" * 99, "shop": b"s"}, 20.0) == {
        "bank": b"b" * 99,
        "shop": b"s",
    }
    assert len(link.pulled) == len(set(link.pulled))
    assert len(link.confirmed) == 2
