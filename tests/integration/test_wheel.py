"""The wheel as a stranger installs it: the right files, and commands that no folder can mislead.

The environment is a new one; only third-party packages are taken from the running one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.settings import load_settings
from privacy.hosting.bundle import BUNDLE_FILES
from tests.integration.control_plane_server import free_port

ROOT = Path(__file__).parents[2]
PACKAGES = ("coordinator", "models", "party_client", "privacy", "simulations")
# The verbs that stay.
VERBS = {
    "fedtags-coordinator": [
        *("init", "start", "stop", "party invite", "party list", "plan validate", "plan submit"),
        *("run list", "run show", "run watch", "run resume", "run stop", "run compare"),
        *("plan diff", "party remove", "evidence export", "evidence verify", "audit verify"),
        *("proxy write", "backup", "restore", "ready", "alerts list", "people add", "token create"),
    ],
    "fedtags-party": [
        *("init", "join", "check", "start", "stop", "status", "tags show", "tags export"),
        *("disclosure show", "model list", "model export"),
    ],
    "fedtags-sim": ["demo", "bench round"],
}
# Walks a program's commands in a process of its own and asks each for its help.
HELP_OF_EVERY_COMMAND = """
import importlib, sys
from importlib.metadata import entry_points
from typer.main import get_command

(entry,) = entry_points(group="console_scripts", name=sys.argv[1])
def walk(command, path):
    command.main(["--help"], prog_name=" ".join(path), standalone_mode=False)
    for name, each in getattr(command, "commands", {}).items():
        walk(each, [*path, name])
walk(get_command(importlib.import_module(entry.module).app), [sys.argv[1]])
"""
EVERY_MODULE = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    print(package.__file__)
    for each in pkgutil.walk_packages(package.__path__, name + "."):
        if "flower_app" not in each.name:
            print(importlib.import_module(each.name).__file__)
"""


@dataclass(frozen=True)
class Installed:
    """A new environment with the wheel in it, and a folder with decoys to run commands from."""

    python: Path
    decoys: Path

    def run(self, *argv: str, safe: bool = True) -> subprocess.CompletedProcess[str]:
        """One command from the decoys' folder. `safe`: with PYTHONSAFEPATH, as children get it."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment.pop("PYTHONSAFEPATH", None)
        return subprocess.run(
            argv,
            cwd=self.decoys,
            env=environment | ({"PYTHONSAFEPATH": "1"} if safe else {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def program(self, name: str) -> str:
        return str(self.python.with_name(name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    purelib = sysconfig.get_path("purelib", vars={"base": str(folder / "env")})
    # A .pth's folders are searched, their own .pth files are not: the checkout stays out of sight.
    others = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    Path(purelib, "third_party.pth").write_text("\n".join(others) + "\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", "--ignore-installed", wheel], check=True)
    for name in ("models", "privacy"):
        (folder / "decoys" / name).mkdir(parents=True)
        (folder / "decoys" / name / "__init__.py").write_text("raise SystemExit('the decoy ran')\n")
    return Installed(python, folder / "decoys")


def succeeded(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_five_packages_and_the_shipped_plans_and_nothing_else(
    wheel: Path,
) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    content = {name for name in names if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in content} == set(PACKAGES)
    plans = {f"simulations/plans/{each.name}" for each in ROOT.glob("docs/tutorials/*.toml")}
    assert len(plans) >= 4
    assert content == plans.union(*(files_below(ROOT / package) for package in PACKAGES))
    assert {f"coordinator/flower_app/{name}" for name in BUNDLE_FILES} <= content
    assert "coordinator/migrations/r0001_first_tables.py" in content
    assert "party_client/migrations/r0001_profile_store.py" in content
    assert "privacy/hosting/alembic_env/env.py" in content
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_decoys_would_be_imported_where_nothing_prevents_it(installed: Installed) -> None:
    command = (str(installed.python), "-m", "coordinator.cli", "--help")
    assert "the decoy ran" in installed.run(*command, safe=False).stderr
    succeeded(installed.run(*command))


@pytest.mark.parametrize("program", VERBS)
def test_every_command_shows_its_help_beside_decoys(installed: Installed, program: str) -> None:
    shown = succeeded(installed.run(installed.program(program), "--help", safe=False))
    assert f"Usage: {program}" in shown
    walked = installed.run(str(installed.python), "-c", HELP_OF_EVERY_COMMAND, program)
    usages = succeeded(walked)
    assert [verb for verb in VERBS[program] if f"Usage: {program} {verb} " not in usages] == []


def test_every_module_comes_from_the_wheel(installed: Installed) -> None:
    found = succeeded(installed.run(str(installed.python), "-c", EVERY_MODULE, *PACKAGES))
    environment = str(installed.python.parents[1])
    assert [line for line in found.splitlines() if not line.startswith(environment)] == []
    assert len(found.splitlines()) > 50


def test_shipped_plans_are_found_in_the_wheel_and_are_valid(installed: Installed) -> None:
    where = (
        "from simulations.demo import plan_file\n"
        "for name in ('market-churn', 'market-propensity', 'shops-churn', 'shops-propensity'):\n"
        "    print(plan_file(name))"
    )
    paths = succeeded(installed.run(str(installed.python), "-c", where)).splitlines()
    assert len(paths) == 4
    for path in paths:
        assert path.startswith(str(installed.python.parents[1]))
    command = (installed.program("fedtags-coordinator"), "plan", "validate", paths[0])
    assert "valid plan market-churn" in succeeded(installed.run(*command, safe=False))


def test_processes_that_commands_start_are_not_misled_either(
    installed: Installed, tmp_path: Path
) -> None:
    """`start --detach` runs a Python of its own from this folder: the decoys must not be seen."""
    command = (installed.program("fedtags-coordinator"), "--home", str(tmp_path / "home"))
    ports = ("--control-port", str(free_port()), "--superlink-port", str(free_port()))
    succeeded(installed.run(*command, "init", *ports, safe=False))
    settings = load_settings(tmp_path / "home")
    settings.server_certificate.write_text("no certificate")
    started = installed.run(*command, "start", "--detach", safe=False)
    assert (started.returncode, "the decoy ran" in started.stderr) == (18, False), started.stderr
