"""A person's approval of a plan: whether one stands, which plans wait for one, and giving it.

What counts are the ledger's entries `approve` and `refuse` alone (`privacy.ledger_decisions`); the
files in HOME/plans only show a person what was asked. An approval admits the runs that it names, of
one plan, for one requester, until its day, and while the source has the form that it had.

A refusal for want of an approval is the public constant "approval". It says that a person has to
look, whatever the data are: it is decided by the plan, the policy and the ledger, before data.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from models.plan import parse_plan
from party_client.policy import load_policy
from party_client.settings import PartySettings
from party_client.sources import open_source
from party_client.waiting_plans import MAX_WAITING, Request, WaitingPlans
from privacy.errors import ConfigError, DecidedMeanwhile, NotFound, PlanError
from privacy.identity import SigningKey
from privacy.ledger import Ledger
from privacy.ledger_decisions import MAX_TEXT, DecisionTerms, PlanDecision, check_signatures
from privacy.ledger_state import LedgerState


class Cause(StrEnum):
    """Why no approval stands for a plan. Never leaves the party."""

    NEW = "new"  # nobody has decided about it
    REFUSED = "refused"  # a person refused it, and nobody approved it since
    USED = "used"  # the approval's runs are used up
    EXPIRED = "expired"  # the approval's day has passed
    REQUESTER = "requester"  # it was approved for another requester
    SOURCE = "source"  # the source's form is not what it was when it was approved
    LOST = "lost"  # the ledger lost entries since: how many runs there were is not known


class Stand(StrEnum):
    """How a plan stands."""

    WAITING = "waiting"  # was asked for, and a person has to decide
    APPROVED = "approved"  # a run of it would be admitted
    REFUSED = "refused"
    USED = "used"  # its approval is used up, and nobody asked again
    EXPIRED = "expired"  # its approval's day has passed, and nobody asked again


class Outcome(StrEnum):
    """What came of a decision. The last two changed nothing."""

    APPROVED = "approved"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"  # refused, where an approval stood
    APPROVED_ALREADY = "approved-already"
    REFUSED_ALREADY = "refused-already"


@dataclass(frozen=True)
class WaitingPlan:
    """A plan that was asked for, and how it stands. `requester`: fingerprint. `asked`: newest.

    `decision`: the newest about it. `runs_left`: that its approval still admits.
    """

    digest: str
    plan: str
    purpose: str
    requester: str
    requester_name: str
    run: str
    first_asked: datetime
    asked: datetime
    times: int
    stand: Stand
    cause: Cause | None
    decision: PlanDecision | None
    runs_left: int

    @property
    def seen(self) -> str:
        """What `decide` takes, to be told if somebody decided, or another requester asked, after
        this was looked at."""
        return _seen(self.decision, self.requester)


@dataclass(frozen=True)
class Decided:
    """What came of a decision, and the decision that stands now."""

    outcome: Outcome
    decision: PlanDecision


def kept_plans(settings: PartySettings) -> tuple[WaitingPlan, ...]:
    """Every plan that was asked for and needed a person, the newest question first.

    One that is damaged, or that this version cannot read, is left out: `fedtags-party plan show`
    says what is wrong with it.
    """
    folder = WaitingPlans(settings.waiting_plans)
    state = checked_state(settings)
    found: list[WaitingPlan] = []
    for digest in folder.digests():
        with suppress(ConfigError, PlanError, NotFound):
            found.append(one_plan(folder, state, digest))
    return tuple(sorted(found, key=lambda one: one.asked, reverse=True))


def waiting(settings: PartySettings) -> tuple[WaitingPlan, ...]:
    """The plans that wait for a decision, the newest question first."""
    return tuple(one for one in kept_plans(settings) if one.stand is Stand.WAITING)


def one_plan(folder: WaitingPlans, state: LedgerState, digest: str) -> WaitingPlan:
    """One kept plan. Raises NotFound, ConfigError for a damaged folder, PlanError for a plan that
    this version cannot read."""
    source, request = folder.read(digest)
    plan = parse_plan(source)
    decision = state.decision_on(digest)
    stand, cause = _stand(state, digest, request, decision)
    return WaitingPlan(
        digest=digest,
        plan=plan.name,
        purpose=plan.purpose,
        requester=request.requester,
        requester_name=request.requester_name,
        run=request.run,
        first_asked=request.first_asked,
        asked=request.asked,
        times=request.times,
        stand=stand,
        cause=cause,
        decision=decision,
        runs_left=_runs_left(state, decision) if stand is Stand.APPROVED else 0,
    )


def missing_approval(state: LedgerState, digest: str, requester: str) -> Cause | None:
    """Why the ledger holds no approval that admits one more run of this plan, or None: it does.

    Does not look at the signature or the source: see `PlanDecision.check_signature`, and compare
    its `schema_digest`.
    """
    decision = state.decision_on(digest)
    if decision is None:
        return Cause.NEW
    if not decision.approved:
        return Cause.REFUSED
    if decision.requester != requester:
        return Cause.REQUESTER
    if any(gap.time >= decision.decided_at for gap in state.gaps):
        return Cause.LOST
    if decision.valid_until is None or state.now >= decision.valid_until:
        return Cause.EXPIRED
    return None if _runs_left(state, decision) > 0 else Cause.USED


def keep_waiting(
    folder: WaitingPlans,
    state: LedgerState,
    source: bytes,
    *,
    requester: str,
    requester_name: str,
    run: str,
    cause: Cause,
) -> bool:
    """Keep a plan that was refused for `cause` where a person finds it; False if there is no room.

    At most MAX_WAITING plans wait: those about which the ledger holds no decision.
    """
    undecided = sum(state.decision_on(one) is None for one in folder.digests())
    return folder.keep(
        source,
        requester=requester,
        requester_name=requester_name,
        run=run,
        cause=cause,
        room=undecided < MAX_WAITING,
    )


def decide(
    settings: PartySettings,
    digest: str,
    *,
    approve: bool,
    person: str,
    reason: str,
    seen: str | None = None,
) -> Decided:
    """Approve or refuse a kept plan, signed into the ledger by this party's key.

    An approval admits `approval_runs` runs within `approval_days` days, both of policy.toml, and
    opens the source to note its form. A run under way is not stopped by a refusal. `seen`: that of
    the `WaitingPlan` that the person looked at; None: whatever stands now.

    Raises NotFound (no such plan was asked for), DecidedMeanwhile, ConfigError (no person, no
    reason, a damaged plan), DataError or ConfigError (approving, with a source that cannot be
    used), LedgerError. Nothing is changed then.
    """
    _require_text("person", person)
    _require_text("reason", reason)
    folder = WaitingPlans(settings.waiting_plans)
    source, request = folder.read(digest)
    plan = parse_plan(source)
    policy = load_policy(settings.policy)
    ledger = _ledger(settings)
    schema = _schema_digest(settings) if approve else ""
    key = SigningKey.load(settings.identity_key)
    state = ledger.state()
    check_signatures(key.public, state.decisions)
    newest = state.decision_on(digest)
    if seen is not None and seen != _seen(newest, request.requester):
        raise DecidedMeanwhile(
            "somebody else has decided about this plan since you looked at it, or another "
            "requester asks for it now; nothing was changed: look at it again, then decide"
        )
    stands = newest is not None and missing_approval(state, digest, request.requester) is None
    if newest is not None and approve and stands and newest.schema_digest == schema:
        return Decided(Outcome.APPROVED_ALREADY, newest)
    if newest is not None and not approve and not newest.approved:
        return Decided(Outcome.REFUSED_ALREADY, newest)
    terms = DecisionTerms(
        approved=approve,
        plan_digest=digest,
        plan=plan.name,
        requester=request.requester,
        person=person.strip(),
        reason=reason.strip(),
        schema_digest=schema,
        runs=policy.approval_runs if approve else 0,
        valid_until=state.now + timedelta(days=policy.approval_days) if approve else None,
    )
    decision = ledger.decide(key, terms, seen=newest)
    if approve:
        return Decided(Outcome.APPROVED, decision)
    return Decided(Outcome.WITHDRAWN if stands else Outcome.REFUSED, decision)


def last_approved(
    state: LedgerState, folder: WaitingPlans, digest: str, name: str
) -> PlanDecision | None:
    """The newest approval of another plan of this name, or else of any other, whose text is still
    kept. None: there is none."""
    others = [
        one
        for one in reversed(state.decisions)
        if one.approved and one.plan_digest != digest and folder.known(one.plan_digest)
    ]
    return _first([one for one in others if one.plan == name]) or _first(others)


def _first(decisions: Sequence[PlanDecision]) -> PlanDecision | None:
    return decisions[0] if decisions else None


def _stand(
    state: LedgerState, digest: str, request: Request, decision: PlanDecision | None
) -> tuple[Stand, Cause | None]:
    cause = missing_approval(state, digest, request.requester)
    if decision is None or cause is Cause.NEW:
        return Stand.WAITING, Cause.NEW
    if cause is Cause.REFUSED:
        return Stand.REFUSED, cause
    if request.asked > decision.decided_at:
        # Refused since the decision: the ledger says why, or the source's form was it.
        return Stand.WAITING, cause or Cause.SOURCE
    if cause is None:
        return Stand.APPROVED, None
    return (Stand.EXPIRED if cause is Cause.EXPIRED else Stand.USED), cause


def _runs_left(state: LedgerState, decision: PlanDecision | None) -> int:
    return 0 if decision is None else max(0, decision.runs - state.runs_after(decision))


def _require_text(name: str, text: str) -> None:
    if not (0 < len(text.strip()) <= MAX_TEXT and text.strip().isprintable()):
        raise ConfigError(f"{name}: one line of 1 to {MAX_TEXT} characters is needed")


def _schema_digest(settings: PartySettings) -> str:
    with open_source(settings.source, settings.home) as source:
        return source.schema_digest()


def _seen(decision: PlanDecision | None, requester: str) -> str:
    return f"{0 if decision is None else decision.position}:{requester}"


def checked_state(settings: PartySettings) -> LedgerState:
    """What the ledger says, every decision in it signed by this party. Raises LedgerError."""
    state = _ledger(settings).state()
    check_signatures(SigningKey.load(settings.identity_key).public, state.decisions)
    return state


def _ledger(settings: PartySettings) -> Ledger:
    return Ledger(settings.ledger)
