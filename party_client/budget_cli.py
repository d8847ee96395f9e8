"""`fedtags-party budget`: what is spent, what is left, and what a plan would cost. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from party_client.settings import PartySettings, load_settings
from privacy.hosting.commands import Format, write_json

app = typer.Typer(help="See this party's privacy budget.", no_args_is_help=True)

FormatOption = Annotated[Format, typer.Option("--format", help="text, or json for scripts.")]


@app.command("show")
def show(context: typer.Context, output_format: FormatOption = Format.TEXT) -> None:
    """Say what the budgets are, what is spent of each, and what is set aside for runs under way.

    Every epsilon is for one customer at this party, added or removed, at the ledger's delta.
    """
    from rich.console import Console

    from party_client import budget_views, ledger_words
    from party_client.policy import load_policy
    from privacy.ledger import Ledger

    settings = _settings(context)
    budget = load_policy(settings.policy).budget
    state = Ledger(settings.ledger).state()
    runs = ledger_words.run_lines(state, only_open=True)
    waiting = (budget.epsilon, budget.delta) != (state.cap_epsilon, state.cap_delta)
    if output_format is Format.JSON:
        write_json(
            budget_views.lifetime_json(state)
            | {
                "limits": budget_views.limit_rows(state, budget.limits),
                "open_reservations": [ledger_words.plain(one) for one in runs],
                "policy_waits_for_restart": waiting,
            }
        )
        return
    note = (
        f"policy.toml names epsilon {budget.epsilon:g} at delta {budget.delta:.1e}: that takes "
        "effect, and is recorded, when the service starts again."
    )
    view = budget_views.budget_view(state, budget.limits, runs, note if waiting else "")
    Console().print(view)


@app.command("plan")
def plan(
    context: typer.Context,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="The plan's TOML file.")],
    output_format: FormatOption = Format.TEXT,
) -> None:
    """Say what a plan would cost here, how many such runs fit, and whether policy refuses it.

    The cost is an upper bound, and exact if nothing fails. No data is opened and nothing is
    reserved. Exit code 0 means that the question was answered: a script reads `admitted`.
    """
    from rich.console import Console

    from models.plan import read_plan
    from party_client import budget_views
    from party_client.forecast import forecast
    from party_client.policy import load_policy
    from privacy.ledger import Ledger

    settings = _settings(context)
    asked, _ = read_plan(plan_file)
    made = forecast(
        load_policy(settings.policy),
        asked,
        Ledger(settings.ledger),
        party=settings.party,
        public_size=settings.public_size,
    )
    if output_format is Format.JSON:
        write_json(budget_views.forecast_json(made))
    else:
        Console().print(budget_views.forecast_view(made))


def _settings(context: typer.Context) -> PartySettings:
    home = context.obj
    assert isinstance(home, Path)
    return load_settings(home)
