"""The tutorial does what it says: its commands run, and they print what it shows.

`sh` blocks are run as one script in a home of their own; each `text` block after one must be found
in what that block printed, line by line, in order, `…` standing for anything. It starts a
coordinator and one party's node, and no Flower round.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from party_client.supernode import free_port

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorials" / "first-federation.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
END_OF_BLOCK = "--- end of block ---"
# The tutorial uses the default ports, which somebody may be using on this machine.
PORTS = ("8470", "8471")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A fresh HOME; whatever the tutorial started in it is stopped afterwards."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FEDTAGS_")}
    programs = Path(sys.executable).parent
    variables = {
        **kept,
        "HOME": str(tmp_path),
        "PATH": f"{programs}{os.pathsep}{kept['PATH']}",
        "COLUMNS": "250",
    }
    yield variables
    for program in ("fedtags-party", "fedtags-coordinator"):
        subprocess.run([programs / program, "stop"], env=variables, capture_output=True)


def blocks() -> list[tuple[str, str]]:
    """(command, expected output) of the tutorial, in order; the output may be empty."""
    text = TUTORIAL.read_text(encoding="utf-8")
    for port in PORTS:
        text = text.replace(port, str(free_port()))
    found: list[tuple[str, str]] = []
    for language, content in BLOCK.findall(text):
        if language == "sh":
            found.append((content, ""))
        elif language == "text":
            command, expected = found.pop()
            assert not expected, "two outputs of one command"
            found.append((command, content))
    return found


def lines_of(output: str) -> list[str]:
    return [" ".join(line.split()) for line in output.splitlines() if line.strip()]


def matches(expected: str, line: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.split("…"))
    return re.fullmatch(pattern, line) is not None


@pytest.mark.timeout(600)
def test_the_tutorial_does_what_it_says(environment: dict[str, str]) -> None:
    steps = blocks()
    assert len(steps) > 10
    script = "set -euo pipefail\n" + "".join(
        f"{command}\necho '{END_OF_BLOCK}'\n" for command, _ in steps
    )
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, (done.stdout[-1500:], done.stderr[-1500:])
    printed = done.stdout.split(END_OF_BLOCK)[: len(steps)]
    for (command, expected), output in zip(steps, printed, strict=True):
        remaining = iter(lines_of(output))
        for line in lines_of(expected):
            assert any(matches(line, one) for one in remaining), (line, command, output)
