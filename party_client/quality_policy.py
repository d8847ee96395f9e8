"""What a party's own policy demands of its data before a run: `[quality]` of policy.toml.

Only the party sets it. A plan has no field for it, because each refusal tells one bit about the
data that no epsilon covers: a requester who could choose the rule and the threshold would read the
data off the refusals, one bit a plan. Here the thresholds are the party's, the same for every plan;
a requester sees the one code `data`, and `max_refunds_per_day` bounds how often it can be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from party_client.quality_rules import DEMANDABLE, RULES
from privacy.errors import DataError

if TYPE_CHECKING:
    from party_client.quality import QualityResult
    from party_client.sources import Source

Share = Annotated[float, Field(ge=0, le=1)]


class QualityPolicy(BaseModel):
    """`[quality]` of policy.toml. As it is without one, nothing is demanded.

    minimum_usable_share: of the rows read, the share that the cleaning must leave. require: rules
    that must pass. tolerated: a party's own largest failing share of a rule, in place of the
    shipped one; it counts in `fedtags-party check`, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    minimum_usable_share: Share = 0.0
    require: tuple[str, ...] = ()
    tolerated: dict[str, Share] = {}

    @field_validator("require")
    @classmethod
    def _demandable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in DEMANDABLE:
                raise ValueError(
                    "names of rules as `fedtags-party check` prints them, except those that need "
                    f"a plan; known are {', '.join(DEMANDABLE)}"
                )
        return value

    @field_validator("tolerated")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if name not in RULES:
                raise ValueError("names of rules, as `fedtags-party check` prints them")
        return value

    @property
    def demands(self) -> bool:
        """Whether anything at all is demanded."""
        return self.minimum_usable_share > 0 or bool(self.require)


def require_quality(source: Source, policy: QualityPolicy) -> None:
    """Raise DataError naming the first rule whose demand the source does not meet.

    Costs nothing where nothing is demanded, and otherwise the reading of the source and the rules
    that are named. For the party's own log: a requester may be told the code `data` and no more.
    """
    if not policy.demands:
        return
    from party_client.quality_check import look_at  # pandera and ibis: needed here only

    seen = look_at(source, frozenset(policy.require), policy)
    require(seen.usable_share, seen.results, policy)


def require(usable_share: float, results: Sequence[QualityResult], policy: QualityPolicy) -> None:
    """Raise DataError naming the first demand of `policy` that these figures do not meet."""
    if usable_share < policy.minimum_usable_share:
        raise DataError(
            "policy.toml, [quality]: the usable share of the source's rows is below "
            f"minimum_usable_share = {policy.minimum_usable_share:g}; run fedtags-party check and "
            "see rejected/rejected.csv for the reasons"
        )
    found = {result.rule: result for result in results}
    for name in policy.require:
        result = found.get(name)
        if result is None:
            raise DataError(
                f"policy.toml, [quality]: require names {name}, which is not for a source of this "
                "kind: take it out"
            )
        if result.verdict == "not looked at":
            raise DataError(
                f"policy.toml, [quality]: rule {name} is required and could not be looked at "
                f"({result.note}): take it out of require, or bring data that it can judge"
            )
        if result.verdict == "look":
            raise DataError(
                f"policy.toml, [quality]: rule {name} is required and more than the tolerated "
                f"share {result.tolerated:g} fails it. {result.advice} fedtags-party check shows "
                "the figures"
            )
