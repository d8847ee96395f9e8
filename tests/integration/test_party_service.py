"""The party service against a hostile or unlucky coordinator, and runs that must not happen."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from models.plan import parse_plan
from party_client.federation import load_federation, save_federation
from party_client.service import PartyService
from privacy.accounting import epsilon
from privacy.conversation import Conversation
from privacy.errors import CohortError, ConfigError, PartyTimeout, RunStopped
from privacy.framing import read, statement_of
from privacy.identity import SigningKey, sign_plan
from privacy.messages import (
    COORDINATOR_MESSAGES,
    HEAD_BYTES,
    OFFER_BYTES,
    REFUSAL,
    Abort,
    Acknowledged,
    Decision,
    Evaluate,
    Preflight,
    SealKeys,
    TrainRound,
    manifest_hash,
)
from simulations.local_federation import MemoryChannel

from .conftest import HASTY, PLAN, LocalRun, changed, tags_in


@dataclass(frozen=True)
class Recording(MemoryChannel):
    """Keeps every frame and reply; may drop a party's answers from an exchange on."""

    log: list[tuple[Mapping[str, bytes], Mapping[str, bytes]]]
    silent: str = ""
    silent_from: int = 0

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        reached = {
            party: frame
            for party, frame in frames.items()
            if party != self.silent or len(self.log) < self.silent_from
        }
        replies = super().exchange(reached, timeout_s)
        self.log.append((reached, replies))
        return replies


def reports(local: LocalRun) -> list[Path]:
    return [path for home in local.federation.homes.values() for path in home.glob("reports/*")]


def tags(local: LocalRun) -> int:
    return sum(tags_in(one.node.store) for one in local.services.values())


def edit_policy(local: LocalRun, party: str, old: str, new: str) -> None:
    path = local.federation.homes[party] / "policy.toml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def refused_run(local: LocalRun, plan: bytes = PLAN, key: SigningKey | None = None) -> str:
    with pytest.raises(CohortError) as caught:
        local.run(plan, requester=key)
    assert tags(local) == 0
    assert not reports(local)
    for service in local.services.values():
        assert service.node.ledger.spent() == 0
    return str(caught.value)


# Refusals at preflight: nothing spent, nothing written, and the message says which code --------


def test_a_plan_above_a_partys_policy_is_refused_before_data_are_opened(local: LocalRun) -> None:
    edit_policy(local, "bank", "max_epsilon_per_run = 2.0", "max_epsilon_per_run = 1.5")
    (local.federation.homes["bank"] / "consent.csv").unlink()
    assert "bank (epsilon)" in refused_run(local)


def test_an_unlisted_requester_is_refused(local: LocalRun) -> None:
    assert "requester" in refused_run(local, key=SigningKey.generate())


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('purpose = "marketing"', 'purpose = "credit-scoring"', "purpose"),
        ("[training]", '[features]\ngroups = ["recency", "hours"]\n\n[training]', "features"),
        ('["churn_risk"]', '["purchase_propensity"]', "plan"),
    ],
)
def test_what_a_policy_does_not_name_is_refused(
    local: LocalRun, old: str, new: str, code: str
) -> None:
    for party in local.federation.homes:
        edit_policy(local, party, '"hours", ', "")
    assert f"({code})" in refused_run(local, changed(PLAN, old, new))


def test_a_plan_that_the_budget_cannot_pay_is_refused(local: LocalRun) -> None:
    edit_policy(local, "retailer", "epsilon = 8.0", "epsilon = 1.2")
    assert "retailer (budget)" in refused_run(local)


def test_the_budget_is_a_hard_stop_over_runs(local: LocalRun) -> None:
    edit_policy(local, "retailer", "epsilon = 8.0", "epsilon = 1.9")
    local.run(run_id="run-1")
    before = local.services["retailer"].node.ledger.spent()
    with pytest.raises(CohortError, match=r"retailer \(budget\)"):
        local.run(run_id="run-2")
    assert local.services["retailer"].node.ledger.spent() == before <= 1.9
    assert local.services["bank"].node.ledger.spent() == pytest.approx(before)


