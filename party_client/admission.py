"""Preflight at the party: may this plan run here, and is there budget for it?

The order: the requester's signature, a run id that was never used, the policy, a person's approval
where the policy wants one, the budget (the spend is reserved), and only then the data: whether the
source has the form that was approved, and the rows. A party that comes back to a run after a
restart is checked in the same way, against what it had reserved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np

from models.catalogue import input_width
from models.plan import Plan, parse_plan, plan_digest
from models.tags import check_tags
from models.training import Rows, Terms, held_out, party_terms
from party_client import policy as rules
from party_client.approvals import Cause, keep_waiting, missing_approval
from party_client.node import Node
from party_client.quality_policy import require_quality
from party_client.run_rows import dataset_digest, split_in_place
from party_client.sources import Examples
from privacy.errors import BudgetExceeded, ConfigError, DataError, PolicyRefusal, ProtocolError
from privacy.identity import fingerprint, verify_plan
from privacy.ledger_decisions import PlanDecision, check_signatures
from privacy.ledger_state import LedgerState, RunState
from privacy.messages import Preflight, Regroup

# Public reason codes of a refusal besides those of `party_client.policy`.
BUDGET = "budget"
MEMBERS = "members"
PLAN_INVALID = "plan"

# A reservation expires once its run has lain still for so many of the plan's timeouts, and for at
# least so long, plus the longest pause that the plan allows. Between two entries of a run lie at
# most five exchanges (a regrouping, two for the keys, a sum that a party missed, the sum again),
# and the coordinator waits one timeout for each.
VALID_TIMEOUTS = 6
VALID_AT_LEAST = timedelta(minutes=10)


@dataclass(frozen=True)
class Admission:
    """An accepted plan at this party, its terms, and the rows it may use.

    `examples` holds no features or labels any more: they are in `training` and `held_out`, once.
    The digests name those rows in the ledger (`dataset_digest`).
    """

    plan: Plan
    digest: str
    terms: Terms
    examples: Examples
    training: Rows
    held_out: Rows
    training_digest: str
    held_out_digest: str


def admit(node: Node, run: str, request: Preflight, end_earlier: Callable[[], None]) -> Admission:
    """Check the signature, the cohort and the policy, reserve, then open the data.

    `end_earlier` is called when only budget and data can still refuse: it ends an unfinished run
    and gives back what that had reserved and not used. Raises ProtocolError or SignatureError for
    a plan that is not freshly signed by a pinned requester; PolicyRefusal with a public reason
    code, or PlanError, otherwise; no reservation is left behind then.
    """
    _check_signature(node, run, request)
    if node.ledger.has_run(run):
        raise ProtocolError("this run id has been used before; a run is never replayed")
    plan, terms = _checked(node, request)
    _approved(node, run, request, node.ledger.state())
    end_earlier()
    approval = _reserve(node, run, plan, request, terms)
    try:
        _check_source(node, run, request, approval)
        return _open_data(node, plan, plan_digest(request.plan), terms)
    except (ConfigError, DataError) as error:
        node.ledger.refund(run)
        raise PolicyRefusal(rules.DATA, str(error)) from error
    except BaseException:
        node.ledger.refund(run)
        raise


def readmit(node: Node, run: str, request: Regroup) -> Admission:
    """Check what `admit` checks for a run that this party had accepted before it restarted, and
    open the data again. Nothing is reserved: what it had reserved stands as it did.

    Raises ProtocolError or SignatureError unless the ledger holds this run of this very plan, open;
    PolicyRefusal with a public reason code, or PlanError, otherwise. Where the data are what
    refuses, the run is over here: nobody may ask them again.
    """
    _check_signature(node, run, request)
    state = node.ledger.state()
    reserved = state.runs.get(run)
    if reserved is None or reserved.doubtful or not reserved.open(state.now):
        raise ProtocolError("the ledger holds no open reservation of this run")
    if reserved.plan_digest != plan_digest(request.plan):
        raise ProtocolError("the run was reserved for another plan")
    plan, terms = _checked(node, request)
    if reserved.mechanisms[: len(terms.mechanisms)] != terms.mechanisms:
        raise PolicyRefusal(
            BUDGET, "the run was reserved for other terms; was public_size changed since then?"
        )
    approval = _still_approved(node, run, request, state, reserved)
    try:
        _check_source(node, run, request, approval)
        return _open_data(node, plan, plan_digest(request.plan), terms)
    except (ConfigError, DataError, PolicyRefusal) as error:
        if reserved.touched:
            node.ledger.close(run, outcome="failed")
        else:
            node.ledger.refund(run)
        if isinstance(error, PolicyRefusal):
            raise
        raise PolicyRefusal(rules.DATA, str(error)) from error


def check_proposal(node: Node, run: str, plan: Plan, request: Regroup) -> None:
    """Raise SignatureError or PolicyRefusal unless the same requester's plan may go on with this
    cohort; what `admit` has judged once is not judged again."""
    _check_signature(node, run, request)
    _check_members(node, request.cohort)
    rules.check_cohort(node.policy, plan, request.cohort, node.party)


def _checked(node: Node, request: Preflight) -> tuple[Plan, Terms]:
    """The plan and what it means here, if it fits itself, the members and the policy."""
    plan = parse_plan(request.plan)
    for refusal in rules.forbidden_refusals(plan, node.mapping):
        raise refusal
    check_tags(plan)
    _check_members(node, request.cohort)
    rules.check(
        node.policy,
        plan,
        coordinator_fingerprint=fingerprint(node.coordinator_public),
        requester_fingerprint=fingerprint(request.requester),
        cohort=request.cohort,
        party=node.party,
        public_size=node.public_size,
    )
    return plan, party_terms(plan, node.public_size)


def _check_signature(node: Node, run: str, request: Preflight) -> None:
    """Raise unless a requester pinned at join signed this plan for this run."""
    pinned = {bytes.fromhex(one.public_key) for one in node.federation.requesters}
    if request.requester not in pinned:
        raise PolicyRefusal(rules.REQUESTER, "the plan's requester is not one pinned at join")
    verify_plan(request.requester, request.requester_signature, run, request.plan)


def _check_members(node: Node, cohort: Mapping[str, bytes]) -> None:
    confirmed = node.federation.confirmed
    if cohort.get(node.party) != node.key.public:
        raise ProtocolError("the cohort does not hold this party under its own key")
    if any(confirmed.get(name) != public for name, public in cohort.items() if name != node.party):
        raise PolicyRefusal(
            MEMBERS,
            "the cohort has a member whose key this party has not confirmed; "
            "run: fedtags-party join",
        )


def _approved(node: Node, run: str, request: Preflight, state: LedgerState) -> PlanDecision | None:
    """The approval that admits this run; None where the policy asks no person.

    Raises PolicyRefusal, and keeps the plan for a person, if none does; LedgerError if the newest
    decision about the plan is forged. A refusal by a person holds under any policy.
    """
    digest = plan_digest(request.plan)
    decision = state.decision_on(digest)
    if decision is not None:
        decision.check_signature(node.key.public)
    cause = missing_approval(state, digest, fingerprint(request.requester))
    if node.policy.approval != "person" and cause is not Cause.REFUSED:
        return None
    if cause is not None:
        raise _waits(node, run, request, state, cause)
    return decision


def _still_approved(
    node: Node, run: str, request: Preflight, state: LedgerState, reserved: RunState
) -> PlanDecision | None:
    """The approval that admitted a run which comes back: the newest before its reservation, and
    not taken back since. That this very run used it up, or that it has expired, does not matter."""
    about = [one for one in state.decisions if one.plan_digest == reserved.plan_digest]
    check_signatures(node.key.public, about)
    if about and not about[-1].approved:
        raise _waits(node, run, request, state, Cause.REFUSED)
    if node.policy.approval != "person":
        return None
    before = [one for one in about if one.position < reserved.position]
    if not before or not before[-1].approved:
        raise _waits(node, run, request, state, Cause.NEW)
    if before[-1].requester != fingerprint(request.requester):
        raise _waits(node, run, request, state, Cause.REQUESTER)
    return before[-1]


def _check_source(node: Node, run: str, request: Preflight, approval: PlanDecision | None) -> None:
    """Raise PolicyRefusal if the source has another form than the one that was approved."""
    if approval is not None and node.source.schema_digest() != approval.schema_digest:
        raise _waits(node, run, request, node.ledger.state(), Cause.SOURCE)


def _waits(
    node: Node, run: str, request: Preflight, state: LedgerState, cause: Cause
) -> PolicyRefusal:
    """The refusal of a plan for want of an approval; the plan is kept for a person."""
    requester = fingerprint(request.requester)
    named = {one.public_key: one.name for one in node.federation.requesters}
    kept = keep_waiting(
        node.plans,
        state,
        request.plan,
        requester=requester,
        requester_name=named[request.requester.hex()],
        run=run,
        cause=cause,
    )
    shown = "fedtags-party plan list shows it" if kept else "it could not be kept"
    return PolicyRefusal(rules.APPROVAL, f"a person has to approve the plan ({cause}); {shown}")


def _reserve(
    node: Node, run: str, plan: Plan, request: Preflight, terms: Terms
) -> PlanDecision | None:
    """Reserve the spend. Returns what `_approved` does, asked under the ledger's lock, so that no
    two runs can use one approval's last place."""
    since = datetime.now(UTC) - timedelta(days=1)
    if node.ledger.refunds_since(since) >= node.policy.max_refunds_per_day:
        raise PolicyRefusal(
            BUDGET,
            "policy.toml: max_refunds_per_day is reached: so many runs opened the data and gave "
            "their reservation back within 24 hours",
        )
    found: list[PlanDecision | None] = []
    try:
        node.ledger.reserve(
            run,
            plan_digest=plan_digest(request.plan),
            plan=plan.name,
            purpose=plan.purpose,
            mechanisms=terms.mechanisms,
            valid_for=validity(plan),
            limits=node.policy.budget.limits,
            permit=lambda state: found.append(_approved(node, run, request, state)),
        )
    except BudgetExceeded as error:
        raise PolicyRefusal(BUDGET, str(error)) from error
    return found[0]


