"""Runs: the list, one run as it goes, several side by side."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from coordinator.dashboard.codes import RUN_STATES
from coordinator.dashboard.site import Visit
from coordinator.desk_views import MOST_COMPARED, RunDetail
from coordinator.roles import Permission
from privacy.errors import ConfigError, RunError
from privacy.hosting.pages.languages import N_
from privacy.hosting.pages.site import go

RUNS_A_PAGE = 50
_SURE = N_("Tick the box if you mean it.")
_TOO_FEW = N_("Choose two to six runs.")


def runs(visit: Visit) -> Response:
    """The newest runs; of one state, plan or party if the reader asks."""
    asked = visit.request.query_params
    state, plan, party = (asked.get(name, "").strip()[:64] for name in ("state", "plan", "party"))
    view = visit.desk.runs(
        visit.who,
        state=state or None,
        plan=plan or None,
        party=party or None,
        cursor=asked.get("after"),
        limit=RUNS_A_PAGE,
    )
    states = [
        ("", visit.words.say(_ALL)),
        *((one, visit.words.run_state(one)) for one in RUN_STATES),
    ]
    return visit.show(
        "runs.html",
        section="/runs",
        view=view,
        state=state,
        plan=plan,
        party=party,
        states=states,
        filters={"state": state, "plan": plan, "party": party},
    )


def run(visit: Visit) -> Response:
    """One run: where it is, who takes part, what it released, why it failed."""
    return _run(visit)


def run_part(visit: Visit) -> Response:
    """The part of a run's page that changes while it goes; the page's script asks for it."""
    view = visit.desk.run(visit.who, visit.request.path_params["run"])
    return visit.show("run_part.html", section="/runs", **_values(view))


def stop(visit: Visit) -> Response:
    """End a run: before its next exchange, or at once."""
    run_id = visit.request.path_params["run"]
    force = visit.form.get("force") == "yes"
    if visit.form.get("sure") != "yes":
        return _run(visit, {"sure": _SURE})
    try:
        visit.desk.stop(visit.who, run_id, force)
    except RunError as error:
        return _run(visit, {"sure": str(error)})
    return go(f"/runs/{run_id}?done={'stopped' if force else 'stopping'}")


def resume(visit: Visit) -> Response:
    """Let a paused run ask its absent parties now."""
    run_id = visit.request.path_params["run"]
    try:
        visit.desk.resume(visit.who, run_id)
    except RunError as error:
        return _run(visit, {"": str(error)})
    return go(f"/runs/{run_id}?done=resumed")


def plan(visit: Visit) -> Response:
    """The plan that a run follows, and what it costs each party."""
    run_id = visit.request.path_params["run"]
    view = visit.desk.plan_of(visit.who, run_id)
    cost = visit.desk.cost_of(visit.who, run_id)
    return visit.show("plan.html", section="/runs", view=view, cost=cost)


def compare(visit: Visit) -> Response:
    """Two to six runs side by side; before that, the list to choose from."""
    chosen = visit.request.query_params.getlist("run")[: MOST_COMPARED + 1]
    view, wrong = None, None
    if chosen:
        try:
            view = visit.desk.compare(visit.who, chosen)
        except ConfigError:
            wrong = {"": _TOO_FEW}
    listed = visit.desk.runs(visit.who, state="finished", limit=RUNS_A_PAGE)
    return visit.show(
        "compare.html",
        section="/compare",
        view=view,
        listed=listed.runs,
        chosen=chosen,
        names=list(dict.fromkeys(f.name for one in view.runs for f in one.figures)) if view else [],
        wrong=wrong,
    )


def _run(visit: Visit, wrong: dict[str, str] | None = None) -> Response:
    view = visit.desk.run(visit.who, visit.request.path_params["run"])
    may_control = visit.may(Permission.CONTROL_RUN)
    return visit.show(
        "run.html", section="/runs", may_control=may_control, wrong=wrong, **_values(view)
    )


def _values(view: RunDetail) -> dict[str, Any]:
    """A run's exchanges summed by phase and round, in the order in which they came."""
    steps: dict[tuple[str, int | None], dict[str, float]] = {}
    for one in view.exchanges:
        step = steps.setdefault(
            (one.phase, one.round), {"exchanges": 0, "seconds": 0.0, "up": 0, "down": 0}
        )
        step["exchanges"] += 1
        step["seconds"] += one.seconds
        step["up"] += sum(one.bytes_up.values())
        step["down"] += sum(one.bytes_down.values())
    return {
        "view": view,
        "steps": [(phase, number, step) for (phase, number), step in steps.items()],
    }


_ALL = N_("all")