def test_an_unconfirmed_member_is_refused(local: LocalRun) -> None:
    home = local.federation.homes["bank"]
    pinned = load_federation(home)
    stranger = pinned.members["retailer"].model_copy(update={"confirmed": False})
    members = {**pinned.members, "retailer": stranger}
    save_federation(home, pinned.model_copy(update={"members": members}))
    assert "bank (members)" in refused_run(local)


def test_a_swapped_member_key_is_refused_by_everyone(local: LocalRun) -> None:
    members = {**local.federation.members, "retailer": SigningKey.generate().public}
    object.__setattr__(local.federation, "members", members)
    assert "refused a message in phase preflight" in refused_run(local)


@pytest.mark.parametrize(
    "damage",
    ["missing file", "wrong column", "one class", "empty table", "nobody consented"],
)
def test_data_that_cannot_be_used_give_one_constant_code(local: LocalRun, damage: str) -> None:
    home = local.federation.homes["ecommerce"]
    plan = PLAN
    if damage == "missing file":
        for path in home.glob("events*"):
            path.unlink()
    elif damage == "wrong column":
        config = home / "party.toml"
        text = config.read_text().splitlines()
        text = ['amount = "nosuch"' if one.startswith("amount =") else one for one in text]
        config.write_text("\n".join(text))
    elif damage == "one class":
        plan = changed(PLAN, "cutoff = 2024-12-31", "cutoff = 2025-07-01")
    elif damage == "empty table":
        for path in home.glob("events*"):
            path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    else:
        consent = home / "consent.csv"
        consent.write_text(consent.read_text().replace("yes", "no"))
    told = refused_run(local, plan)
    assert "ecommerce (data)" in told
    assert "nosuch" not in told


def test_fewer_parties_than_the_plans_minimum(local: LocalRun) -> None:
    plan = changed(PLAN, "[privacy]", "[cohort]\nminimum = 4\n\n[privacy]")
    with pytest.raises(CohortError, match="3 parties are enrolled"):
        local.run(plan)


def test_a_run_goes_on_without_a_party_that_refused_where_the_minimum_allows(
    local: LocalRun,
) -> None:
    plan = changed(PLAN, "[privacy]", "[cohort]\nminimum = 2\naccept_two_party = true\n\n[privacy]")
    for party in ("bank", "retailer"):
        edit_policy(local, party, "minimum_cohort = 3", "minimum_cohort = 2")
        edit_policy(local, party, "accept_two_party = false", "accept_two_party = true")
    edit_policy(local, "ecommerce", 'tasks = ["churn", "propensity"]', 'tasks = ["propensity"]')
    outcome = local.run(plan)
    assert outcome.parties == ("bank", "retailer")
    assert outcome.refused == {"ecommerce": "task"}
    assert local.services["ecommerce"].node.ledger.spent() == 0


# A run that ends early ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("silent_from", "phase", "spent"), [(0, "preflight", False), (4, "round 2", True)]
)
def test_a_party_that_never_answers_ends_the_run(
    local: LocalRun, silent_from: int, phase: str, spent: bool
) -> None:
    log: list[tuple[Mapping[str, bytes], Mapping[str, bytes]]] = []
    local.wrap = lambda channel: Recording(channel.answers, log, "bank", silent_from)
    with pytest.raises(PartyTimeout, match=f"bank did not answer in phase {phase}"):
        local.run(HASTY)
    for party in ("ecommerce", "retailer"):
        run = local.services[party].node.ledger.state().runs["run-1"]
        assert run.state == ("failed" if spent else "refunded")
        assert (local.services[party].node.ledger.spent() > 0) == spent
        assert local.services[party]._session is None
    assert tags(local) == 0


def test_an_operators_stop_ends_the_run(local: LocalRun) -> None:
    local.recorder.stop = True
    with pytest.raises(RunStopped):
        local.run()


