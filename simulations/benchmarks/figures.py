"""What every benchmark tells: figures, and goals with whether they are met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def at_most(value: float, goal: float) -> dict[str, Any]:
    """A goal that a smaller value meets."""
    return {"goal": goal, "value": round(value, 3), "met": value <= goal}


def at_least(value: float, goal: float) -> dict[str, Any]:
    """A goal that a larger value meets."""
    return {"goal": goal, "value": round(value, 3), "met": value >= goal}


def as_text(result: Mapping[str, Any]) -> str:
    """The figures and goals of a benchmark's result, one a line."""
    width = max(len(name) for name in result["figures"])
    lines = [f"{name:{width}} {value:.3f}" for name, value in result["figures"].items()]
    for name, goal in result["goals"].items():
        lines.append(f"goal {name}: {goal['goal']} {'met' if goal['met'] else 'not met'}")
    return "\n".join(lines)
