"""Errors as problem+json (RFC 9457), and back again.

A problem carries our error's class and exit code, so that the client raises the same error and
the command ends with the same exit code as if it had failed at home.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from privacy import errors
from privacy.errors import EvidenceError, FedtagsError, PolicyRefusal, ProtocolError

PROBLEM_TYPE = "application/problem+json"

_STATUS: Mapping[type[FedtagsError], int] = {
    errors.SignatureError: 401,
    errors.NotSignedIn: 401,
    errors.AccessDenied: 403,
    errors.NotFound: 404,
    errors.RateLimited: 429,
    errors.PolicyRefusal: 403,
    errors.BudgetExceeded: 409,
    errors.DecidedMeanwhile: 409,
    errors.RunActiveError: 409,
    errors.RunError: 409,
    errors.ConfigError: 422,
    errors.DataError: 422,
    errors.PlanError: 422,
    errors.ProtocolError: 400,
    errors.EvidenceError: 409,
    errors.NotRunningError: 503,
    errors.StoreError: 503,
    errors.LedgerError: 503,
}

_BY_NAME: Mapping[str, type[FedtagsError]] = {
    name: item
    for name, item in inspect.getmembers(errors, inspect.isclass)
    if issubclass(item, FedtagsError)
}


def problem_of(error: FedtagsError, status: int | None = None) -> tuple[int, dict[str, Any]]:
    """The HTTP status (by the error's class, unless given) and the body that say `error`."""
    if status is None:
        status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": (type(error).__doc__ or type(error).__name__).strip().splitlines()[0],
        "status": status,
        "detail": str(error),
        "error": type(error).__name__,
        "exit_code": error.exit_code,
    }
    if isinstance(error, PolicyRefusal):
        body["reason"] = error.reason
    if isinstance(error, EvidenceError):
        body["part"] = error.part
    return status, body


def error_of(body: object) -> FedtagsError:
    """The error that a problem+json body says; a body of another shape is a ProtocolError."""
    if isinstance(body, dict) and isinstance(body.get("detail"), str):
        kind = _BY_NAME.get(str(body.get("error")), FedtagsError)
        if issubclass(kind, PolicyRefusal):
            return kind(str(body.get("reason", "refused")), body["detail"])
        if issubclass(kind, EvidenceError):
            part = str(body.get("part", "pack"))
            return kind(part, body["detail"].removeprefix(f"{part}: "))
        return kind(body["detail"])
    return ProtocolError("the service answered with something that is not a fedtags answer")


def parse_body(raw: bytes) -> object:
    """JSON from an answer's body. Raises ProtocolError if it is none."""
    try:
        return json.loads(raw)
    except ValueError as error:
        raise ProtocolError("the service answered with something that is not JSON") from error
