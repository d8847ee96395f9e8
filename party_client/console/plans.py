"""Plans that wait for a person, and the decision about one."""

from __future__ import annotations

from starlette.responses import Response

from party_client.approvals import Stand
from party_client.console.site import Visit
from party_client.roles import Permission
from privacy.hosting.pages.forms import Fields
from privacy.hosting.pages.languages import N_
from privacy.hosting.pages.site import go, require
from privacy.ledger_decisions import MAX_TEXT

SECTION = "/approvals"
_REASON = N_("Say why; the reason stays in the ledger.")
_DECISION = N_("Choose to approve or to refuse.")


def approvals(visit: Visit) -> Response:
    """What waits, then what was decided."""
    plans = visit.desk.plans(visit.who)
    return visit.show(
        "approvals.html",
        section=SECTION,
        waiting=[one for one in plans if one.stand is Stand.WAITING],
        decided=[one for one in plans if one.stand is not Stand.WAITING],
    )


def plan(visit: Visit) -> Response:
    """Everything that a person decides on."""
    return _plan(visit)


def decide(visit: Visit) -> Response:
    """Approve or refuse what the person looked at, and nothing that came in between."""
    require(visit, Permission.DECIDE)
    fields = Fields(visit.form)
    reason = fields.line("reason", needed=_REASON, most=MAX_TEXT)
    decision = visit.form.get("decision")
    if decision not in ("approve", "refuse"):
        fields.wrong[""] = _DECISION
    seen = visit.form.get("seen", "")
    if not 0 < len(seen) <= 128:
        fields.wrong[""] = _DECISION
    if fields.wrong:
        return _plan(visit, reason, fields.wrong)
    digest = visit.request.path_params["digest"]
    done = visit.desk.decide(visit.who, digest, decision == "approve", reason, seen=seen)
    return go(f"/approvals/{digest}?done={done.outcome.value}")


def _plan(visit: Visit, reason: str = "", wrong: dict[str, str] | None = None) -> Response:
    view = visit.desk.plan(visit.who, visit.request.path_params["digest"])
    return visit.show("plan.html", section=SECTION, view=view, reason=reason, wrong=wrong)
