"""Plans that wait, and one plan's review, on a terminal and as plain data for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from party_client.approvals import Cause, Decided, Outcome, Stand, WaitingPlan
from party_client.views import share_in_words
from privacy.ledger_decisions import PlanDecision

if TYPE_CHECKING:  # it needs torch, and a list of plans does not
    from party_client.plan_review import LeavingMessage, PlanCost, PlanReview

CAUSES = {
    Cause.NEW: "nobody has decided about it",
    Cause.REFUSED: "it was refused",
    Cause.USED: "its approval is used up",
    Cause.EXPIRED: "its approval has expired",
    Cause.REQUESTER: "it was approved for another requester",
    Cause.SOURCE: "the source's columns changed since its approval",
    Cause.LOST: "the ledger lost entries since its approval, so its runs cannot be counted",
}
OUTCOMES = {
    Outcome.APPROVED: "approved",
    Outcome.REFUSED: "refused",
    Outcome.WITHDRAWN: "refused; the approval that stood is taken back",
    Outcome.APPROVED_ALREADY: "approved already; nothing was changed",
    Outcome.REFUSED_ALREADY: "refused already; nothing was changed",
}


def plans_view(plans: Sequence[WaitingPlan]) -> RenderableType:
    """One line a plan."""
    if not plans:
        return Text("no plan waits for a person")
    table = Table("plan", "hash", "for", "requester", "asked (UTC)", "stands", box=None)
    for one in plans:
        asked = f"{one.asked.astimezone(UTC):%F %T}"
        who = f"{one.requester_name} {one.requester}"
        table.add_row(one.plan, one.digest[:12], one.purpose, who, asked, in_words(one))
    return table


def in_words(plan: WaitingPlan) -> str:
    """How a plan stands, and why."""
    if plan.stand is Stand.APPROVED:
        runs = "1 run" if plan.runs_left == 1 else f"{plan.runs_left} runs"
        return f"approved: {runs} left"
    because = f": {CAUSES[plan.cause]}" if plan.cause is not None else ""
    return f"waiting{because}" if plan.stand is Stand.WAITING else str(plan.stand)


def review_view(review: PlanReview) -> Group:
    """Everything that a person needs to decide."""
    plan, data = review.plan, review.data
    head = _pairs(
        ("hash", plan.digest),
        ("requester", f"{plan.requester_name}, key {plan.requester}"),
        ("asked", f"{plan.asked.astimezone(UTC):%F %T} UTC, for run {plan.run}{_times(plan)}"),
        ("stands", in_words(plan)),
        *([("decided", _decision(plan.decision))] if plan.decision is not None else []),
        ("purpose", plan.purpose),
    )
    touched = _pairs(
        ("features", ", ".join(name for name, _, _ in data.features)),
        ("groups", ", ".join(data.groups)),
        ("label", data.label),
        ("records before", data.cutoff or "no cut-off day"),
        ("your columns", ", ".join(f"{own} ({name})" for name, own in data.columns.items())),
        ("tags written", ", ".join(data.tags) or "none"),
    )
    return Group(
        Text.assemble("plan ", (plan.plan, "bold")), head, Text(),
        _title("what is different"), *_changes(review), Text(),
        _title("data that it touches"), touched, Text(),
        _title("what it costs"), *_cost(review.cost), Text(),
        _title("what would leave"), _leaves(review.leaves), Text(),
        *(Text(f"would be refused now ({reason}): {why}") for reason, why in review.refusals),
    )  # fmt: skip


def decided_text(decided: Decided) -> str:
    """One line about what came of a decision, and one about what it means."""
    made = decided.decision
    what = f"plan {made.plan} ({made.plan_digest[:12]}): {OUTCOMES[decided.outcome]}"
    if not made.approved:
        return f"{what}\nA run of it that is under way is not stopped; `fedtags-party stop` does."
    return f"{what}\n{_decision(made)}"


def plan_json(plan: WaitingPlan) -> dict[str, Any]:
    """A kept plan for scripts."""
    found = {key: _plain(value) for key, value in vars(plan).items() if key != "decision"}
    decision = None if plan.decision is None else decision_json(plan.decision)
    return found | {"decision": decision, "seen": plan.seen}


def decision_json(decision: PlanDecision) -> dict[str, Any]:
    """A decision for scripts, without its signature, which `ledger export` has."""
    return {key: _plain(value) for key, value in vars(decision).items() if key != "body"}


def review_json(review: PlanReview) -> dict[str, Any]:
    """A whole review for scripts."""
    found = asdict(review)
    found["plan"] = plan_json(review.plan)
    found["refusals"] = [{"reason": reason, "message": why} for reason, why in review.refusals]
    return found


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _decision(made: PlanDecision) -> str:
    verb = "approved" if made.approved else "refused"
    text = f"{verb} {made.decided_at:%F %T} UTC by {made.person}: {made.reason}"
    if made.valid_until is None:
        return text
    runs = "1 run" if made.runs == 1 else f"{made.runs} runs"
    return f"{text}; for {runs}, until {made.valid_until:%F %T} UTC"


def _times(plan: WaitingPlan) -> str:
    return "" if plan.times == 1 else f"; {plan.times} times since {plan.first_asked:%F}"


def _changes(review: PlanReview) -> list[RenderableType]:
    if review.compared_with is None:
        return [Text("nothing was approved here before: every key is new"), _table_of(review)]
    name = f"{review.compared_with_name} ({review.compared_with[:12]})"
    if not review.changes:
        return [Text(f"means the same as {name}, approved last; comments or layout differ")]
    return [Text(f"from {name}, approved last"), _table_of(review)]


def _table_of(review: PlanReview) -> Table:
    table = Table("key", "was", "is", box=None)
    for one in review.changes:
        table.add_row(*map(_safe, (one.key, one.before or "", one.after or "(left out)")))
    return table


def _cost(cost: PlanCost | None) -> list[RenderableType]:
    if cost is None:
        return [Text("cannot be told: see below")]
    rows = [
        ("epsilon", f"at most {cost.epsilon:.4g} at delta {cost.delta:.1e}, one customer here"),
        (
            "lifetime budget",
            f"{share_in_words(cost.used_before)} used, {share_in_words(cost.used_after)} after it",
        ),
        ("such runs left", f"{cost.runs_left:,} ({cost.binding})"),
    ]
    rows += [
        (
            f"limit {one.name}",
            f"epsilon {one.spent:.4g} of {one.epsilon:g} spent ({one.window}), "
            f"{one.runs_left:,} such runs left",
        )
        for one in cost.limits
    ]
    return [_pairs(*rows)]


def _leaves(messages: Sequence[LeavingMessage]) -> Table:
    table = Table("message", "when", "field", "treatment", "what it is", box=None)
    for message in messages:
        kind, when = message.kind, message.when
        for field in message.fields:
            table.add_row(kind, when, field.name, field.treatment, field.note)
            kind = when = ""
        if not message.fields:
            table.add_row(kind, when, "none", "", "")
    return table


def _pairs(*rows: tuple[str, str]) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, _safe(value))
    return table


def _title(text: str) -> Text:
    return Text(text, style="bold")


def _safe(text: str) -> Text:
    # Not as markup, and no character that a terminal obeys: some of it is the requester's text.
    return Text("".join(one if one.isprintable() else "\ufffd" for one in text))
