"""Home, alerts and parties."""

from __future__ import annotations

from starlette.responses import Response

from coordinator.dashboard.site import Visit
from coordinator.roles import Permission
from privacy.errors import ConfigError
from privacy.hosting.enrolment import Invite
from privacy.hosting.pages.forms import Fields
from privacy.hosting.pages.languages import N_
from privacy.hosting.pages.site import go, require

# With a hundred parties a page shows those that need a look, and how many more there are.
MOST_ON_HOME = 12
PARTIES_A_PAGE = 100
_SURE = N_("Tick the box if you mean it.")


def home(visit: Visit) -> Response:
    """How the federation stands: what needs a look first."""
    if not visit.may(Permission.SEE_FEDERATION):
        return visit.show("home.html", section="/", view=None)
    view = visit.desk.overview(visit.who)
    order = {"down": 0, "unknown": 1, "up": 2, "removed": 3}
    parties = sorted(view.parties, key=lambda one: (order[one.state], one.name))
    budgets = sorted(view.budgets, key=lambda one: -one.used)
    return visit.show(
        "home.html",
        section="/",
        view=view,
        parties=parties[:MOST_ON_HOME],
        more_parties=max(0, len(parties) - MOST_ON_HOME),
        budgets=budgets[:MOST_ON_HOME],
        more_budgets=max(0, len(budgets) - MOST_ON_HOME),
    )


def alerts(visit: Visit) -> Response:
    """What a person should look at, newest first."""
    cursor = visit.request.query_params.get("after")
    view = visit.desk.alerts(visit.who, cursor=cursor)
    return visit.show("alerts.html", section="/alerts", view=view)


def parties(visit: Visit) -> Response:
    """Everyone enrolled, those who were invited, and for an administrator the form."""
    return _parties(visit)


def invite(visit: Visit) -> Response:
    """A one-time invite; the file is on the next page alone."""
    require(visit, Permission.INVITE_PARTY)
    fields = Fields(visit.form)
    name = fields.line("party", most=31)
    if not fields.wrong:
        try:
            made = visit.desk.invite(visit.who, name)
            return go(f"/parties/invited/{visit.keep(made)}")
        except ConfigError as error:
            fields.wrong["party"] = str(error)
    return _parties(visit, fields.wrong)


def invited(visit: Visit) -> Response:
    """The invite, once: a second look finds nothing."""
    made = visit.take(visit.request.path_params["handle"])
    if not isinstance(made, Invite):
        return go("/parties")
    text = made.model_dump_json(indent=2)
    return visit.show("invited.html", section="/parties", invite=made, text=text)


def party(visit: Visit) -> Response:
    """One party with all that it tells."""
    return _party(visit)


def remove_party(visit: Visit) -> Response:
    """No new run asks it; its history stays."""
    name = visit.request.path_params["name"]
    require(visit, Permission.REMOVE_PARTY)
    if visit.form.get("sure") != "yes":
        return _party(visit, {"sure": _SURE})
    visit.desk.remove_party(visit.who, name)
    return go("/parties?done=party-removed")


def _party(visit: Visit, wrong: dict[str, str] | None = None) -> Response:
    view = visit.desk.party(visit.who, visit.request.path_params["name"])
    return visit.show("party.html", section="/parties", view=view, wrong=wrong)


def _parties(visit: Visit, wrong: dict[str, str] | None = None) -> Response:
    cursor = visit.request.query_params.get("after")
    may_invite = visit.may(Permission.INVITE_PARTY)
    return visit.show(
        "parties.html",
        section="/parties",
        view=visit.desk.parties(visit.who, removed=True, cursor=cursor, limit=PARTIES_A_PAGE),
        federation=visit.desk.federation(visit.who),
        invitations=visit.desk.invitations(visit.who) if may_invite else [],
        name=visit.form.get("party", ""),
        wrong=wrong,
    )
