"""What the desk tells about the node itself, read from its home: budget, ledger, egress, status."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TypeVar

from party_client import approvals, budget_views, egress, ledger_words
from party_client.desk_views import (
    PAGE_SIZE,
    BudgetView,
    ChainView,
    EgressPage,
    LedgerLine,
    LedgerPage,
    LimitView,
    Overview,
    RunView,
)
from party_client.policy import load_policy
from party_client.quality import REPORT_FILE, load_report
from party_client.settings import PartySettings
from party_client.status import read_status
from privacy.accounting import epsilon
from privacy.errors import LedgerError
from privacy.hosting.access_log import AccessLog
from privacy.ledger import Ledger
from privacy.ledger_state import LedgerState

_Item = TypeVar("_Item")
_OF_STATUS = (
    "party",
    "federation",
    "members",
    "members_confirmed",
    "running",
    "service_up",
    "supernode_up",
    "epsilon_budget",
    "epsilon_spent",
    "budget_used",
    "delta",
    "last_run",
    "last_run_state",
    "last_run_two_party",
    "last_report_at",
    "bundle",
)


def overview(settings: PartySettings, ledger: Ledger, log: AccessLog) -> Overview:
    """How the node stands."""
    status = read_status(settings)
    report = load_report(settings.quality / REPORT_FILE)
    return Overview(
        **{name: getattr(status, name) for name in _OF_STATUS},
        waiting_plans=len(approvals.waiting(settings)),
        quality_share=None if report is None else report.usable_share,
        quality_at=None if report is None else report.checked_at,
        chains=_chains(settings, ledger, log),
    )


def budget(settings: PartySettings, ledger: Ledger) -> BudgetView:
    """The lifetime budget and the policy's sub-limits."""
    allowed = load_policy(settings.policy).budget
    state = ledger.state()
    return BudgetView(
        epsilon=state.cap_epsilon,
        delta=state.cap_delta,
        order=state.cap.order,
        spent=epsilon(state.charged(), state.cap_delta),
        used=state.cap.used(state.charged()),
        gaps=len(state.gaps),
        limits=tuple(
            LimitView(
                name=one["name"],
                applies_to=one["applies_to"],
                window=one["window"],
                window_now=one["window_now"],
                epsilon=one["epsilon"],
                spent=one["spent"],
            )
            for one in budget_views.limit_rows(state, allowed.limits)
        ),
        open_runs=_runs(state, only_open=True),
        policy_waits=(allowed.epsilon, allowed.delta) != (state.cap_epsilon, state.cap_delta),
    )


def ledger_page(ledger: Ledger, public: bytes, page: int) -> LedgerPage:
    """The ledger in words, newest entries first. `public`: this party's own key, under which
    decisions are signed."""
    entries, state = ledger.snapshot()
    lines = ledger_words.lines(entries, state, public)[::-1]
    shown = _page_of(lines, page)
    named = {line.run for line in shown}
    return LedgerPage(
        lines=tuple(LedgerLine(**asdict(one)) for one in shown),
        runs=tuple(run for run in _runs(state) if run.run in named),
        page=page,
        pages=_pages(len(lines)),
        head=_ledger_head(ledger),
    )


def egress_page(
    settings: PartySettings, page: int, kind: str | None, run: str | None
) -> EgressPage:
    """Messages that left, newest first; of one kind or run, if given."""
    every = egress.read_page(settings, 1, max(1, egress.count(settings)))
    wanted = [
        one
        for one in every
        if (kind is None or one.kind == kind) and (run is None or one.run == run)
    ]
    return EgressPage(
        lines=tuple(_page_of(wanted, page)),
        kinds=tuple(sorted({one.kind for one in every})),
        page=page,
        pages=_pages(len(wanted)),
        head=_egress_head(settings),
    )


def _chains(settings: PartySettings, ledger: Ledger, log: AccessLog) -> tuple[ChainView, ...]:
    spent = sent = None
    with suppress(LedgerError):
        spent = _ledger_head(ledger)
    with suppress(LedgerError):
        sent = _egress_head(settings)
    seen = "" if log.head is None else f"{log.head.sequence}:{log.head.hash}"
    return (
        ChainView("ledger", spent is not None, spent or ""),
        ChainView("egress", sent is not None, sent or ""),
        ChainView("access", log.working, seen),
    )


def _ledger_head(ledger: Ledger) -> str:
    at = ledger.position()
    return f"{at.position}:{at.hash}"


def _egress_head(settings: PartySettings) -> str:
    head = egress.head(settings)
    return "" if head is None else f"{head.sequence}:{head.hash}"


def _runs(state: LedgerState, *, only_open: bool = False) -> tuple[RunView, ...]:
    found = ledger_words.run_lines(state, only_open=only_open)
    return tuple(RunView(**asdict(one)) for one in found)


def _page_of(items: list[_Item], page: int) -> list[_Item]:
    return items[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]


def _pages(count: int) -> int:
    return max(1, -(-count // PAGE_SIZE))
