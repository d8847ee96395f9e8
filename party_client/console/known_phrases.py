"""What other parts of the node say in English, as phrases for translation.

A test compares these with the sentences that a real home's pages show, and with the catalogues of
features, messages and permissions.
"""

from __future__ import annotations

from pydantic import BaseModel

from models.catalogue import EVENTS_1, GROUPS
from party_client.quality_rules import RULES
from party_client.roles import Permission
from privacy.hosting.pages import known_phrases as shared
from privacy.hosting.pages.languages import N_
from privacy.messages import PARTY_MESSAGES, Header

_BODIES: tuple[type[BaseModel], ...] = (Header, *PARTY_MESSAGES)
# Of models and messages; their Chinese is in zh.po like everything else's.
NOTES: tuple[str, ...] = tuple(
    dict.fromkeys(
        str(field.json_schema_extra["note"])
        for body in _BODIES
        for field in body.model_fields.values()
        if isinstance(field.json_schema_extra, dict)
    )
)
FEATURES: tuple[str, ...] = (*GROUPS, *(one.description for one in EVENTS_1))
UNITS: tuple[str, ...] = tuple(dict.fromkeys(rule.unit for rule in RULES.values()))

_LEDGER = (
    N_("opened: lifetime budget %(cap)s, order %(order)s"),
    N_("changed by the operator: lifetime budget %(cap)s, order %(order)s"),
    N_("epsilon %(epsilon)s at delta %(delta)s"),
    N_("lost entries, known from other parties' heads"),
    N_("a write was interrupted; it may have been a step of a run that was open"),
    N_("counted"),
    N_("charged"),
    N_("reserved: %(asked)s"),
    N_("reserved more, for what was lost and is drawn again: %(asked)s"),
    N_("%(steps)s training steps, %(releases)s"),
    N_("%(steps)s training steps"),
    N_("%(number)s release of noised counts"),
    N_("%(number)s releases of noised counts"),
    N_("%(step)s: this party's noised size"),
    N_("%(step)s: noised counts"),
    N_("%(step)s: %(steps)s training steps"),
    N_("%(step)s: the same values sent again, under fresh masks, for %(told)s"),
    N_("evaluation"),
    N_("weights"),
    N_("round %(round)s"),
    N_("under way"),
    N_("released"),
    N_("charged, not known to have been released"),
    N_("not charged again"),
    N_("not charged"),
    N_("given back: no data were touched for it"),
    N_("run %(outcome)s"),
    N_("%(stands)s, charged whole"),
    N_("open"),
    N_("finished"),
    N_("failed"),
    N_("expired"),
    N_("refunded"),
    N_("interrupted"),
    N_(
        "a sum of two parties gives each the other's noised update: only differential privacy "
        "protects it from the other party"
    ),
    N_(
        "%(person)s approved %(runs)s of plan %(plan)s (%(digest)s) of requester %(requester)s, "
        "until %(until)s: %(reason)s"
    ),
    N_("%(person)s refused plan %(plan)s (%(digest)s) of requester %(requester)s: %(reason)s"),
    N_("1 run"),
    N_("%(number)s runs"),
    N_("signed by this party"),
    N_("FORGED: not signed by this party; it admits nothing"),
)
_PLANS = (
    N_("when the plan is proposed, and whenever the cohort changes"),
    N_("when keys are agreed"),
    N_("before the first round"),
    N_("in each of %(rounds)s rounds"),
    N_("once, after the rounds"),
    N_("after each update and the evaluation"),
    N_("once, after the evaluation"),
    N_("once, when tags are written"),
    N_("if the run is aborted"),
    N_("with every message"),
    N_("%(what)s within %(days)s days"),
    N_("%(what)s from %(first)s to %(last)s"),
    N_("no purchase"),
    N_("at least one purchase"),
    N_("%(what)s in category %(name)s"),
    N_("your column for %(name)s"),
    N_("customer"),
    N_("time"),
    N_("amount"),
    N_("quantity"),
    N_("type"),
    N_("category"),
    N_("channel"),
    N_("retention"),
    N_("marketing"),
    N_("lifetime budget"),
    N_("lifetime"),
    N_("year"),
    N_("quarter"),
    N_("month"),
    N_("all runs"),
    N_("purpose %(purpose)s, plan %(plan)s"),
    N_("purpose %(purpose)s"),
    N_("plan %(plan)s"),
    N_("policy.toml: coordinators does not list this coordinator"),
    N_("policy.toml: requesters does not list the plan's requester"),
    N_("policy.toml: tags does not allow all tags of the plan"),
    N_("policy.toml: %(key)s does not allow all that the plan uses"),
    N_("policy.toml: %(key)s does not allow %(value)s"),
    N_("%(where)s is a forbidden attribute (%(category)s)"),
    N_(
        "policy.toml: max_epsilon_per_run is below what the plan asks for training, evaluation and "
        "noised weights together; it is %(limit)s"
    ),
    N_("no room in %(budget)s"),
    N_(
        "somebody else has decided about this plan since you looked at it; nothing was changed: "
        "look at it again, then decide"
    ),
)
_PEOPLE = (
    N_(
        "nothing may be read about this customer for this purpose: there is no valid tag, no "
        "consent to this purpose, or no such customer"
    ),
    N_("trained"),
    N_("evaluated"),
    N_("what was looked up is kept for half an hour only; look the customer up again"),
    N_("for %(purpose)s"),
    N_("approve %(digest)s"),
    N_("refuse %(digest)s"),
)
_QUALITY = (
    N_("pass"),
    N_("set aside"),
    N_("look"),
    N_("not looked at"),
    N_("draft"),
    N_("listed"),
    N_("frozen"),
    N_("retired"),
    N_("ledger"),
    N_("egress"),
    N_("access"),
)

PHRASES: tuple[str, ...] = (
    *shared.PHRASES,
    *_LEDGER,
    *_PLANS,
    *_PEOPLE,
    *_QUALITY,
    *NOTES,
    *FEATURES,
    *UNITS,
    *(one.value for one in Permission),
)
