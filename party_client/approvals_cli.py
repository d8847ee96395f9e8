"""`fedtags-party plan`: see the plans that wait for a person, approve or refuse one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from party_client.command_access import note_access
from party_client.roles import Permission
from party_client.settings import PartySettings, load_settings
from privacy.hosting.commands import Format, say, write_json

app = typer.Typer(help="Approve or refuse plans, where the policy asks a person.")

FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]
PlanArgument = Annotated[
    str, typer.Argument(metavar="HASH", help="The plan's hash, or how it begins (8 digits).")
]
PersonOption = Annotated[str, typer.Option(help="Who decides; it goes into the ledger.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it goes into the ledger.")]


@app.command("list")
def list_(
    context: typer.Context,
    all_: Annotated[
        bool, typer.Option("--all", help="Also those that were decided about.")
    ] = False,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """List the plans that wait for a person: who asked, for what, when.

    A plan waits if policy.toml says approval = "person", it is within the policy otherwise, and no
    approval of it stands.
    """
    from rich.console import Console

    from party_client import approvals, plan_views

    settings = _settings(context)
    found = approvals.kept_plans(settings) if all_ else approvals.waiting(settings)
    if output_format is Format.JSON:
        write_json([plan_views.plan_json(one) for one in found])
    else:
        Console().print(plan_views.plans_view(found))


@app.command("show")
def show(
    context: typer.Context, plan: PlanArgument, output_format: FormatOption = Format.TEXT
) -> None:
    """Show what a plan asks: the difference to the plan approved last, the data it touches, its
    cost in epsilon, and every kind of message that would leave.

    Opens no data and decides nothing.
    """
    from rich.console import Console

    from party_client import plan_views
    from party_client.plan_review import plan_review

    settings = _settings(context)
    review = plan_review(settings, _digest(settings, plan))
    if output_format is Format.JSON:
        write_json(plan_views.review_json(review))
    else:
        Console().print(plan_views.review_view(review))


@app.command("approve")
def approve(
    context: typer.Context,
    plan: PlanArgument,
    person: PersonOption,
    reason: ReasonOption,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Admit runs of a plan: `approval_runs` of them within `approval_days`, both of policy.toml.

    Signed into the ledger by this party's key. The requester then submits the plan again. Opens
    the source to note the names and types of its columns: if they change, the approval ends.
    """
    _decide(context, plan, person, reason, output_format, approve=True)


@app.command("refuse")
def refuse(
    context: typer.Context,
    plan: PlanArgument,
    person: PersonOption,
    reason: ReasonOption,
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Refuse a plan, or take its approval back, until somebody approves it.

    Signed into the ledger by this party's key. The requester learns the code "approval" only. A
    run that is under way is not stopped.
    """
    _decide(context, plan, person, reason, output_format, approve=False)


def _decide(
    context: typer.Context,
    plan: str,
    person: str,
    reason: str,
    output_format: Format,
    *,
    approve: bool,
) -> None:
    from party_client import approvals, plan_views

    settings = _settings(context)
    digest = _digest(settings, plan)
    note_access(
        settings, Permission.DECIDE, detail=f"{'approve' if approve else 'refuse'} {digest}"
    )
    made = approvals.decide(settings, digest, approve=approve, person=person, reason=reason)
    if output_format is Format.JSON:
        decision = plan_views.decision_json(made.decision)
        write_json({"outcome": made.outcome, "decision": decision})
    else:
        say(plan_views.decided_text(made))


def _digest(settings: PartySettings, prefix: str) -> str:
    from party_client.waiting_plans import WaitingPlans

    return WaitingPlans(settings.waiting_plans).find(prefix)


def _settings(context: typer.Context) -> PartySettings:
    home = context.obj
    assert isinstance(home, Path)
    return load_settings(home)
