"""What a plan would cost this party, before it runs, and how many such runs its budgets hold.

The cost is what a run reserves: an upper bound of what it is charged, and exactly that if nothing
fails. Every epsilon is for one customer at this party, add/remove adjacency. Reads no data.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.plan import Plan
from models.tags import check_tags
from models.training import Terms, party_terms
from party_client.policy import Policy, delta_refusal, plan_refusals
from privacy.accounting import epsilon
from privacy.budget import Limit, Window
from privacy.errors import PolicyRefusal
from privacy.ledger import Ledger
from privacy.mechanism import Mechanism

LIFETIME = "lifetime budget"


@dataclass(frozen=True)
class Cost:
    """Epsilon at `delta`: of the training, the evaluation and noised weights (0 if the plan's are
    public), and of all composed."""

    delta: float
    training: float
    evaluation: float
    weights: float
    together: float


@dataclass(frozen=True)
class Room:
    """One budget and how many more such runs it admits now, one after another, in its window."""

    budget: str
    window: Window
    runs_left: int


@dataclass(frozen=True)
class Forecast:
    """`at_run`, `at_ledger`: the cost at the run's own delta and at the ledger's.

    `share`: of the lifetime budget that one such run takes; `used`: what is taken already. `rooms`:
    the lifetime budget first, then each sub-limit that covers the plan. `binding`: the first budget
    that would refuse. `person`: whether the policy has a person approve the plan first.
    """

    plan: Plan
    terms: Terms
    at_run: Cost
    at_ledger: Cost
    used: float
    share: float
    rooms: tuple[Room, ...]
    refusals: tuple[PolicyRefusal, ...]
    person: bool

    @property
    def binding(self) -> Room:
        """The budget with the fewest runs left."""
        return min(self.rooms, key=lambda room: room.runs_left)

    @property
    def admitted(self) -> bool:
        """Whether policy and budgets would let one such run start now, a person aside."""
        return not self.refusals and self.binding.runs_left > 0


def forecast(
    policy: Policy, plan: Plan, ledger: Ledger, *, party: str, public_size: int
) -> Forecast:
    """The plan's cost at this party and the room that is left for it.

    Raises PlanError for tags that do not fit, PolicyRefusal for a delta that has no meaning here,
    and PrivacyError for an epsilon that no noise reaches.
    """
    check_tags(plan)
    excess = delta_refusal(plan, public_size)
    if excess is not None:
        raise excess
    refusals = plan_refusals(policy, plan, party=party, public_size=public_size)
    terms = party_terms(plan, public_size)
    state = ledger.state()

    def left(*limits: Limit) -> int:
        return ledger.runs_left(
            terms.mechanisms, purpose=plan.purpose, plan=plan.name, limits=limits
        )

    covering = [one for one in policy.budget.limits if one.covers(plan.purpose, plan.name)]
    rooms = [Room(LIFETIME, "lifetime", left())]
    rooms += [Room(one.name, one.window, left(one)) for one in covering]
    return Forecast(
        plan=plan,
        terms=terms,
        at_run=cost(terms, terms.delta),
        at_ledger=cost(terms, state.cap_delta),
        used=state.cap.used(state.charged()),
        share=state.cap.used(terms.mechanisms),
        rooms=tuple(rooms),
        refusals=refusals,
        person=policy.approval == "person",
    )


def cost(terms: Terms, delta: float) -> Cost:
    """What a run of these terms costs at `delta`."""

    def of(*mechanisms: Mechanism) -> float:
        return epsilon(mechanisms, delta)

    together = of(*terms.mechanisms)
    weights = of(terms.weights) if terms.weights is not None else 0.0
    return Cost(delta, of(terms.training), of(terms.evaluation), weights, together)
