"""What is installed is what is declared, and every version of it is pinned."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The tools that install come with Python and the virtual environment, not by our lists.
INSTALLERS = {"fedtags", "pip", "setuptools"}
# What torch's CUDA build brings along; the CPU build, which the pins describe, has none of it.
CUDA_PREFIXES = ("nvidia-", "cuda-", "triton")
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][0-9A-Za-z.!]*)")


def normal(name: str) -> str:
    """A distribution's name as packaging tools compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return normal(found.group())


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins() -> dict[str, str]:
    found = [PIN.fullmatch(line) for line in lines("constraints.txt")]
    return {normal(pin.group(1)): pin.group(2) for pin in found if pin}


def declared() -> list[str]:
    """pyproject.toml's dependencies, then its dev group."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]


def installed() -> dict[str, str]:
    # The CPU build is called 2.13.0+cpu, and a pin of 2.13.0 admits it.
    found = {normal(each.name): each.version.partition("+")[0] for each in distributions()}
    return {
        name: version
        for name, version in found.items()
        if name not in INSTALLERS and not name.startswith(CUDA_PREFIXES)
    }


def test_constraints_are_exact_pins_each_name_once_in_order() -> None:
    text = lines("constraints.txt")
    assert [line for line in text if not PIN.fullmatch(line)] == []
    names = [line.partition("==")[0].lower() for line in text]
    assert len({normal(name) for name in names}) == len(names)
    assert names == sorted(names)


def test_every_installed_distribution_is_pinned_at_its_version() -> None:
    pinned = pins()
    wrong = {
        name: f"{version}, pinned {pinned.get(name, 'nowhere')}"
        for name, version in installed().items()
        if pinned.get(name) != version
    }
    assert wrong == {}, "run `make clean install`, or bring constraints.txt up to date"


def test_nothing_is_pinned_that_is_not_installed() -> None:
    assert set(pins()) - set(installed()) == set()


def test_requirements_dev_lists_what_pyproject_declares() -> None:
    listed = [name_of(line) for line in lines("requirements-dev.txt")]
    assert listed == [name_of(requirement) for requirement in declared()]


def test_pyproject_holds_ranges_and_constraints_a_version_of_each() -> None:
    assert [one for one in declared() if "==" in one or not re.search(r"[<>~]", one)] == []
    assert {name_of(one) for one in declared()} <= set(pins())
