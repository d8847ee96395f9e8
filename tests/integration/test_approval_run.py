"""A run at a party where a person decides: refused, approved, run, and refused again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from coordinator.views import outcome_lines
from models.plan import plan_digest
from party_client.approvals import Cause, Outcome, Stand, decide, kept_plans, waiting
from party_client.settings import load_settings
from privacy.conversation import Conversation
from privacy.errors import CohortError, LedgerError
from privacy.framing import read
from privacy.identity import SigningKey, fingerprint, sign_plan
from privacy.ledger import Ledger
from privacy.ledger_decisions import DecisionTerms
from privacy.messages import REFUSAL, Decision, Preflight, Regroup, manifest_hash

from .conftest import HASTY, PLAN, LocalRun, changed

WAITS = r"bank \(approval\)\. approval: the plan waits for a person at bank; submit it again"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def ask_a_person(local: LocalRun, party: str = "bank") -> None:
    """The party's policy from now on: a person approves each run."""
    edit(local.federation.homes[party] / "policy.toml", '"automatic"\n#', '"person"\n#')


def settled(local: LocalRun, *, approve: bool, plan: bytes = PLAN) -> Outcome:
    settings = load_settings(local.federation.homes["bank"])
    person, reason = "Ana", "as agreed"
    return decide(
        settings, plan_digest(plan), approve=approve, person=person, reason=reason
    ).outcome


def ledger(local: LocalRun) -> Ledger:
    return Ledger(local.federation.homes["bank"] / "ledger.jsonl")


def reserved(local: LocalRun) -> list[str]:
    return [one.body["run"] for one in ledger(local).entries() if one.kind == "reserve"]


def proposed(
    local: LocalRun, run_id: str, plan: bytes = PLAN, key: SigningKey | None = None
) -> str:
    """The bank's reason code for a preflight of this run; empty if it accepts."""
    members = dict(local.federation.members)
    requester = key or local.federation.requester
    talk = Conversation(
        "coordinator",
        local.federation.coordinator,
        "bank",
        local.federation.members["bank"],
        run_id,
        hashlib.sha256(plan).digest(),
        manifest_hash(members),
    )
    body = Preflight(
        plan=plan,
        requester=requester.public,
        requester_signature=sign_plan(requester, run_id, plan),
        cohort=members,
    )
    reply = local.service("bank").answer(talk.say(body, 0, begins=True))
    if reply == REFUSAL:
        return "constant refusal"
    return talk.hear(
        read(reply, local.federation.members["bank"], Decision), Decision, 0, begins=False
    ).reason


def test_a_run_waits_for_a_person_runs_once_approved_and_then_waits_again(
    local: LocalRun,
) -> None:
    ask_a_person(local)
    with pytest.raises(CohortError, match=WAITS) as caught:
        local.run(HASTY, run_id="run-1")
    assert "lower cohort.minimum" not in str(caught.value)
    settings = load_settings(local.federation.homes["bank"])
    (plan,) = waiting(settings)
    assert (plan.digest, plan.run, plan.requester_name) == (plan_digest(HASTY), "run-1", "science")
    assert plan.requester == fingerprint(local.federation.requester.public)
    assert reserved(local) == []

    assert settled(local, approve=True, plan=HASTY) is Outcome.APPROVED
    outcome = local.run(HASTY, run_id="run-2")
    assert "bank" in outcome.parties
    assert reserved(local) == ["run-2"]
    assert ledger(local).state().runs["run-2"].state == "finished"

    with pytest.raises(CohortError, match=WAITS):
        local.run(HASTY, run_id="run-3")
    (plan,) = waiting(settings)
    assert (plan.cause, plan.run, plan.times) == (Cause.USED, "run-3", 2)
    assert reserved(local) == ["run-2"]
    ledger(local).verify(public=local.federation.members["bank"])


