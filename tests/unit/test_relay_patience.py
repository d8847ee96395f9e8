"""The relay waits for a message's objects as long as the SuperNode does, and no longer.

Flower's own pulling code is real here; a table stands for the SuperNode's object store.
"""

from __future__ import annotations

import time

import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import pull_objects

from party_client.relay import GivenUp, Watchful


class Objects:
    """Objects by id: bytes that are there, or None for what is still on its way."""

    def __init__(self, **objects: bytes | None) -> None:
        self.objects = objects
        self.asked = 0

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        self.asked += 1
        content = self.objects[request.object_id]
        return PullObjectResponse(
            object_found=True, object_available=content is not None, object_content=content or b""
        )


def pulled(client: Watchful, *names: str) -> dict[str, bytes]:
    pull = make_pull_object_fn_protobuf(client.PullObject, Node(node_id=1), 7)
    found: dict[str, bytes] = pull_objects(
        list(names), pull, initial_backoff=0.01, backoff_cap=0.01
    )
    return found


def test_a_message_that_is_there_is_pulled_and_no_other_task_is_looked_for() -> None:
    def acquire() -> str:
        pytest.fail("another task was taken while the first one can be done")

    client = Watchful(Objects(one=b"1", two=b"2"), acquire)
    assert pulled(client, "one", "two") == {"one": b"1", "two": b"2"}


def test_a_message_that_is_slow_is_waited_for_while_no_other_task_is_there() -> None:
    objects = Objects(one=b"1", two=None)
    looks: list[float] = []

    def acquire() -> str:
        looks.append(time.monotonic())
        if len(looks) == 5:
            objects.objects["two"] = b"2"
        return ""

    assert pulled(Watchful(objects, acquire), "one", "two") == {"one": b"1", "two": b"2"}
    assert len(looks) == 5


def test_a_message_that_never_comes_is_given_up_for_the_next_one_which_is_taken_once() -> None:
    tokens = ["", "", "newer", "stolen"]
    client = Watchful(Objects(one=None, two=None, three=None), lambda: tokens.pop(0))
    with pytest.raises(GivenUp) as given_up:
        pulled(client, "one", "two", "three")
    assert given_up.value.newer == "newer"
    time.sleep(0.1)  # Flower's other pulling threads end by themselves
    assert tokens == ["stolen"]
