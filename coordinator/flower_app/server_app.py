"""The ServerApp's entry point: everything is in the coordinator's installed software."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp


def main(grid: Grid, context: Context) -> None:
    """Conduct the run that the run configuration names."""
    from coordinator.flower_main import conduct

    conduct(grid, str(context.run_config["run-id"]))


app = ServerApp()
app.main()(main)
