"""`GET /v1/runs/{run_id}/events`: a run as it happens, by server-sent events.

Events are those of `coordinator.live`: 'exchange', 'metric', 'membership', 'run' and, last, 'end';
each one's id is the position after it, so a client that comes back with Last-Event-ID misses
nothing and gets nothing twice. A comment every 15 seconds shows that the line is open. After ten
minutes the stream ends and the client comes back, so that nobody follows a run for longer than
that after a token was revoked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Header, Path, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from coordinator.api_access import TheDesk, Who, guarded
from coordinator.api_models import RunId
from coordinator.desk import Desk
from coordinator.live import LOOK_EVERY_S, Event, Position, parse_position
from privacy.errors import FedtagsError

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
LONGEST_S = 600.0
RETRY_MS = 2000

router = guarded("runs")


class Following(StreamingResponse):
    """A stream that says when it is over, however it ends."""

    def __init__(self, content: AsyncIterator[str], over: Callable[[], None]) -> None:
        super().__init__(content, media_type=MEDIA_TYPE, headers={"x-accel-buffering": "no"})
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()


@router.get(
    "/runs/{run_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {MEDIA_TYPE: {}}}, 204: {"description": "the run has ended"}},
)
async def events(
    run_id: Annotated[RunId, Path()],
    who: Who,
    desk: TheDesk,
    last_event_id: Annotated[str | None, Header(max_length=128)] = None,
) -> Response:
    """Follow a run to its end. 204 for one that has ended and was followed to its end."""
    only = await run_in_threadpool(desk.follow, who, run_id)
    position = parse_position(last_event_id)
    if last_event_id is not None:
        first = await run_in_threadpool(desk.follow_on, run_id, position, only)
        if not first and await run_in_threadpool(desk.live.has_ended, run_id):
            return Response(status_code=204)
    desk.live.enter(who.name)
    return Following(_stream(desk, run_id, position, only), lambda: desk.live.leave(who.name))


async def _stream(
    desk: Desk, run_id: str, position: Position, only: str | None
) -> AsyncIterator[str]:
    yield f"retry: {RETRY_MS}\n\n"
    begun = said = time.monotonic()
    while time.monotonic() - begun < LONGEST_S and not desk.live.closing.is_set():
        try:
            found = await run_in_threadpool(desk.follow_on, run_id, position, only)
        except FedtagsError:
            return  # the client comes back, and is told then
        for event in found:
            position, said = event.position, time.monotonic()
            yield _text(event)
            if event.kind == "end":
                return
        if time.monotonic() - said >= HEARTBEAT_S:
            said = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(LOOK_EVERY_S)


def _text(event: Event) -> str:
    # JSON on one line: a line break within a value is written as \n.
    return f"id: {event.position}\nevent: {event.kind}\ndata: {to_json(event.data).decode()}\n\n"