def test_a_service_that_restarts_mid_run_counts_what_it_started(local: LocalRun) -> None:
    class Restarting(MemoryChannel):
        def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            first = next(iter(frames.values()))
            envelope = read(first, local.federation.coordinator.public, *COORDINATOR_MESSAGES)
            if (envelope.envelope.type, envelope.envelope.round) == (TrainRound.kind, 2):
                local.restart("bank")
                raise RunStopped("the coordinator ends here, too")
            return super().exchange(frames, timeout_s)

    local.wrap = lambda channel: Restarting(channel.answers)
    with pytest.raises(RunStopped):
        local.run()
    ledger = local.services["bank"].node.ledger
    run, delta = ledger.state().runs["run-1"], ledger.state().cap_delta
    # It can come back, so all stays reserved; the next run ends it.
    assert (run.state, run.charged(ledger.state().now)) == ("reserved", run.mechanisms)
    local.services["bank"].answer(preflight_frame(local, "run-2"))
    run = ledger.state().runs["run-1"]
    assert run.state == "failed"
    assert [one.round for one in run.intents] == [1]
    assert ledger.spent_by_run()["run-1"] == epsilon([run.intents[0].mechanism], delta) > 0


# A hostile coordinator ---------------------------------------------------------------------------


def preflight_frame(local: LocalRun, run_id: str = "run-1", plan: bytes = PLAN) -> bytes:
    return talk_with(local, run_id, plan).say(preflight(local, run_id, plan), 0, begins=True)


def preflight(local: LocalRun, run_id: str, plan: bytes) -> Preflight:
    return Preflight(
        plan=plan,
        requester=local.federation.requester.public,
        requester_signature=sign_plan(local.federation.requester, run_id, plan),
        cohort=dict(local.federation.members),
    )


def heard(talk: Conversation, frame: bytes) -> Decision:
    """The decision in this reply, taken into the conversation."""
    return talk.hear(talk.receive(frame, Decision), Decision, 0, begins=False)


def talk_with(local: LocalRun, run_id: str, plan: bytes, party: str = "bank") -> Conversation:
    return Conversation(
        "coordinator",
        local.federation.coordinator,
        party,
        local.federation.members[party],
        run_id,
        hashlib.sha256(plan).digest(),
        manifest_hash(local.federation.members),
    )


@pytest.mark.parametrize("frame", [b"", b"x", b"\0" * 64, b"\0" * 5000, b"\xff" * 100_000])
def test_nonsense_gets_one_constant_refusal(local: LocalRun, frame: bytes) -> None:
    assert local.service("bank").answer(frame) == REFUSAL


def test_every_flipped_byte_of_a_preflight_is_refused(local: LocalRun) -> None:
    bank, frame = local.service("bank"), preflight_frame(local)
    for position in range(0, len(frame), 61):
        broken = bytearray(frame)
        broken[position] ^= 1
        assert bank.answer(bytes(broken)) == REFUSAL
    assert bank.node.ledger.state().runs == {}
    assert bank.answer(frame) != REFUSAL


def test_a_message_out_of_order_is_refused_and_changes_nothing(local: LocalRun) -> None:
    bank, talk = local.service("bank"), talk_with(local, "run-1", PLAN)
    names = tuple(sorted(local.federation.members))
    early = TrainRound(members=names, replies={}, total=b"", lost=False)
    assert bank.answer(talk.say(early, 1, begins=True)) == REFUSAL
    talk = talk_with(local, "run-1", PLAN)
    accepted = bank.answer(talk.say(preflight(local, "run-1", PLAN), 0, begins=True))
    assert heard(talk, accepted).accepted
    skip = Evaluate(members=names, replies={}, total=b"", lost=False)
    skipping = talk.say(skip, 3, begins=True)
    assert bank.answer(skipping) == REFUSAL
    assert bank.node.ledger.state().runs["run-1"].intents == []
    assert bank._session is not None


def test_a_coordinator_cannot_shrink_the_cohort_below_the_minimum(local: LocalRun) -> None:
    bank, talk = local.service("bank"), talk_with(local, "run-1", PLAN)
    own = bank.answer(talk.say(preflight(local, "run-1", PLAN), 0, begins=True))
    heard(talk, own)
    talk.manifest = manifest_hash({"bank": local.federation.members["bank"]})
    alone = talk.say(SealKeys(replies={"bank": statement_of(own)}), 0, begins=True)
    assert bank.answer(alone) == REFUSAL