def test_a_requester_reads_whom_a_run_that_went_on_without_waits_for() -> None:
    assert outcome_lines({"refused": {"shop": "budget", "bank": "approval"}}) == [
        "refused: bank (approval), shop (budget)",
        "approval: the plan waits for a person at bank; submit it again once it is approved there",
    ]
    assert outcome_lines({"refused": {"shop": "budget"}}) == ["refused: shop (budget)"]
    assert outcome_lines({"refused": {}}) == []


def test_a_plan_that_waits_is_refused_before_data_are_opened(local: LocalRun) -> None:
    ask_a_person(local)
    edit(
        local.federation.homes["bank"] / "party.toml",
        'path = "events.parquet"',
        'path = "nothing.parquet"',
    )
    assert proposed(local, "run-1") == "approval"
    assert ledger(local).entries()[-1].kind == "open"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("epsilon = 1.0\nevaluation", "epsilon = 1.5\nevaluation", "epsilon"),
        ('purpose = "marketing"', 'purpose = "resale"', "purpose"),
        ('["churn_risk"]', '["religion"]', "forbidden"),
    ],
)
def test_what_the_policy_refuses_never_waits_and_opens_no_data(
    local: LocalRun, old: str, new: str, code: str
) -> None:
    ask_a_person(local)
    home = local.federation.homes["bank"]
    edit(home / "party.toml", 'path = "events.parquet"', 'path = "nothing.parquet"')
    assert proposed(local, "run-1", changed(PLAN, old, new)) == code
    assert not (home / "plans").exists()
    assert ledger(local).entries()[-1].kind == "open"


def test_a_coordinator_that_the_policy_does_not_list_is_refused(local: LocalRun) -> None:
    listed = fingerprint(local.federation.coordinator.public)
    edit(local.federation.homes["bank"] / "policy.toml", listed, "0000-0000-0000-0000-0000")
    assert proposed(local, "run-1") == "coordinator"


def test_a_mapping_of_the_party_to_a_forbidden_attribute_refuses_every_plan(
    local: LocalRun,
) -> None:
    home = local.federation.homes["bank"]
    edit(home / "party.toml", 'channel = "device"', 'channel = "宗教信仰"')
    assert proposed(local, "run-1") == "forbidden"


def test_a_plan_that_waits_does_not_end_the_active_run(local: LocalRun) -> None:
    ask_a_person(local)
    proposed(local, "run-1")
    settled(local, approve=True)
    assert proposed(local, "run-2") == ""
    other = changed(PLAN, "rounds = 2", "rounds = 3")
    assert proposed(local, "run-3", other) == "approval"
    session = local.services["bank"]._session
    assert session is not None
    assert session.run == "run-2"


def test_an_approval_is_not_used_up_by_a_run_that_gave_its_reservation_back(
    local: LocalRun,
) -> None:
    ask_a_person(local)
    proposed(local, "run-1")
    settled(local, approve=True)
    assert proposed(local, "run-2") == ""
    assert proposed(local, "run-3") == "approval"  # run-2 holds the one place
    local.services["bank"]._end()
    assert proposed(local, "run-4") == ""


def test_a_refused_plan_is_refused_whatever_the_policy_becomes(local: LocalRun) -> None:
    ask_a_person(local)
    proposed(local, "run-1")
    assert settled(local, approve=False) is Outcome.REFUSED
    assert proposed(local, "run-2") == "approval"
    edit(local.federation.homes["bank"] / "policy.toml", '"person"\n#', '"automatic"\n#')
    local.restart("bank")
    assert proposed(local, "run-3") == "approval"
    assert settled(local, approve=True) is Outcome.APPROVED
    assert proposed(local, "run-4") == ""


