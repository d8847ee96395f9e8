"""The control plane's process: API and pages over TLS, beside the SuperLink that executes runs.

Started by `fedtags-coordinator start`; alone: python -m coordinator.control_plane --home DIR.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer

from coordinator.background import background
from coordinator.server import opened_service, tls_server
from coordinator.settings import load_settings
from coordinator.superlink import SuperLink
from privacy.hosting import logs
from privacy.hosting.commands import run_app
from privacy.hosting.processes import signals_held

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(home: Annotated[Path, typer.Option(help="The coordinator's folder.")]) -> None:
    """Serve the API until SIGTERM or Ctrl-C."""
    settings = load_settings(home)
    logs.set_up(settings.log.format)
    superlink = SuperLink(settings.superlink_address, settings.ca_certificate)
    with opened_service(settings, superlink) as service:
        service.control.recover()
        server = tls_server(service, settings)
        # A full collection of all that was imported halts every answer for a tenth of a second.
        gc.collect()
        gc.freeze()
        with background(service), signals_held():  # uvicorn raises again what it was stopped by
            server.run()


if __name__ == "__main__":
    run_app(app, "python -m coordinator.control_plane")
