"""What every HTTP service of ours answers with: problem+json, bounded bodies, no inner detail."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from privacy.errors import FedtagsError, ProtocolError
from privacy.hosting.problems import PROBLEM_TYPE, problem_of

MAX_BODY_BYTES = 256 * 1024

logger = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Make `app` answer every failure as a problem and refuse bodies above MAX_BODY_BYTES."""
    app.add_exception_handler(FedtagsError, _on_fedtags_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_middleware(LimitBody)
    app.add_middleware(CatchAll)


def problem_response(error: FedtagsError, status: int | None = None) -> JSONResponse:
    """The answer that says `error`."""
    status, body = problem_of(error, status)
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body, status_code=status, media_type=PROBLEM_TYPE, headers=headers)


async def _on_fedtags_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FedtagsError)
    return problem_response(error)


async def _on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fields = sorted({".".join(str(part) for part in item["loc"]) for item in error.errors()})
    return problem_response(
        ProtocolError(f"the request is not valid in: {', '.join(fields)}; correct it"), 422
    )


async def _on_http_exception(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem_response(ProtocolError(str(error.detail)), error.status_code)


class LimitBody:
    """ASGI middleware: a body above MAX_BODY_BYTES is refused before anything reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, or refuse it, and hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                refusal = ProtocolError(f"a request body is at most {MAX_BODY_BYTES} bytes")
                await problem_response(refusal, 413)(scope, receive, send)
                return
            chunks.append(chunk)
            more = message.get("more_body", False)
        body: Message | None = {
            "type": "http.request",
            "body": b"".join(chunks),
            "more_body": False,
        }

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = body, None
            return message

        await self._app(scope, replay, send)


class CatchAll:
    """ASGI middleware: an unforeseen error is logged here and answered without its text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; on an unforeseen error answer 500."""
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except Exception:
            logger.exception("unforeseen error while answering a request")
            if started or scope["type"] != "http":
                raise
            failure = FedtagsError("the service failed; its log says why")
            await problem_response(failure)(scope, receive, send)
