"""The words for codes: roles, states of runs and parties, phases, names of figures, alerts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from privacy.hosting.pages.languages import N_

ROLES: Mapping[str, str] = MappingProxyType(
    {
        "admin": N_("administrator"),
        "data-scientist": N_("data scientist"),
        "reviewer": N_("reviewer"),
        "party-operator": N_("operator of a party"),
        "party": N_("a party's node"),
    }
)
ROLE_MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "admin": N_("all of it: parties, people and tokens too"),
        "data-scientist": N_("plans, runs, models and tags; invites and removes nobody"),
        "reviewer": N_("reads everything, takes evidence packs, changes nothing"),
        "party-operator": N_("reads what concerns the one party; changes nothing"),
    }
)
RUN_STATES: Mapping[str, str] = MappingProxyType(
    {
        "created": N_("starting"),
        "running": N_("running"),
        "paused": N_("paused"),
        "recovering": N_("recovering"),
        "finished": N_("finished"),
        "failed": N_("failed"),
        "stopped": N_("stopped"),
    }
)
# The class of a state's mark: what it means is in the word, not in the colour alone.
RUN_MARKS: Mapping[str, str] = MappingProxyType(
    {
        "finished": "good",
        "paused": "warn",
        "recovering": "warn",
        "failed": "bad",
        "stopped": "warn",
    }
)
PARTY_STATES: Mapping[str, str] = MappingProxyType(
    {
        "up": N_("connected"),
        "down": N_("not connected"),
        "unknown": N_("not known"),
        "removed": N_("removed"),
    }
)
PARTY_MARKS: Mapping[str, str] = MappingProxyType({"up": "good", "down": "bad", "unknown": "warn"})
PHASES: Mapping[str, str] = MappingProxyType(
    {
        "preflight": N_("preflight"),
        "keys": N_("key agreement"),
        "weights": N_("weights"),
        "round": N_("round"),
        "evaluation": N_("evaluation"),
        "publication": N_("publication"),
        "pause": N_("pause"),
        "return": N_("return of a party"),
    }
)
FIGURES: Mapping[str, str] = MappingProxyType(
    {
        "auc": N_("AUC"),
        "calibration": N_("calibration (mean score less share of positives)"),
    }
)
# Where a party stands in a run (`desk_views.PartyInRun.status`).
STANDS: Mapping[str, str] = MappingProxyType(
    {
        "not asked": N_("not asked"),
        "asked": N_("asked"),
        "takes part": N_("takes part"),
        "away": N_("away"),
        "left": N_("left"),
        "refused": N_("refused"),
        "finished": N_("finished"),
        "unpublished": N_("finished, but did not confirm its tags"),
    }
)
EVENTS: Mapping[str, str] = MappingProxyType(
    {"left": N_("did not answer"), "refused": N_("refused"), "returned": N_("came back")}
)
TAG_STATES: Mapping[str, str] = MappingProxyType(
    {
        "draft": N_("draft"),
        "listed": N_("listed"),
        "frozen": N_("frozen"),
        "retired": N_("retired"),
    }
)
ASKED: Mapping[str, str] = MappingProxyType(
    {
        "training": N_("training"),
        "evaluation": N_("evaluation"),
        "weights": N_("noised weights"),
    }
)
