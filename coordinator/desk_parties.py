"""How parties become the desk's views: who is there, and what each tells of itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from coordinator.control import ConnectedNode
from coordinator.desk_views import (
    BudgetView,
    LimitView,
    PartyDetail,
    PartyState,
    PartyView,
    RunView,
    SpendPoint,
    TagView,
)
from coordinator.disclosures import BudgetPoint, Contradiction, PartyDisclosure, tag_states
from coordinator.member_store import Party
from models.plan import parse_plan
from models.tag_catalogue import shipped_catalogue
from privacy.errors import FedtagsError

NODES_FOR_S = 5.0
_FIRST_WAIT_S = 3.0
_RUNS_OF_A_TAG = 5

logger = logging.getLogger(__name__)


class NodeWatch:
    """Which nodes are connected, asked of the SuperLink at most every five seconds, and never by
    the one who waits for a page: only the first to ask waits, three seconds at most. Safe between
    threads."""

    def __init__(self, ask: Callable[[], Sequence[ConnectedNode]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._asking = False
        self._known = threading.Event()
        self._asked_at = 0.0
        self._nodes: Mapping[str, ConnectedNode] | None = None

    def nodes(self) -> Mapping[str, ConnectedNode] | None:
        """By public key, at most some seconds old; None if the SuperLink cannot be asked."""
        with self._lock:
            stale = not self._known.is_set() or time.monotonic() - self._asked_at > NODES_FOR_S
            start = stale and not self._asking
            self._asking = self._asking or start
        if start:
            threading.Thread(target=self._refresh, name="nodes", daemon=True).start()
        self._known.wait(_FIRST_WAIT_S)
        return self._nodes

    def forget(self) -> None:
        """Ask again before the next answer."""
        with self._lock:
            self._asked_at = 0.0
            self._known.clear()

    def _refresh(self) -> None:
        found: Mapping[str, ConnectedNode] | None = None
        try:
            found = {node.public_key: node for node in self._ask()}
        except FedtagsError as error:
            logger.warning("the nodes are not known: %s", error)
        except Exception:
            logger.exception("the nodes are not known")
        with self._lock:
            self._nodes, self._asked_at, self._asking = found, time.monotonic(), False
            self._known.set()


@dataclass(frozen=True)
class Known:
    """What is known of all parties at one moment."""

    nodes: Mapping[str, ConnectedNode] | None
    told: Mapping[str, PartyDisclosure]


def party_view(party: Party, known: Known) -> PartyView:
    """One party."""
    return PartyView(**_fields(party, known))


def party_detail(
    party: Party,
    known: Known,
    contradictions: Sequence[Contradiction],
    over_time: Sequence[BudgetPoint],
    runs: tuple[RunView, ...],
) -> PartyDetail:
    """One party with everything that it tells."""
    told = known.told.get(party.name)
    return PartyDetail(
        **_fields(party, known),
        told=None if told is None else told.disclosure.model_dump(mode="json"),
        budget=None if told is None else budget_view(told, contradictions, over_time),
        doubts=tuple(one.what for one in contradictions if one.stands),
        runs=runs,
    )


def budget_view(
    told: PartyDisclosure,
    contradictions: Sequence[Contradiction],
    over_time: Sequence[BudgetPoint] = (),
) -> BudgetView | None:
    """A party's budget; None if it does not tell it. `contradictions`: of any parties."""
    said = told.disclosure
    if said.budget is None:
        return None
    status = said.status
    return BudgetView(
        party=told.party,
        told_at=told.received_at,
        epsilon=said.budget.epsilon,
        delta=said.budget.delta,
        spent=said.budget.spent,
        used=said.budget.used,
        last_run=said.budget.last_run,
        runs_left=said.budget.runs_left,
        limits=tuple(
            LimitView(
                name=one.name,
                window=one.window,
                purpose=one.purpose,
                plan=one.plan,
                epsilon=one.epsilon,
                spent=one.spent,
            )
            for one in said.limits or ()
        ),
        over_time=tuple(SpendPoint(at=one.at, spent=one.spent, used=one.used) for one in over_time),
        ledger_head=None if status is None else f"{status.ledger_position}:{status.ledger_hash}",
        doubt=next(
            (one.what for one in contradictions if one.stands and one.party == told.party), None
        ),
    )


def tag_views(
    told: Mapping[str, PartyDisclosure], runs: Sequence[tuple[str, str, bytes]]
) -> list[TagView]:
    """Every joint tag of the shipped catalogue, by name; `runs`: finished ones, newest first."""
    states = tag_states(told)
    published: dict[str, list[str]] = {}
    for run_id, _, source in runs:
        for tag in _tags_of(source):
            published.setdefault(tag, []).append(run_id)
    return [
        TagView(
            tag=tag.name,
            display_name=tag.display_name,
            display_name_zh=tag.display_name_zh,
            dimension=tag.dimension,
            states=dict(states.get(tag.name, {})),
            runs=tuple(published.get(tag.name, ())[:_RUNS_OF_A_TAG]),
        )
        for tag in sorted(shipped_catalogue().tags, key=lambda one: one.name)
        if tag.rule.kind == "joint"
    ]


def state_of(party: Party, known: Known) -> PartyState:
    """Whether the party's node is connected."""
    if party.removed_at is not None:
        return "removed"
    if known.nodes is None:
        return "unknown"
    node = known.nodes.get(party.supernode_public_key)
    return "up" if node is not None and node.online else "down"


def _fields(party: Party, known: Known) -> dict[str, Any]:
    told = known.told.get(party.name)
    said = None if told is None else told.disclosure
    status = None if said is None else said.status
    budget = None if said is None else said.budget
    approvals = None if said is None else said.approvals
    node = (known.nodes or {}).get(party.supernode_public_key)
    signs = [
        at
        for at in (
            None if node is None else node.last_seen,
            None if told is None else told.received_at,
        )
        if at is not None
    ]
    return {
        "name": party.name,
        "public_key": party.public_key.hex(),
        "fingerprint": party.fingerprint,
        "enrolled_at": party.enrolled_at,
        "removed_at": party.removed_at,
        "state": state_of(party, known),
        "last_seen": max(signs, default=None),
        "told_at": None if told is None else told.received_at,
        "public_size": None if status is None else status.public_size,
        "budget_used": None if budget is None else budget.used,
        "runs_left": None if budget is None else budget.runs_left,
        "waiting_plans": None if approvals is None else len(approvals.waiting),
        "node_version": None if status is None else status.version,
        "bundle": None if status is None else status.bundle,
    }


@lru_cache(maxsize=4096)
def _tags_of(source: bytes) -> tuple[str, ...]:
    try:
        return parse_plan(source).publication.tags
    except FedtagsError:
        return ()