def validity(plan: Plan) -> timedelta:
    """How long a reservation for this plan stands without a new entry of its run."""
    waited = timedelta(seconds=VALID_TIMEOUTS * plan.cohort.timeout_seconds)
    return max(VALID_AT_LEAST, waited) + timedelta(minutes=plan.cohort.pause_minutes)


def _open_data(node: Node, plan: Plan, digest: str, terms: Terms) -> Admission:
    require_quality(node.source, node.policy.quality)
    examples = node.source.training_examples(plan, node.party)
    if examples.labels is None:
        raise DataError("training rows need labels; check the plan's task and the source")
    if examples.features.shape[1] != input_width(plan):
        raise DataError("the source's columns do not have the width that the plan's features have")
    if len(examples.customer_ids) < node.policy.minimum_customers:
        raise DataError("fewer eligible customers than this party's policy demands")
    aside = held_out(examples.customer_ids, node.local_key, plan.evaluation.held_out)
    training, tested = split_in_place(Rows(examples.features, examples.labels), aside)
    for part in (training, tested):
        if len(set(part.labels.tolist())) < 2:
            raise DataError(
                "the label has one class only, in training or held-out rows; check the cut-off, "
                "the horizon and the source's dates"
            )
    ids = np.array(examples.customer_ids, dtype=object)
    return Admission(
        plan=plan,
        digest=digest,
        terms=terms,
        examples=replace(examples, features=np.empty((0, 0), dtype=np.float32), labels=None),
        training=training,
        held_out=tested,
        training_digest=dataset_digest(node.local_key, ids[~aside], training),
        held_out_digest=dataset_digest(node.local_key, ids[aside], tested),
    )
