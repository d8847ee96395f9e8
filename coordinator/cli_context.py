"""What the coordinator's commands share."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from coordinator.client import CoordinatorClient
from coordinator.settings import CoordinatorSettings, load_settings
from privacy.hosting.commands import Format, write_json

FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]


def settings_of(context: typer.Context) -> CoordinatorSettings:
    """The settings of the home that the command line names."""
    home = context.obj
    assert isinstance(home, Path)
    return load_settings(home)


def client_of(context: typer.Context) -> CoordinatorClient:
    """A client of the running control plane."""
    return CoordinatorClient.of_home(settings_of(context))


def write_view(view: object) -> None:
    """A view, or several, as JSON: the same fields as the API answers with."""
    write_json(to_jsonable_python(_data(view)))


def _data(view: object) -> Any:
    if isinstance(view, list | tuple):
        return [_data(one) for one in view]
    if isinstance(view, BaseModel):
        return view.model_dump(mode="json")
    return asdict(view) if is_dataclass(view) and not isinstance(view, type) else view
