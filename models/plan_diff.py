"""What is different between two plans, key by key. Pure.

What is compared is what a plan means: a key that is left out has its default, so writing a default
down is no change, and neither are comments, blanks and the order of keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.plan import Plan


@dataclass(frozen=True)
class Change:
    """One key that differs. `before`: None if only the new plan has it; `after`: None if only the
    old one has. Values are written as TOML writes them, on one line of printable characters.

    An element of a list of tables is named by its `name`, if all have one: `features.columns[age]`.
    """

    key: str
    before: str | None
    after: str | None


def meaning(plan: Plan) -> dict[str, Any]:
    """Every key of a plan, those left out with their defaults, as parsed TOML would give it."""
    return plan.model_dump(exclude_none=True)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """Every key whose value differs, in the new plan's order, then those that are gone."""
    old, new = dict(_leaves("", before)), dict(_leaves("", after))
    keys = [*new, *(key for key in old if key not in new)]
    found = (Change(key, old.get(key), new.get(key)) for key in keys)
    return tuple(one for one in found if one.before != one.after)


def _leaves(key: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        inner = [(f"{key}.{name}" if key else str(name), one) for name, one in value.items()]
    elif _is_tables(value):
        inner = [(f"{key}[{name}]", one) for name, one in zip(_names(value), value, strict=True)]
    else:
        return [(key, written(value))]
    return [leaf for name, one in inner for leaf in _leaves(name, one)]


def _is_tables(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(one, Mapping) for one in value)
    )


def _names(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [one.get("name") for one in tables]
    if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
        return [str(name) for name in names]
    return [str(number) for number in range(1, len(tables) + 1)]


def written(value: Any) -> str:
    """A value as TOML writes it, on one line of printable characters."""
    if isinstance(value, str):
        return "".join(map(_printable, json.dumps(value, ensure_ascii=False)))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(written, value)) + "]"
    return str(value)


def _printable(character: str) -> str:
    # A character that turns the direction of text, or hides, could show a person another value.
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}"
