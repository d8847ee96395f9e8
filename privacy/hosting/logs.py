"""How a service's processes write log lines: text, or one JSON object a line for a collector.

Neither form holds a value of a row: our own messages never do, and of an error that was not
foreseen only its type and the lines of code are written, because a library's own text may quote
what it failed on.
"""

from __future__ import annotations

import logging
import traceback
from types import TracebackType
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["text", "json"]
# Their lines name every request, with a customer's id in its path or a token in its query.
_QUIET = ("httpx", "httpcore", "uvicorn.access")

_ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


def set_up(log_format: LogFormat, level: int = logging.INFO) -> None:
    """Write this process's log to standard error, and only so, whatever a library has set up."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def without_values(info: _ExceptionInfo) -> str:
    """An error's type and where it arose, and the same of what it came from; never its text."""
    error, lines = info[1], []
    while error is not None:
        name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        frames = traceback.extract_tb(error.__traceback__)
        lines += [f'  File "{one.filename}", line {one.lineno}, in {one.name}' for one in frames]
        lines.append(name)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        # A plan's text may hold line ends and terminal commands, and its errors quote its keys.
        line = super().formatMessage(record)
        return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802  logging's name
        return without_values(ei)


class _Json(JsonFormatter):
    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802
        return without_values(ei)
