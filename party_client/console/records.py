"""The pages that only show: home, budget, ledger, egress, data quality, access log."""

from __future__ import annotations

from starlette.responses import Response

from party_client.console.site import Visit
from party_client.roles import Permission
from privacy.hosting.pages.languages import N_

_ORDER = {"look": 0, "not looked at": 1, "set aside": 2, "pass": 3}


def home(visit: Visit) -> Response:
    """How the node stands, or, for who may not see that, what there is."""
    view = visit.desk.overview(visit.who) if visit.may(Permission.SEE_NODE) else None
    return visit.show("home.html", section="/", view=view)


def budget(visit: Visit) -> Response:
    """What may be spent, and is."""
    return visit.show("budget.html", section="/budget", view=visit.desk.budget(visit.who))


def ledger(visit: Visit) -> Response:
    """Every entry in words."""
    view = visit.desk.ledger(visit.who, visit.page)
    return visit.show("ledger.html", section="/ledger", view=view)


def egress(visit: Visit) -> Response:
    """What left; of one kind or run."""
    asked, words = visit.request.query_params, visit.words
    kind, run = asked.get("kind", "")[:64], asked.get("run", "").strip()[:64]
    view = visit.desk.egress(visit.who, visit.page, kind or None, run or None)
    kinds = [("", words.say(_ALL)), *((one, words.kind(one)) for one in view.kinds)]
    return visit.show("egress.html", section="/egress", view=view, kind=kind, run=run, kinds=kinds)


def quality(visit: Visit) -> Response:
    """What the newest check found; what needs a look comes first."""
    view = visit.desk.quality(visit.who)
    results = [] if view is None else sorted(view.results, key=lambda one: _ORDER[one.verdict])
    return visit.show(
        "quality.html",
        section="/quality",
        view=view,
        results=results,
        to_look=sum(one.verdict == "look" for one in results),
    )


def access_log(visit: Visit) -> Response:
    """Who looked at what."""
    view = visit.desk.access_log(visit.who, visit.page)
    return visit.show("access_log.html", section="/access-log", view=view)


_ALL = N_("all")