def test_a_coordinator_cannot_speak_for_a_member(
    local: LocalRun, caplog: pytest.LogCaptureFixture
) -> None:
    """It makes up the others' decisions, with exchange keys that it knows."""
    bank, talk = local.service("bank"), talk_with(local, "run-1", PLAN)
    own = bank.answer(talk.say(preflight(local, "run-1", PLAN), 0, begins=True))
    heard(talk, own)
    decisions = {"bank": statement_of(own)}
    for party in ("ecommerce", "retailer"):
        forged = Conversation(
            party,
            SigningKey.generate(),
            "coordinator",
            local.federation.coordinator.public,
            "run-1",
            hashlib.sha256(PLAN).digest(),
            manifest_hash(local.federation.members),
        )
        made_up = Decision(
            accepted=True,
            reason="",
            public_size=700,
            offer=b"\x07" * OFFER_BYTES,
            applied=0,
            ledger_head=bytes(HEAD_BYTES),
            known_heads={},
        )
        decisions[party] = forged.say(made_up, 0, begins=True)
    assert bank.answer(talk.say(SealKeys(replies=decisions), 0, begins=True)) == REFUSAL
    assert "a relayed reply is not what ecommerce said" in caplog.text
    assert bank.node.ledger.state().runs["run-1"].state == "refunded"


def test_the_same_bytes_again_get_the_same_reply_and_are_not_charged(local: LocalRun) -> None:
    bank, frame = local.service("bank"), preflight_frame(local)
    assert bank.answer(frame) == bank.answer(frame)
    assert list(bank.node.ledger.state().runs) == ["run-1"]


def test_a_finished_run_is_never_replayed(local: LocalRun) -> None:
    log: list[tuple[Mapping[str, bytes], Mapping[str, bytes]]] = []
    local.wrap = lambda channel: Recording(channel.answers, log)
    local.run()
    bank = local.restart("bank")
    spent = bank.node.ledger.spent()
    for frames, _ in log:
        assert bank.answer(frames["bank"]) == REFUSAL
    assert bank.node.ledger.spent() == spent


def test_an_abort_ends_the_run_and_refunds_what_never_touched_data(local: LocalRun) -> None:
    bank, talk = local.service("bank"), talk_with(local, "run-1", PLAN)
    reply = bank.answer(talk.say(preflight(local, "run-1", PLAN), 0, begins=True))
    heard(talk, reply)
    ended = bank.answer(talk.say(Abort(reason="RunStopped"), 0, begins=True))
    assert read(ended, local.federation.members["bank"], Acknowledged)
    assert bank.node.ledger.state().runs["run-1"].state == "refunded"


