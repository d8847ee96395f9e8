"""Server-sent events as they come over the line, turned into what happened in a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from coordinator.desk_views import ExchangeView, FigureView, MembershipView, RunView
from privacy.errors import ProtocolError

KINDS: dict[str, TypeAdapter[Any]] = {
    "run": TypeAdapter(RunView),
    "end": TypeAdapter(RunView),
    "exchange": TypeAdapter(ExchangeView),
    "metric": TypeAdapter(FigureView),
    "membership": TypeAdapter(MembershipView),
}


@dataclass(frozen=True)
class Happened:
    """Something that happened in a run, as `coordinator.live.Event` says it. `position`: where to
    go on after it."""

    kind: str
    position: str
    data: RunView | ExchangeView | FigureView | MembershipView


def happened_of(lines: Iterable[str]) -> Iterator[Happened]:
    """The events in these lines; one of a kind that this version does not know is left out.

    Raises ProtocolError for one that is not what its kind says.
    """
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
            continue
        kind = KINDS.get(fields.get("event", ""))
        if kind is not None and "data" in fields:
            try:
                data = kind.validate_python(from_json(fields["data"]))
            except (ValidationError, ValueError) as error:
                raise ProtocolError(
                    "the control plane told something unexpected of a run; is it the same version?"
                ) from error
            yield Happened(fields["event"], fields.get("id", ""), data)
        fields = {}