def test_a_forged_approval_admits_nothing(local: LocalRun) -> None:
    ask_a_person(local)
    assert proposed(local, "run-1") == "approval"
    state = ledger(local).state()
    terms = DecisionTerms(
        approved=True,
        plan_digest=plan_digest(PLAN),
        plan="churn-test",
        requester=fingerprint(local.federation.requester.public),
        person="Ana",
        reason="as agreed",
        schema_digest=local.service("bank").node.source.schema_digest(),
        runs=5,
        valid_until=state.now.replace(year=state.now.year + 1, day=1),
    )
    ledger(local).decide(SigningKey.generate(), terms, seen=None)
    assert proposed(local, "run-2") == "constant refusal"
    assert reserved(local) == []
    with pytest.raises(LedgerError, match="forged"):
        ledger(local).verify(public=local.federation.members["bank"])


def test_an_approval_is_for_the_requester_who_asked(local: LocalRun) -> None:
    ask_a_person(local)
    other = SigningKey.generate()
    home = local.federation.homes["bank"]
    pinned = json.loads((home / "federation.json").read_text())
    pinned["requesters"].append({"name": "other", "public_key": other.public.hex()})
    (home / "federation.json").write_text(json.dumps(pinned))
    first = fingerprint(local.federation.requester.public)
    edit(home / "policy.toml", f'["{first}"]', f'["{first}", "{fingerprint(other.public)}"]')
    proposed(local, "run-1")
    settled(local, approve=True)
    assert proposed(local, "run-2", key=other) == "approval"
    (plan,) = kept_plans(load_settings(home))
    assert (plan.stand, plan.cause, plan.requester_name) == (
        Stand.WAITING, Cause.REQUESTER, "other",
    )  # fmt: skip
    assert proposed(local, "run-3") == ""


def test_an_approval_ends_when_the_sources_columns_change(local: LocalRun) -> None:
    ask_a_person(local)
    home = local.federation.homes["bank"]
    proposed(local, "run-1")
    settled(local, approve=True)
    edit(home / "party.toml", 'channel = "', '#channel = "')
    local.restart("bank")
    assert proposed(local, "run-2") == "approval"
    (plan,) = waiting(load_settings(home))
    assert plan.cause is Cause.SOURCE
    assert ledger(local).state().runs["run-2"].state == "refunded"
    assert settled(local, approve=True) is Outcome.APPROVED
    assert proposed(local, "run-3") == ""


def test_bad_data_refuse_with_the_one_code_by_the_partys_own_minimum(local: LocalRun) -> None:
    home = local.federation.homes["bank"]
    edit(home / "policy.toml", "minimum_usable_share = 0.0", "minimum_usable_share = 1.0")
    assert proposed(local, "run-1") == "data"
    assert ledger(local).state().runs["run-1"].state == "refunded"


def regrouped(local: LocalRun, run_id: str) -> str:
    """The bank's reason code for coming back to a run after its service restarted."""
    members = dict(local.federation.members)
    talk = Conversation(
        "coordinator",
        local.federation.coordinator,
        "bank",
        local.federation.members["bank"],
        run_id,
        hashlib.sha256(PLAN).digest(),
        manifest_hash(members),
        epoch=2,
    )
    body = Regroup(
        plan=PLAN,
        requester=local.federation.requester.public,
        requester_signature=sign_plan(local.federation.requester, run_id, PLAN),
        cohort=members,
        replies={},
        total=b"",
    )
    reply = local.service("bank").answer(talk.say(body, 0, begins=True))
    return talk.hear(
        read(reply, local.federation.members["bank"], Decision), Decision, 0, begins=False
    ).reason


def test_an_approved_run_comes_back_after_a_restart_unless_it_was_refused_meanwhile(
    local: LocalRun,
) -> None:
    ask_a_person(local)
    proposed(local, "run-1")
    settled(local, approve=True)
    assert proposed(local, "run-2") == ""
    local.restart("bank")
    assert regrouped(local, "run-2") == ""  # though the approval's one run is used up by itself
    local.restart("bank")
    assert proposed(local, "run-3") == "approval"
    assert settled(local, approve=True) is Outcome.APPROVED  # of another run, not of this one
    assert regrouped(local, "run-2") == ""
    assert settled(local, approve=False) is Outcome.WITHDRAWN
    local.restart("bank")
    assert regrouped(local, "run-2") == "approval"
