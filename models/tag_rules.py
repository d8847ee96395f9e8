"""How a local tag's value follows from facts: small declarative rules, no code in a catalogue.

A customer for whom a fact that the rule needs is absent gets no value (bands, quantiles, text) or
fails the case that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.facts import FACTS
from models.features import Name

_Number = Annotated[float, Field(ge=-1e12, le=1e12)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OtherFact(_Part):
    """`times` another fact of the same customer."""

    fact: Name
    times: Annotated[float, Field(gt=0, le=1000)] = 1.0


class OfAll(_Part):
    """The quantile of the condition's own fact among all customers who may get the tag."""

    quantile: Annotated[float, Field(gt=0, lt=1)]


Bound = _Number | OtherFact | OfAll


class Condition(_Part):
    """A fact and where it must lie. An absent fact, or an absent bound, fails it."""

    fact: Name
    at_least: Bound | None = None
    above: Bound | None = None
    at_most: Bound | None = None
    below: Bound | None = None

    @property
    def bounds(self) -> Mapping[str, Bound]:
        """What is given, by the SQL operator that says it."""
        given = {">=": self.at_least, ">": self.above, "<=": self.at_most, "<": self.below}
        return {sign: bound for sign, bound in given.items() if bound is not None}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_number(self.fact)
        if not self.bounds:
            raise ValueError(
                f"the condition on {self.fact} needs at_least, above, at_most or below"
            )
        for bound in self.bounds.values():
            if isinstance(bound, OtherFact):
                require_number(bound.fact)
        return self


class Case(_Part):
    """A value and the conditions of which all must hold."""

    value: str
    when: Annotated[tuple[Condition, ...], Field(min_length=1, max_length=8)]


class Bands(_Part):
    """The value at the place of the fact among `edges`; on an edge the upper one."""

    kind: Literal["bands"]
    fact: Name
    edges: Annotated[tuple[_Number, ...], Field(min_length=1, max_length=20)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_number(self.fact)
        require_rising("edges", self.edges)
        return self


class Quantiles(_Part):
    """The value at the place of the fact among edges; on an edge the lower one.

    The edges are quantiles of the fact among all customers who may get the tag. Equal facts get
    equal values, so no upper value goes to more than its share, and ties may leave it to nobody.
    """

    kind: Literal["quantiles"]
    fact: Name
    shares: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, max_length=20)
    ]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_number(self.fact)
        require_rising("shares", self.shares)
        return self


class Cases(_Part):
    """The value of the first case that holds; `otherwise`, or none, where no case does."""

    kind: Literal["cases"]
    cases: Annotated[tuple[Case, ...], Field(min_length=1, max_length=20)]
    otherwise: str | None = None


class Text(_Part):
    """The fact's own text."""

    kind: Literal["text"]
    fact: Name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.fact not in FACTS or FACTS[self.fact].kind != "text":
            raise ValueError(f"fact: {self.fact} is not a fact that is a text")
        return self


class Joint(_Part):
    """The score of a joint model of this kind of task, cut by the plan's public thresholds."""

    kind: Literal["joint"]
    task: Literal["churn", "propensity"]


class Group(_Part):
    """No value: an entry under which others stand."""

    kind: Literal["group"]


Rule = Annotated[Bands | Quantiles | Cases | Text | Joint | Group, Field(discriminator="kind")]


def require_number(fact: str) -> None:
    """Raise ValueError unless `fact` is the name of a number."""
    if fact not in FACTS or FACTS[fact].kind != "number":
        raise ValueError(f"fact: {fact} is not a fact that is a number; see the list of facts")


def require_rising(what: str, numbers: tuple[float, ...]) -> None:
    """Raise ValueError unless each number is larger than the one before."""
    if any(first >= second for first, second in pairwise(numbers)):
        raise ValueError(f"{what}: each number must be larger than the one before")
