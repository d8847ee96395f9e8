"""A command answers at once: what only computes is imported by the one that computes."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Seconds each, or more than all of the rest together.
HEAVY = {"dp_accounting", "fastapi", "flwr", "mlflow", "onnx", "opacus", "pandas", "pyarrow",
         "reportlab", "scipy", "torch"}  # fmt: skip


@pytest.mark.parametrize("module", ["party_client.cli", "coordinator.cli", "simulations.cli"])
def test_a_command_line_imports_no_scientific_or_web_library_before_it_needs_one(
    module: str,
) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert HEAVY & set(ended.stdout.split()) == set()


def test_a_process_that_computes_does_import_them() -> None:
    """So that the test above would notice."""
    program = "import sys, party_client.service; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "torch" in ended.stdout.split()
