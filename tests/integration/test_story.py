"""The story and the real party services give the same integers for the same randomness."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from models.plan import parse_plan
from models.training import Rows, held_out
from party_client.service import PartyService
from party_client.session import Session
from privacy.accounting import epsilon
from privacy.errors import BudgetExceeded
from privacy.framing import read, read_statement
from privacy.messages import COORDINATOR_MESSAGES, REFUSAL, TrainRound, Unmasked
from privacy.packing import field_chunks, unpack_fields
from simulations.local_federation import MemoryChannel
from simulations.story import StoryEnd, StoryParty, federated_run

from .conftest import PLAN, LocalRun, changed, repeatable

PLANS = {
    "logistic": PLAN,
    "mlp": changed(PLAN, "[privacy]", '[model]\nfamily = "mlp"\nhidden = [8]\n\n[privacy]'),
    "equal weights": PLAN + b'\n[aggregation]\nweights = "equal"\n',
    "noised weights": changed(PLAN, "evaluation_epsilon = 1.0", "evaluation_epsilon = 0.5")
    + b'\n[aggregation]\nweights = "noised_size"\n',
    "single opening": PLAN + b"\n[aggregation]\nsingle_opening = true\n",
}


def story_party(service: PartyService, plan_source: bytes) -> StoryParty:
    node, plan = service.node, parse_plan(plan_source)
    examples = node.source.training_examples(plan, node.party)
    assert examples.labels is not None
    rows = Rows(examples.features, examples.labels)
    aside = held_out(examples.customer_ids, node.local_key, plan.evaluation.held_out)
    return StoryParty(
        public_size=node.public_size,
        training=rows[~aside],
        held_out=rows[aside],
        scored=node.source.scoring_examples(plan, node.party).features,
        budget_epsilon=node.policy.budget.epsilon,
        budget_delta=node.policy.budget.delta,
        entropy=repeatable(node.party),
    )


@dataclass(frozen=True)
class OpeningChannel(MemoryChannel):
    """Carries frames, and opens each relayed sum with a member's keys, as that member does next."""

    services: Mapping[str, PartyService]
    opened: list[list[int]]

    def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
        party, frame = next(iter(frames.items()))
        body = read(frame, self.services[party].node.coordinator_public, *COORDINATOR_MESSAGES).body
        session = self.services[party]._session
        if isinstance(body, TrainRound) and body.total and session is not None:
            self._open(session, body)
        return super().exchange(frames, timeout_s)

    def _open(self, session: Session, body: TrainRound) -> None:
        keys, sums = session.stage.keys, session._sums
        assert keys is not None
        assert sums is not None
        label = sums.pending
        assert label is not None
        seeds = {}
        if sums.single_opening:
            for party, frame in body.replies.items():
                said = read_statement(frame, session.participants[party], Unmasked).body
                assert isinstance(said, Unmasked)
                seeds[party] = keys.open_seed(label, party, said.seed)
        if label.tensor == "update":
            size = session.learned.parameters.size
            total = keys.open_total(body.total, field_chunks(size), label, seeds)
            self.opened.append(unpack_fields(total, size).tolist())


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_story_and_services_give_the_same_integers(local: LocalRun, plan: bytes) -> None:
    local.entropy = repeatable
    opened: list[list[int]] = []
    local.wrap = lambda channel: OpeningChannel(channel.answers, local.services, opened)
    outcome = local.run(plan)
    told: StoryEnd = federated_run(
        plan, "run-1", {party: story_party(one, plan) for party, one in local.services.items()}
    )
    assert [list(one) for one in told.sums] == opened
    assert len(opened) == 2
    assert told.evaluation == outcome.evaluation
    assert told.auc == outcome.auc
    for party, service in local.services.items():
        records = list(service.node.store.export("churn_risk", purpose="marketing"))
        examples = service.node.source.scoring_examples(parse_plan(plan), party)
        values = dict(zip(examples.customer_ids, told.tags[party]["churn_risk"], strict=True))
        assert {one.customer: one.value for one in records} == values
        assert told.epsilon[party] == pytest.approx(service.node.ledger.spent_by_run()["run-1"])


def test_in_service_the_same_run_never_repeats(local: LocalRun) -> None:
    first = local.run(run_id="run-1").evaluation
    second = local.run(run_id="run-2").evaluation
    assert first != second


def test_the_story_stops_at_a_budget(local: LocalRun) -> None:
    for party in local.federation.homes:
        local.service(party)
    parties = {party: story_party(one, PLAN) for party, one in local.services.items()}
    poor = {**parties, "bank": replace(parties["bank"], budget_epsilon=0.5)}
    with pytest.raises(BudgetExceeded):
        federated_run(PLAN, "run-1", poor)


def test_every_ledger_recomputes_to_the_epsilon_that_was_reported(local: LocalRun) -> None:
    local.run(run_id="run-1")
    local.run(changed(PLAN, "epsilon = 1.0\nevaluation", "epsilon = 0.5\nevaluation"), "run-2")
    for service in local.services.values():
        ledger = service.node.ledger
        ledger.verify()
        state = ledger.state()
        spent = [one.mechanism for run in state.runs.values() for one in run.intents]
        assert epsilon(spent, state.cap_delta) == pytest.approx(ledger.spent(), rel=1e-9)
        assert ledger.spent() < sum(ledger.spent_by_run().values())


def test_no_answer_is_larger_or_smaller_for_other_data(local: LocalRun) -> None:
    """Payload lengths are constant: parties with other rows send frames of one length."""
    sizes: list[set[int]] = []

    class Measuring(MemoryChannel):
        def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            replies = super().exchange(frames, timeout_s)
            assert REFUSAL not in replies.values()
            # Names differ in length; nothing else may.
            sizes.append({len(frame) - len(party) for party, frame in replies.items()})
            return replies

    local.wrap = lambda channel: Measuring(channel.answers)
    local.run()
    lead_seals = 1
    assert [len(one) for one in sizes].count(1) == len(sizes) - lead_seals
    assert np.all([len(one) == 1 for one in sizes[2:]])
