"""Privacy, evidence, the audit log, tags and models."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from coordinator.dashboard.plan_form import varied
from coordinator.dashboard.site import Visit
from coordinator.desk_views import DryRun
from coordinator.roles import Permission
from privacy.errors import CohortError, PlanError, PrivacyError, RateLimited
from privacy.hosting.pages.site import require

BUDGETS_A_PAGE = 100
# The slider's ends; a plan itself may ask up to 8.
LEAST_EPSILON, MOST_EPSILON = 0.1, 8.0


@dataclass(frozen=True)
class WhatIf:
    """A run's plan with another epsilon and number of rounds. `fault`: why it has no cost."""

    run: str
    epsilon: float
    rounds: int
    cost: DryRun | None
    fault: str


def privacy(visit: Visit) -> Response:
    """Every party's budget as it discloses it, and what another run would take of it."""
    budgets = sorted(visit.desk.budgets(visit.who), key=lambda one: (-one.used, one.party))
    page = visit.page
    shown = budgets[(page - 1) * BUDGETS_A_PAGE : page * BUDGETS_A_PAGE]
    may_ask = visit.may(Permission.CHECK_PLAN)
    runs = visit.desk.runs(visit.who, state="finished", limit=20).runs if may_ask else ()
    return visit.show(
        "privacy.html",
        section="/privacy",
        budgets=shown,
        pages=max(1, -(-len(budgets) // BUDGETS_A_PAGE)),
        page=page,
        runs=runs,
        choices=[(one.run_id, one.run_id) for one in runs],
        what_if=_what_if(visit, [one.run_id for one in runs]),
        least=LEAST_EPSILON,
        most=MOST_EPSILON,
    )


def _what_if(visit: Visit, runs: list[str]) -> WhatIf | None:
    asked = visit.request.query_params
    run = asked.get("run", "")
    if run not in runs:
        return None
    epsilon = _between(asked.get("epsilon", ""), LEAST_EPSILON, MOST_EPSILON, 1.0)
    rounds = int(_between(asked.get("rounds", ""), 1, 200, 6))
    cost, fault = None, ""
    try:
        source = varied(visit.desk.plan_of(visit.who, run).text, epsilon, rounds)
        cost = visit.desk.dry_run(visit.who, source)
    except (PlanError, CohortError, PrivacyError, RateLimited) as error:
        fault = str(error)
    return WhatIf(run, epsilon, rounds, cost, fault)


def evidence(visit: Visit) -> Response:
    """Packs that were made, runs that have none yet, and how to verify one."""
    may_read_chain = visit.may(Permission.SEE_AUDIT)
    return visit.show(
        "evidence.html",
        section="/evidence",
        packs=visit.desk.evidence_packs(visit.who)[:50],
        runs=visit.desk.runs(visit.who, limit=50).runs,
        chain=visit.desk.audit_chain(visit.who) if may_read_chain else None,
    )


def take_pack(visit: Visit) -> Response:
    """A run's pack as a file. It is made the first time that somebody asks."""
    name, data = visit.desk.take_evidence(visit.who, visit.request.path_params["run"])
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(data, media_type="application/zip", headers=headers)


def audit(visit: Visit) -> Response:
    """Who asked for what, newest first."""
    require(visit, Permission.SEE_AUDIT)
    view = visit.desk.audit(visit.who, cursor=visit.request.query_params.get("after"))
    chain = visit.desk.audit_chain(visit.who)
    return visit.show("audit.html", section="/audit", view=view, chain=chain)


def tags(visit: Visit) -> Response:
    """Joint tags, who publishes them, and the models that they come from."""
    may_models = visit.may(Permission.SEE_MODELS)
    models = visit.desk.models(visit.who, limit=20).models if may_models else ()
    parties = [one.name for one in visit.desk.parties(visit.who, limit=500).parties]
    return visit.show(
        "tags.html",
        section="/tags",
        tags=visit.desk.tags(visit.who),
        models=models,
        parties=len(parties),
    )


def _between(text: str, least: float, most: float, otherwise: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return otherwise
    return min(max(value, least), most) if value == value else otherwise