def test_no_log_line_or_reply_holds_a_customers_id(
    local: LocalRun, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    log: list[tuple[Mapping[str, bytes], Mapping[str, bytes]]] = []
    local.wrap = lambda channel: Recording(channel.answers, log)
    local.run()
    service: PartyService = local.services["bank"]
    customers = [
        one.customer for one in service.node.store.export("churn_risk", purpose="marketing")
    ]
    assert len(customers) > 50
    wire = b"".join(reply["bank"] for _, reply in log)
    for customer in customers:
        assert customer.encode() not in wire
        assert customer not in caplog.text


def test_a_replayed_preflight_does_not_end_the_active_run(local: LocalRun) -> None:
    bank, old = local.service("bank"), preflight_frame(local, "run-1")
    bank.answer(old)
    active = preflight_frame(local, "run-2")
    bank.answer(active)
    assert bank.answer(old) == REFUSAL
    assert bank._session is not None
    assert bank._session.run == "run-2"
    runs = bank.node.ledger.state().runs
    assert {name: run.state for name, run in runs.items()} == {
        "run-1": "refunded",
        "run-2": "reserved",
    }


def test_a_budget_delta_above_what_the_public_size_allows_is_refused(local: LocalRun) -> None:
    edit_policy(local, "bank", "delta = ", "delta = 0.00999 #")
    with pytest.raises(ConfigError, match=r"budget\.delta must be at most"):
        local.service("bank")


def decided(local: LocalRun, run_id: str, plan: bytes, members: dict[str, bytes]) -> Decision:
    """The bank's answer to a preflight with this cohort."""
    talk = Conversation(
        "coordinator",
        local.federation.coordinator,
        "bank",
        local.federation.members["bank"],
        run_id,
        hashlib.sha256(plan).digest(),
        manifest_hash(members),
    )
    body = preflight(local, run_id, plan).model_copy(update={"cohort": members})
    reply = local.service("bank").answer(talk.say(body, 0, begins=True))
    return heard(talk, reply)


def test_a_cohort_with_a_party_that_the_plan_does_not_name_is_refused(local: LocalRun) -> None:
    named = b'[cohort]\nparties = ["bank", "retailer", "charity"]\n\n[privacy]'
    plan = PLAN.replace(b"[privacy]", named)
    assert decided(local, "run-1", plan, dict(local.federation.members)).reason == "cohort"


def test_a_cohort_that_shrinks_to_two_after_preflight_needs_both_consents(local: LocalRun) -> None:
    plan = changed(PLAN, "[privacy]", "[cohort]\nminimum = 2\naccept_two_party = true\n\n[privacy]")
    for party in ("bank", "retailer"):
        edit_policy(local, party, "minimum_cohort = 3", "minimum_cohort = 2")
    edit_policy(local, "ecommerce", 'tasks = ["churn", "propensity"]', 'tasks = ["propensity"]')
    with pytest.raises(CohortError, match="bank, retailer refused a message in phase keys"):
        local.run(plan)
    assert local.services["bank"].node.ledger.spent() == 0


def test_preflights_that_give_their_reservation_back_are_limited(local: LocalRun) -> None:
    edit_policy(local, "bank", "max_refunds_per_day = 20", "max_refunds_per_day = 2")
    members = dict(local.federation.members)
    reasons = [decided(local, f"run-{number}", PLAN, members).reason for number in range(4)]
    assert reasons == ["", "", "budget", "budget"]


def test_a_policys_delta_holds_where_the_plan_names_none(local: LocalRun) -> None:
    edit_policy(local, "bank", "delta = ", "delta = 1e-9 #")
    members = dict(local.federation.members)
    assert decided(local, "run-1", PLAN, members).reason == "epsilon"
    stated = changed(PLAN, "epsilon = 1.0\nevaluation", "delta = 1e-9\nepsilon = 1.0\nevaluation")
    assert decided(local, "run-2", stated, members).accepted


def test_a_preflight_that_the_policy_refuses_does_not_end_the_active_run(local: LocalRun) -> None:
    members = dict(local.federation.members)
    assert decided(local, "run-1", PLAN, members).accepted
    greedy = changed(PLAN, "epsilon = 1.0\nevaluation", "epsilon = 7.0\nevaluation")
    assert decided(local, "run-2", greedy, members).reason == "epsilon"
    session = local.services["bank"]._session
    assert session is not None
    assert session.run == "run-1"


def test_withdrawn_consent_ends_training_and_removes_tags_at_the_next_run(
    local: LocalRun,
) -> None:
    local.run(run_id="run-1")
    bank = local.services["bank"].node
    rows = bank.source.consent_rows()
    assert rows is not None
    consented = {row.customer for row in rows if row.granted}
    tagged = {one.customer for one in bank.store.export("churn_risk", purpose="marketing")}
    assert tagged <= consented
    leaver = min(tagged)
    path = local.federation.homes["bank"] / "consent.csv"
    text = path.read_text()
    assert text.count(f"{leaver},yes") == 1
    path.write_text(text.replace(f"{leaver},yes", f"{leaver},no"))
    local.run(run_id="run-2")
    found = bank.store.profile(leaver, purpose="marketing")
    assert (found.consent, found.tags) == (False, ())
    assert leaver not in bank.source.training_examples(parse_plan(PLAN), "bank").customer_ids
    assert {
        one.customer for one in bank.store.export("churn_risk", purpose="marketing")
    } == tagged - {leaver}


def test_a_ledger_damaged_mid_run_ends_the_run_and_not_the_service(local: LocalRun) -> None:
    ledger = local.federation.homes["bank"] / "ledger.jsonl"

    class Damaging(MemoryChannel):
        def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            first = next(iter(frames.values()))
            received = read(first, local.federation.coordinator.public, *COORDINATOR_MESSAGES)
            if received.envelope.type == TrainRound.kind:
                ledger.write_bytes(ledger.read_bytes().replace(b"run-1", b"run-9"))
            return super().exchange(frames, timeout_s)

    local.wrap = lambda channel: Damaging(channel.answers)
    with pytest.raises(CohortError, match="bank refused a message in phase round 1"):
        local.run()
    bank = local.services["bank"]
    assert bank._session is None
    assert bank.answer(preflight_frame(local, "run-2")) == REFUSAL
