"""What every route of the control plane's API needs: who asks, the desk, and answers kept for
requests that come twice."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from coordinator.api_headers import IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED
from coordinator.api_models import IdempotencyKey, Problem
from coordinator.desk import Desk
from coordinator.idempotency import Answer, Answers
from privacy.errors import ProtocolError
from privacy.hosting.access import Principal
from privacy.hosting.gate import Gate
from privacy.hosting.problems import PROBLEM_TYPE
from privacy.hosting.web import problem_response

PROBLEMS: Mapping[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {PROBLEM_TYPE: {}}}
    for status in (400, 401, 403, 404, 409, 413, 422, 503)
}
_STILL = "the same request is being answered already; ask again in a moment for its answer"


def part(name: str) -> Callable[[Request], Any]:
    """A dependency: what `create_app` put on the application under this name."""

    async def found(request: Request) -> Any:
        return getattr(request.app.state, name)

    return found


async def principal_of(request: Request) -> Principal:
    """Who asks, by an API token or a session. Raises NotSignedIn or AccessDenied."""
    gate = request.app.state.gate
    assert isinstance(gate, Gate)
    found = getattr(request.state, "principal", None)
    if found is None:
        found = gate.known_token(request) or await run_in_threadpool(gate.principal, request)
        request.state.principal = found
    assert isinstance(found, Principal)
    return found


async def _principal(
    request: Request, _shown: Annotated[object, Depends(HTTPBearer(auto_error=False))]
) -> Principal:
    return await principal_of(request)


TheDesk = Annotated[Desk, Depends(part("desk"))]
TheGate = Annotated[Gate, Depends(part("gate"))]
Who = Annotated[Principal, Depends(_principal)]


class IdempotentRoute(APIRoute):
    """A route that answers a repeated request (the same Idempotency-Key, the same body) with the
    first one's answer. Only for routes that answer with JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with the answers kept around it."""
        handle = super().get_route_handler()

        async def once(request: Request) -> Response:
            key = request.headers.get(IDEMPOTENCY_KEY, "")
            # A key out of bounds is refused by the route itself.
            if request.method != "POST" or not 16 <= len(key) <= 128 or not _plain(key):
                return await handle(request)
            who = await principal_of(request)
            answers: Answers = request.app.state.answers
            body = await request.body()
            # A person and a token may have one name, and a role may be taken away.
            asker = f"{who.kind} {who.role} {who.name}"
            begun = await run_in_threadpool(answers.begin, asker, request.url.path, key, body)
            if begun is None:
                return problem_response(ProtocolError(_STILL), 409)
            if isinstance(begun, Answer):
                return Response(
                    begun.body,
                    begun.status,
                    {IDEMPOTENCY_REPLAYED: "true"},
                    media_type=JSONResponse.media_type,
                )
            try:
                answer = await handle(request)
            except BaseException:
                await run_in_threadpool(answers.forget, begun)
                raise
            kept = Answer(answer.status_code, bytes(answer.body))
            await run_in_threadpool(answers.done, begun, kept)
            return answer

        return once


def _idempotency(
    _key: Annotated[
        IdempotencyKey | None,
        Header(
            alias="Idempotency-Key",
            description="16 to 128 printable characters, new for each request and the same when "
            "it is repeated: nothing is then done twice, and the first answer comes again.",
        ),
    ] = None,
) -> None:
    """Shows the header in the document, and refuses one out of bounds."""


REPEATABLE = [Depends(_idempotency)]


def guarded(tag: str) -> APIRouter:
    """A router whose routes cannot forget to ask who it is: the router does."""
    return APIRouter(
        prefix="/v1",
        tags=[tag],
        dependencies=[Depends(_principal)],
        responses=dict(PROBLEMS),
        route_class=IdempotentRoute,
    )


def _plain(key: str) -> bool:
    return all("!" <= one <= "~" for one in key)
