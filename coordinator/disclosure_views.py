"""Values and plain functions that read what parties told; `coordinator.disclosures` stores it.

Every function takes `DisclosureStore.newest()`, or a part of it, such as that of the parties which
are still members. A page says of all of it: as disclosed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from privacy.disclosure import Disclosure


@dataclass(frozen=True)
class PartyDisclosure:
    """The newest that a party told. `received_at`: when it came, by the coordinator's clock."""

    party: str
    received_at: datetime
    disclosure: Disclosure


@dataclass(frozen=True)
class Contradiction:
    """Two signed statements of a party that cannot both be true.

    `kind`: LEDGER_BACK or LEDGER_FORK. `what`: in words. `stands`: the newest that the party told
    still contradicts what it told before. `earlier` and `later`: each request as JSON (body,
    signed_at, signature), as proof; "" where proofs were not asked for.
    """

    party: str
    kind: str
    at: datetime
    what: str
    stands: bool
    earlier: str
    later: str


@dataclass(frozen=True)
class BudgetPoint:
    """A lifetime budget as its party told it at this moment (`privacy.disclosure.BudgetTold`)."""

    at: datetime
    epsilon: float
    delta: float
    spent: float
    used: float


@dataclass(frozen=True)
class ModelHolders:
    """Who says to hold the model of a run. `holders`: by the model's digest, the parties' names.

    All members of a run hold one model, so more than one digest means that somebody's is wrong.
    """

    run: str
    plan: str
    holders: Mapping[str, tuple[str, ...]]

    @property
    def agreed(self) -> bool:
        """Whether all who tell hold the same model."""
        return len(self.holders) == 1


@dataclass(frozen=True)
class PlanApprovals:
    """A plan, by its digest, that waits for people at these parties, or was approved there."""

    plan: str
    waiting: tuple[str, ...]
    approved: tuple[str, ...]


def models(newest: Mapping[str, PartyDisclosure]) -> tuple[ModelHolders, ...]:
    """Every run whose model some party says to hold, by run; of `DisclosureStore.newest()`."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for party, one in newest.items():
        for held in one.disclosure.models or ():
            holders = found.setdefault((held.run, held.plan), {})
            holders.setdefault(held.model, []).append(party)
    return tuple(
        ModelHolders(run, plan, {model: tuple(names) for model, names in sorted(digests.items())})
        for (run, plan), digests in sorted(found.items())
    )


def approvals(newest: Mapping[str, PartyDisclosure]) -> tuple[PlanApprovals, ...]:
    """Every plan that waits somewhere for a person or was approved, by its digest."""
    waiting: dict[str, list[str]] = {}
    approved: dict[str, list[str]] = {}
    for party, one in newest.items():
        if one.disclosure.approvals is not None:
            for digest in one.disclosure.approvals.waiting:
                waiting.setdefault(digest, []).append(party)
            for digest in one.disclosure.approvals.approved:
                approved.setdefault(digest, []).append(party)
    return tuple(
        PlanApprovals(digest, tuple(waiting.get(digest, ())), tuple(approved.get(digest, ())))
        for digest in sorted(waiting.keys() | approved.keys())
    )


def tag_states(newest: Mapping[str, PartyDisclosure]) -> Mapping[str, Mapping[str, str]]:
    """The state of each joint tag at each party that tells it: tag, then party, then state."""
    found: dict[str, dict[str, str]] = {}
    for party, one in newest.items():
        for tag in one.disclosure.tags or ():
            found.setdefault(tag.name, {})[party] = tag.state
    return dict(sorted(found.items()))


def doubts(
    newest: Mapping[str, PartyDisclosure], known: Iterable[Contradiction]
) -> Mapping[str, tuple[str, ...]]:
    """Why what a party tells may be untrue, in words, by party; of parties without doubts nothing.

    `known`: `DisclosureStore.contradictions()`, of which those that stand count. Besides them, a
    party whose model of a run differs from the others': which one is wrong is not decided here.
    """
    found: dict[str, list[str]] = {}
    for one in known:
        if one.stands:
            found.setdefault(one.party, []).append(one.what)
    for held in models(newest):
        if not held.agreed:
            for party in sorted(name for names in held.holders.values() for name in names):
                found.setdefault(party, []).append(
                    f"the parties that hold the model of run {held.run} tell different digests of "
                    "it, and there is only one"
                )
    return {party: tuple(texts) for party, texts in sorted(found.items())}
