"""The control plane's process: the API over TLS, beside the SuperLink that executes runs.

Started by `fedtags-coordinator start`; alone: python -m coordinator.control_plane --home DIR.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from coordinator.server import open_control_plane, tls_server
from coordinator.settings import load_settings
from coordinator.superlink import SuperLink
from privacy.hosting.commands import run_app

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(home: Annotated[Path, typer.Option(help="The coordinator's folder.")]) -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = load_settings(home)
    control = open_control_plane(
        settings, SuperLink(settings.superlink_address, settings.ca_certificate)
    )
    control.recover()
    tls_server(control, settings).run()


if __name__ == "__main__":
    run_app(app, "python -m coordinator.control_plane")
