"""What every fedtags command shares: output, and how it ends."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from typing import NoReturn

import click
import typer
from typer.main import get_command

from privacy.errors import FedtagsError

INTERRUPTED = 130


class Format(StrEnum):
    """How a command answers."""

    TEXT = "text"
    JSON = "json"


def say(text: str) -> None:
    """One line on standard output, as it is."""
    typer.echo(text)


def write_json(value: object) -> None:
    """`value` as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2))


def run_app(app: typer.Typer, program: str) -> NoReturn:
    """Run a Typer application as a program. Exits 0, 2 (wrong command line), an error's own exit
    code, or 130 after Ctrl-C."""
    os.umask(0o077)  # homes hold keys and customers' data: nothing is for other users
    try:
        status = get_command(app).main(prog_name=program, standalone_mode=False)
    except FedtagsError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)
