"""Approvals: what admits a run, which plans wait, and every outcome of a decision, by name."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.plan import plan_digest
from party_client import approvals, cli, plan_views, waiting_plans
from party_client.approvals import Cause, Outcome, Stand, WaitingPlan, decide, kept_plans
from party_client.plan_review import leaving, plan_review
from party_client.policy import load_policy
from party_client.settings import PartySettings, load_settings
from party_client.setup import initialise
from party_client.waiting_plans import WaitingPlans
from privacy.errors import ConfigError, DataError, DecidedMeanwhile, LedgerError, NotFound
from privacy.identity import SigningKey
from privacy.ledger import Ledger
from privacy.ledger_decisions import DecisionTerms
from privacy.ledger_state import Gap
from privacy.mechanism import Gaussian, Unrecorded
from privacy.messages import PARTY_MESSAGES

REQUESTER = "ab12-cd34-ef56-7890-abcd"
OTHER_REQUESTER = "0012-cd34-ef56-7890-abcd"
SOURCE = (
    b'format = 1\nname = "churn-180"\npurpose = "retention"\n'
    b'[task]\nkind = "churn"\ncutoff = 2024-01-01\n[privacy]\nepsilon = 1.0\n'
)
DIGEST = plan_digest(SOURCE)
OTHER = SOURCE.replace(b"epsilon = 1.0", b"epsilon = 1.5")
RELEASE = Gaussian(noise_multiplier=50.0)


@pytest.fixture
def settings(tmp_path: Path) -> PartySettings:
    """A party whose policy asks a person, with a source of two customers."""
    made = initialise(tmp_path / "bank", "bank", 6000)
    change(made.policy, 'approval = "automatic"', 'approval = "person"')
    change(made.home / "party.toml", 'path = "events.parquet"', 'path = "events.csv"')
    (made.home / "events.csv").write_text(
        "customer,time,amount\na,2023-05-01,10\nb,2023-06-01,20\n"
    )
    return load_settings(made.home)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def ask(
    settings: PartySettings,
    source: bytes = SOURCE,
    *,
    run: str = "run-1",
    requester: str = REQUESTER,
    cause: Cause = Cause.NEW,
) -> bool:
    """What admission does with a plan that has no approval."""
    return approvals.keep_waiting(
        WaitingPlans(settings.waiting_plans),
        Ledger(settings.ledger).state(),
        source,
        requester=requester,
        requester_name="science",
        run=run,
        cause=cause,
    )


def reserve(settings: PartySettings, run: str, digest: str = DIGEST) -> None:
    Ledger(settings.ledger).reserve(
        run,
        plan_digest=digest,
        plan="churn-180",
        purpose="retention",
        mechanisms=[RELEASE],
        valid_for=timedelta(hours=1),
    )


def approve(settings: PartySettings, digest: str = DIGEST) -> approvals.Decided:
    return decide(settings, digest, approve=True, person="Ana", reason="as agreed")


def refuse(settings: PartySettings, digest: str = DIGEST) -> approvals.Decided:
    return decide(settings, digest, approve=False, person="Bo", reason="not agreed")


def missing(settings: PartySettings, requester: str = REQUESTER) -> Cause | None:
    return approvals.missing_approval(Ledger(settings.ledger).state(), DIGEST, requester)


def only(settings: PartySettings) -> WaitingPlan:
    (found,) = kept_plans(settings)
    return found


# What admits ------------------------------------------------------------


def test_a_plan_waits_until_somebody_approves_it(settings: PartySettings) -> None:
    assert missing(settings) is Cause.NEW
    ask(settings)
    assert only(settings).stand is Stand.WAITING
    assert [one.digest for one in approvals.waiting(settings)] == [DIGEST]
    made = approve(settings)
    assert made.outcome is Outcome.APPROVED
    made.decision.check_signature(SigningKey.load(settings.identity_key).public)
    assert missing(settings) is None
    assert only(settings).stand is Stand.APPROVED
    assert approvals.waiting(settings) == ()


def test_an_approval_admits_as_many_runs_as_the_policy_says(settings: PartySettings) -> None:
    change(settings.policy, "approval_runs = 1", "approval_runs = 2")
    ask(settings)
    approve(settings)
    reserve(settings, "run-2")
    assert (missing(settings), only(settings).runs_left) == (None, 1)
    reserve(settings, "run-3")
    assert missing(settings) is Cause.USED
    assert only(settings).stand is Stand.USED
    Ledger(settings.ledger).refund("run-3")
    assert missing(settings) is None


def test_a_plan_that_was_used_up_waits_again_once_it_is_sent_again(
    settings: PartySettings,
) -> None:
    ask(settings)
    approve(settings)
    reserve(settings, "run-2")
    ask(settings, run="run-3", cause=Cause.USED)
    plan = only(settings)
    assert (plan.stand, plan.cause, plan.run, plan.times) == (
        Stand.WAITING, Cause.USED, "run-3", 2,
    )  # fmt: skip
    assert approve(settings).outcome is Outcome.APPROVED
    assert missing(settings) is None


def test_an_approval_ends_on_its_day(settings: PartySettings) -> None:
    ask(settings)
    until = approve(settings).decision.valid_until
    assert until is not None
    assert timedelta(days=29) < until - datetime.now(UTC) < timedelta(days=31)
    state = Ledger(settings.ledger).state()
    state.now = until - timedelta(seconds=1)
    assert approvals.missing_approval(state, DIGEST, REQUESTER) is None
    state.now = until
    assert approvals.missing_approval(state, DIGEST, REQUESTER) is Cause.EXPIRED


def test_an_approval_is_for_one_plan_and_one_requester(settings: PartySettings) -> None:
    ask(settings)
    approve(settings)
    assert missing(settings, "ffff-cd34-ef56-7890-abcd") is Cause.REQUESTER
    state = Ledger(settings.ledger).state()
    assert approvals.missing_approval(state, plan_digest(OTHER), REQUESTER) is Cause.NEW


def test_an_approval_ends_where_the_ledger_lost_entries_after_it(settings: PartySettings) -> None:
    ask(settings)
    approve(settings)
    state = Ledger(settings.ledger).state()
    state.gaps.append(Gap(9, "0" * 64, state.now, Unrecorded((0.0,) * 8)))
    assert approvals.missing_approval(state, DIGEST, REQUESTER) is Cause.LOST


# Decisions, each with its named outcome -----------------------------------------------------------


def test_a_refused_plan_stays_refused_until_somebody_approves_it(settings: PartySettings) -> None:
    ask(settings)
    assert refuse(settings).outcome is Outcome.REFUSED
    assert missing(settings) is Cause.REFUSED
    ask(settings, run="run-2", cause=Cause.REFUSED)
    assert only(settings).stand is Stand.REFUSED
    assert approvals.waiting(settings) == ()
    assert approve(settings).outcome is Outcome.APPROVED
    assert missing(settings) is None


def test_approving_twice_adds_no_run(settings: PartySettings) -> None:
    ask(settings)
    first = approve(settings)
    before = settings.ledger.read_bytes()
    second = approve(settings)
    assert second.outcome is Outcome.APPROVED_ALREADY
    assert second.decision == first.decision
    assert settings.ledger.read_bytes() == before


def test_refusing_twice_changes_nothing(settings: PartySettings) -> None:
    ask(settings)
    refuse(settings)
    before = settings.ledger.read_bytes()
    assert refuse(settings).outcome is Outcome.REFUSED_ALREADY
    assert settings.ledger.read_bytes() == before


def test_refusing_after_approving_takes_the_approval_back(settings: PartySettings) -> None:
    ask(settings)
    approve(settings)
    assert refuse(settings).outcome is Outcome.WITHDRAWN
    assert missing(settings) is Cause.REFUSED


def test_a_plan_that_nobody_asked_for_cannot_be_decided(settings: PartySettings) -> None:
    for choose in (approve, refuse):
        with pytest.raises(NotFound):
            choose(settings)
    assert len(Ledger(settings.ledger).entries()) == 1


def test_who_looked_before_another_decided_is_told_and_changes_nothing(
    settings: PartySettings,
) -> None:
    ask(settings)
    looked = only(settings).seen
    refuse(settings)
    before = settings.ledger.read_bytes()
    with pytest.raises(DecidedMeanwhile):
        decide(settings, DIGEST, approve=True, person="Ana", reason="ok", seen=looked)
    assert settings.ledger.read_bytes() == before
    again = only(settings).seen
    made = decide(settings, DIGEST, approve=True, person="Ana", reason="ok", seen=again)
    assert made.outcome is Outcome.APPROVED


def test_who_looked_before_another_requester_asked_is_told_and_changes_nothing(
    settings: PartySettings,
) -> None:
    ask(settings)
    looked = only(settings).seen
    ask(settings, requester=OTHER_REQUESTER)
    with pytest.raises(DecidedMeanwhile):
        decide(settings, DIGEST, approve=True, person="Ana", reason="ok", seen=looked)
    assert not Ledger(settings.ledger).state().decisions


def test_a_forged_decision_is_shown_to_nobody(settings: PartySettings) -> None:
    ask(settings)
    terms = DecisionTerms(
        approved=True,
        plan_digest=DIGEST,
        plan="churn-180",
        requester=REQUESTER,
        person="Eve",
        reason="mine",
        schema_digest="0" * 64,
        runs=1,
        valid_until=datetime.now(UTC) + timedelta(days=1),
    )
    Ledger(settings.ledger).decide(SigningKey.generate(), terms, seen=None)
    for look in (kept_plans, lambda one: plan_review(one, DIGEST), refuse):
        with pytest.raises(LedgerError, match="not signed"):
            look(settings)


def test_of_two_people_at_once_one_decides(settings: PartySettings) -> None:
    ask(settings)
    seen, outcomes = only(settings).seen, []
    gate = threading.Barrier(2)

    def choose(approved: bool, person: str) -> None:
        gate.wait()
        try:
            made = decide(
                settings, DIGEST, approve=approved, person=person, reason="mine", seen=seen
            )
            outcomes.append(str(made.outcome))
        except DecidedMeanwhile:
            outcomes.append("decided meanwhile")

    people = [threading.Thread(target=choose, args=one) for one in ((True, "A"), (False, "B"))]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert len(Ledger(settings.ledger).state().decisions) == 1
    assert sorted(outcomes) in (["approved", "decided meanwhile"], ["decided meanwhile", "refused"])


@pytest.mark.parametrize(
    ("person", "reason"), [("", "r"), ("p", " "), ("p", "a\nb"), ("p", "r" * 501)]
)
def test_a_decision_needs_a_person_and_a_reason(
    settings: PartySettings, person: str, reason: str
) -> None:
    ask(settings)
    with pytest.raises(ConfigError, match="one line of 1 to 500 characters"):
        decide(settings, DIGEST, approve=False, person=person, reason=reason)
    assert len(Ledger(settings.ledger).entries()) == 1


def test_nothing_is_approved_while_the_source_cannot_be_opened(settings: PartySettings) -> None:
    ask(settings)
    (settings.home / "events.csv").unlink()
    with pytest.raises((ConfigError, DataError)):
        approve(settings)
    assert len(Ledger(settings.ledger).entries()) == 1
    assert refuse(settings).outcome is Outcome.REFUSED


def test_approving_again_after_the_source_changed_is_a_new_approval(
    settings: PartySettings,
) -> None:
    ask(settings)
    first = approve(settings)
    (settings.home / "events.csv").write_text(
        "customer,time,amount,channel\na,2023-05-01,10,web\nb,2023-06-01,20,web\n"
    )
    change(
        settings.home / "party.toml", 'amount = "amount"', 'amount = "amount"\nchannel = "channel"'
    )
    second = approve(load_settings(settings.home))
    assert second.outcome is Outcome.APPROVED
    assert second.decision.schema_digest != first.decision.schema_digest


# What is kept ------------------------------------------------------------


def test_a_kept_plan_is_private_and_names_who_asked(settings: PartySettings) -> None:
    ask(settings)
    folder = settings.waiting_plans / DIGEST
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(one.stat().st_mode & 0o777 == 0o600 for one in folder.iterdir())
    assert (folder / "plan.toml").read_bytes() == SOURCE
    plan = only(settings)
    assert (plan.requester, plan.requester_name, plan.run) == (REQUESTER, "science", "run-1")


def test_no_more_than_a_hundred_plans_wait_and_none_is_dropped_for_another(
    settings: PartySettings, caplog: pytest.LogCaptureFixture
) -> None:
    sources = [SOURCE + b"# %d" % number for number in range(waiting_plans.MAX_WAITING)]
    assert len(sources) == 100
    assert all(ask(settings, one) for one in sources)
    assert not ask(settings)
    assert "is not kept" in caplog.text
    assert {one.digest for one in kept_plans(settings)} == {plan_digest(one) for one in sources}
    assert ask(settings, sources[0], run="run-9")  # one that waits may be sent again
    refuse(settings, plan_digest(sources[0]))
    assert ask(settings)


def test_a_plan_longer_than_a_plan_may_be_is_not_kept(settings: PartySettings) -> None:
    assert not ask(settings, SOURCE + b"#" * 64 * 1024)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "plan.toml").write_bytes(OTHER),
        lambda folder: (folder / "request.json").write_text("{}"),
        lambda folder: (folder / "plan.toml").unlink(),
    ],
)
def test_a_folder_whose_plan_is_not_the_one_of_its_hash_is_believed_by_nobody(
    settings: PartySettings, damage: Callable[[Path], object]
) -> None:
    ask(settings)
    damage(settings.waiting_plans / DIGEST)
    for look in (lambda: approve(settings), lambda: plan_review(settings, DIGEST)):
        with pytest.raises(ConfigError):
            look()
    assert kept_plans(settings) == ()
    assert ask(settings)  # sent again, it is whole again
    assert only(settings).stand is Stand.WAITING


@pytest.mark.parametrize("name", ["../../etc", "0" * 7, "G" * 8, "", "0" * 65, "/etc/passwd"])
def test_what_is_no_hash_names_no_file(settings: PartySettings, name: str) -> None:
    ask(settings)
    with pytest.raises((ConfigError, NotFound)):
        WaitingPlans(settings.waiting_plans).find(name)
    with pytest.raises((ConfigError, NotFound)):
        WaitingPlans(settings.waiting_plans).read(name)


# What a person sees ------------------------------------------------------------


def test_a_first_plan_is_shown_with_every_key_and_a_later_one_with_what_changed(
    settings: PartySettings,
) -> None:
    ask(settings)
    review = plan_review(settings, DIGEST)
    assert review.compared_with is None
    assert {one.before for one in review.changes} == {None}
    approve(settings)
    ask(settings, OTHER)
    later = plan_review(settings, plan_digest(OTHER))
    assert (later.compared_with, later.compared_with_name) == (DIGEST, "churn-180")
    (change,) = later.changes
    assert (change.key, change.before, change.after) == ("privacy.epsilon", "1.0", "1.5")


def test_a_plan_is_compared_with_the_last_approved_of_its_name_before_any_other(
    settings: PartySettings,
) -> None:
    named = SOURCE.replace(b"churn-180", b"another")
    for source in (SOURCE, named):
        ask(settings, source)
        approve(settings, plan_digest(source))
    ask(settings, OTHER)
    assert plan_review(settings, plan_digest(OTHER)).compared_with == DIGEST
    third = OTHER.replace(b"churn-180", b"third")
    ask(settings, third)
    assert plan_review(settings, plan_digest(third)).compared_with == plan_digest(named)


def test_a_review_tells_data_cost_and_limits(settings: PartySettings) -> None:
    policy = settings.policy.read_text()
    settings.policy.write_text(policy + '[[budget.limit]]\nname = "year"\nepsilon = 3.0\n')
    ask(settings)
    review = plan_review(settings, DIGEST)
    assert review.data.label == "no purchase from 2024-01-01 to 2024-01-30"
    assert review.data.columns == {"customer": "customer", "time": "time", "amount": "amount"}
    assert "hours" in review.data.groups
    assert review.cost is not None
    assert 1.0 < review.cost.epsilon <= 2.0
    assert review.cost.used_before == 0 < review.cost.used_after < 1
    (limit,) = review.cost.limits
    assert (limit.name, limit.spent) == ("year", 0.0)
    assert review.refusals == ()


def test_a_review_says_for_what_policy_and_budget_would_refuse_now(
    settings: PartySettings,
) -> None:
    ask(settings)
    change(settings.policy, "max_epsilon_per_run = 2.0", "max_epsilon_per_run = 1.0")
    change(settings.home / "party.toml", 'customer = "customer"', 'customer = "religion"')
    review = plan_review(load_settings(settings.home), DIGEST)
    assert [reason for reason, _ in review.refusals] == ["forbidden", "epsilon"]


def test_every_kind_of_message_says_when_it_leaves_and_each_field_its_treatment(
    settings: PartySettings,
) -> None:
    from models.plan import parse_plan

    kinds = [one.kind for one in PARTY_MESSAGES]
    plain = parse_plan(SOURCE)
    assert [one.kind for one in leaving(plain)] == [
        "header", *(one for one in kinds if one not in ("weight-update", "unmasked"))
    ]  # fmt: skip
    weighed = parse_plan(SOURCE + b'[aggregation]\nweights = "noised_size"\n')
    once = parse_plan(SOURCE + b"[aggregation]\nsingle_opening = true\n")
    assert "weight-update" in [one.kind for one in leaving(weighed)]
    assert "unmasked" in [one.kind for one in leaving(once)]
    for message in leaving(weighed) + leaving(once):
        assert message.when
        body = next((one for one in PARTY_MESSAGES if one.kind == message.kind), None)
        if body is not None:
            assert [one.name for one in message.fields] == list(body.model_fields)
    treatments = {one.treatment for message in leaving(plain) for one in message.fields}
    assert treatments == {"constant", "charged", "encrypted", "disclosed"}


def test_every_cause_and_outcome_has_words(settings: PartySettings) -> None:
    assert set(plan_views.CAUSES) == set(Cause)
    assert set(plan_views.OUTCOMES) == set(Outcome)


# The commands ------------------------------------------------------------


def command(settings: PartySettings, *words: str) -> str:
    result = CliRunner().invoke(
        cli.app, ["--home", str(settings.home), *words], env={"COLUMNS": "200"}
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands_list_show_approve_and_refuse(settings: PartySettings) -> None:
    assert "no plan waits" in command(settings, "plan", "list")
    ask(settings)
    short = DIGEST[:8]
    assert "waiting: nobody has decided about it" in command(settings, "plan", "list")
    shown = command(settings, "plan", "show", short)
    for text in (DIGEST, REQUESTER, "no purchase from", "nothing was approved here before"):
        assert text in shown
    said = command(settings, "plan", "approve", short, "--person", "Ana", "--reason", "as agreed")
    assert "approved" in said
    assert "for 1 run, until" in said
    assert "no plan waits" in command(settings, "plan", "list")
    assert "approved: 1 run left" in command(settings, "plan", "list", "--all")
    said = command(settings, "plan", "refuse", short, "--person", "Bo", "--reason", "stop")
    assert "the approval that stood is taken back" in said
    assert "is not stopped" in said
    ledger = command(settings, "ledger", "show")
    assert "Ana approved 1 run of plan churn-180" in ledger
    assert "Bo refused plan churn-180" in ledger
    assert "signed by this party" in ledger


def test_the_commands_answer_scripts_in_json(settings: PartySettings) -> None:
    ask(settings)
    (listed,) = json.loads(command(settings, "plan", "list", "--format", "json"))
    assert (listed["digest"], listed["stand"], listed["cause"]) == (DIGEST, "waiting", "new")
    shown = json.loads(command(settings, "plan", "show", DIGEST, "--format", "json"))
    assert shown["cost"]["runs_left"] >= 1
    words = ("--person", "Ana", "--reason", "as agreed", "--format", "json")
    made = json.loads(command(settings, "plan", "approve", DIGEST, *words))
    assert made["outcome"] == "approved"
    assert made["decision"]["runs"] == 1
    document = json.loads(command(settings, "ledger", "export"))
    (decision,) = document["decisions"]
    assert decision["approved"]
    assert "Ana approved 1 run" in decision["in_words"]
    assert json.loads(command(settings, "ledger", "verify", "--format", "json"))["decisions_signed"]


def test_ledger_verify_finds_a_decision_that_the_party_did_not_sign(
    settings: PartySettings,
) -> None:
    ask(settings)
    own = settings.identity_key.read_bytes()
    settings.identity_key.unlink()
    SigningKey.generate().save(settings.identity_key)
    approve(settings)
    settings.identity_key.write_bytes(own)
    with pytest.raises(LedgerError, match="forged"):
        command(settings, "ledger", "verify")
    assert "FORGED" in command(settings, "ledger", "show")


def test_a_plan_with_words_for_a_terminal_is_shown_as_plain_text(settings: PartySettings) -> None:
    nasty = SOURCE.replace(
        b'kind = "churn"', b'kind = "propensity"\ncategory = "[red]\\u001b[2J\\u202e"'
    )
    ask(settings, nasty)
    shown = command(settings, "plan", "show", plan_digest(nasty))
    assert "[red]" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_the_policy_decides_how_long_an_approval_stands(settings: PartySettings) -> None:
    change(settings.policy, "approval_days = 30", "approval_days = 2")
    ask(settings)
    until = approve(settings).decision.valid_until
    assert until is not None
    assert until - datetime.now(UTC) < timedelta(days=3)
    assert load_policy(settings.policy).approval_days == 2
