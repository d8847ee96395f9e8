"""Budgets: the lifetime stop, and the sub-limits beneath it.

The lifetime stop is a filter, because runs are chosen one after another, each perhaps because of
what earlier ones released. Composing by PLD assumes mechanisms fixed beforehand; a Renyi filter
does not: as long as the bounds of everything that runs add up to at most `Cap.allowance` at one
order fixed in advance, all of it together is (epsilon, delta)-DP, however it was chosen (Feldman
and Zrnic 2021, section 4) and however runs interleave (Haney et al. 2023).

A `Limit` is policy, not mathematics: it caps one purpose, one plan or one calendar window, and a
window that begins anew resets nothing that was learned about anybody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from privacy import accounting
from privacy.errors import PrivacyError
from privacy.mechanism import Mechanism

Window = Literal["lifetime", "year", "quarter", "month"]


@dataclass(frozen=True)
class Cap:
    """At most `epsilon` at `delta` over a lifetime, held by a filter at the RDP order `order`."""

    epsilon: float
    delta: float
    order: int

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise PrivacyError("a budget needs a finite epsilon above 0 and a delta in (0, 1)")
        if self.order not in accounting.ORDERS:
            raise PrivacyError("a budget's order is one of privacy.accounting.ORDERS")
        if not self.allowance > 0:
            raise PrivacyError(
                "a budget of this epsilon at this delta leaves no room for anything; raise epsilon"
            )

    @classmethod
    def of(cls, epsilon: float, delta: float) -> Cap:
        """The cap at the order that lets the most Gaussian releases pass.

        A Gaussian costs order / (2 sigma^2), so this is the order of the largest
        allowance / order. It depends on the cap alone, never on what ran.
        """
        if not (0 < epsilon < math.inf and 0 < delta < 1):
            raise PrivacyError("a budget needs a finite epsilon above 0 and a delta in (0, 1)")
        best = max(accounting.ORDERS, key=lambda order: _allowance(epsilon, delta, order) / order)
        return cls(float(epsilon), float(delta), best)

    @property
    def allowance(self) -> float:
        """The Renyi divergence at `order` that converts to `epsilon` at `delta`."""
        return _allowance(self.epsilon, self.delta, self.order)

    def used(self, mechanisms: Sequence[Mechanism]) -> float:
        """The share of the allowance that `mechanisms` take; above 1 they are over the cap."""
        return self._cost(mechanisms) / self.allowance

    def admits(self, mechanisms: Sequence[Mechanism]) -> bool:
        """Whether all of `mechanisms` fit together."""
        return self._cost(mechanisms) <= self.allowance

    def _cost(self, mechanisms: Sequence[Mechanism]) -> float:
        return accounting.rdp(mechanisms)[accounting.ORDERS.index(self.order)]


def _allowance(epsilon: float, delta: float, order: int) -> float:
    # Canonne, Kamath, Steinke 2020, proposition 12, solved for the divergence.
    return epsilon - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)


@dataclass(frozen=True)
class Limit:
    """At most `epsilon` at the cap's delta, by PLD, over the runs that it covers.

    Covers runs of `purpose` and of the plan named `plan` (None: any) that were reserved in the
    same calendar `window` (UTC) as the run that asks. `name` is what a refusal names.
    """

    name: str
    epsilon: float
    purpose: str | None = None
    plan: str | None = None
    window: Window = "lifetime"

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise PrivacyError(f"the limit {self.name} needs a finite epsilon above 0")

    def covers(self, purpose: str, plan: str) -> bool:
        """Whether runs of this purpose and plan count towards the limit."""
        return self.purpose in (None, purpose) and self.plan in (None, plan)

    def same_window(self, one: datetime, other: datetime) -> bool:
        """Whether both moments lie in one window."""
        return self._window(one) == self._window(other)

    def admits(self, mechanisms: Sequence[Mechanism], delta: float) -> bool:
        """Whether `mechanisms`, all that the limit covers, stay within it."""
        return accounting.epsilon(mechanisms, delta) <= self.epsilon

    def _window(self, moment: datetime) -> tuple[int, ...]:
        day = moment.astimezone(UTC)
        parts = {
            "lifetime": (),
            "year": (day.year,),
            "quarter": (day.year, (day.month - 1) // 3),
            "month": (day.year, day.month),
        }
        return parts[self.window]
