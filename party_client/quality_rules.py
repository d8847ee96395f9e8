"""The rules of data quality, by name: what each demands, of what, and what to do where it fails.

Their texts stand in quality_rules.toml. A *reject* rule looks at one row, or at equal rows of one
customer, and at public constants; the cleaning sets such rows aside. A *warn* rule may look across
customers, and never changes, drops or adds a row: rows stand alone.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

Severity = Literal["reject", "warn"]
Dimension = Literal[
    "completeness", "validity", "uniqueness", "timeliness", "consistency", "plausibility"
]
Unit = Literal["rows", "customers", "days", "weeks", "categories", "columns", "values", "log"]


@dataclass(frozen=True)
class Rule:
    """One rule. `tolerated`: the largest share of `unit` that may fail and the rule still passes.

    sources: the kinds of source it is for. reasons: the cleaning's reasons that it counts. With
    needs_plan it is looked at for a plan only.
    """

    name: str
    dimension: Dimension
    severity: Severity
    unit: Unit
    tolerated: float
    sources: tuple[Literal["events", "table"], ...]
    title: str
    title_zh: str
    advice: str
    advice_zh: str
    reasons: tuple[str, ...] = ()
    needs_plan: bool = False
    demandable: bool = True


def _load() -> dict[str, Rule]:
    text = resources.files(__package__).joinpath("quality_rules.toml").read_text(encoding="utf-8")
    rules = {}
    for name, entry in tomllib.loads(text).items():
        for key in ("sources", "reasons"):
            entry[key] = tuple(entry.get(key, ()))
        rules[name] = Rule(name=name, **entry)
    return rules


RULES: dict[str, Rule] = _load()
# What [quality] of policy.toml may require: a plan's figures are no business of a party's own gate.
DEMANDABLE: tuple[str, ...] = tuple(
    name for name, rule in RULES.items() if rule.demandable and not rule.needs_plan
)
