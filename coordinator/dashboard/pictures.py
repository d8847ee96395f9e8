"""The addresses of the pictures: which values each draws, for whom."""

from __future__ import annotations

from starlette.responses import Response

from coordinator.dashboard import charts
from coordinator.dashboard.charts import Bar, Scheme
from coordinator.dashboard.site import Visit
from coordinator.desk_views import MOST_COMPARED
from privacy.errors import NotFound
from privacy.hosting.pages.languages import N_

MOST_BARS = 40
_SECONDS = N_("seconds")
_SHARE = N_("share of the lifetime budget")
_DAYS = N_("days since the first disclosure")


def exchanges(visit: Visit) -> Response:
    """Seconds of a run's phases and rounds."""
    view = visit.desk.run(visit.who, visit.request.path_params["run"])
    seconds: dict[str, float] = {}
    for one in view.exchanges:
        name = visit.words.phase(one.phase, one.round)
        seconds[name] = seconds.get(name, 0.0) + one.seconds
    values = tuple(Bar(name, round(value, 2)) for name, value in seconds.items())[-MOST_BARS:]
    return _picture(visit, visit.words.say(_SECONDS), "s", values)


def figures(visit: Visit) -> Response:
    """What a run released, with its noise."""
    view = visit.desk.run(visit.who, visit.request.path_params["run"])
    values = tuple(
        Bar(visit.words.figure(one.name), one.value, one.standard_error) for one in view.figures
    )
    return _picture(visit, "", "", values)


def compared(visit: Visit) -> Response:
    """One figure of several runs."""
    asked = visit.request.query_params
    wanted = asked.get("figure", "auc")
    view = visit.desk.compare(visit.who, asked.getlist("run")[:MOST_COMPARED])
    values = tuple(
        Bar(one.run.run_id, figure.value, figure.standard_error)
        for one in view.runs
        for figure in one.figures
        if figure.name == wanted
    )
    return _picture(visit, visit.words.figure(wanted), "", values)


def budget(visit: Visit) -> Response:
    """How a party's budget was used over time, as it disclosed it."""
    view = visit.desk.party(visit.who, visit.request.path_params["name"]).budget
    if view is None or not view.over_time:
        raise NotFound("this party discloses no budget")
    first = view.over_time[0].at
    points = tuple(
        ((one.at - first).total_seconds() / 86400, round(one.used, 4)) for one in view.over_time
    )
    title, unit = visit.words.say(_SHARE), visit.words.say(_DAYS)
    return _svg(charts.steps(title, unit, points, 1.0, _scheme(visit)))


def _picture(visit: Visit, title: str, unit: str, values: tuple[Bar, ...]) -> Response:
    if not values:
        raise NotFound("there is nothing to draw yet")
    return _svg(charts.bars(title, unit, values, _scheme(visit)))


def _scheme(visit: Visit) -> Scheme:
    return "dark" if visit.request.query_params.get("scheme") == "dark" else "light"


def _svg(data: bytes) -> Response:
    return Response(data, media_type="image/svg+xml")
