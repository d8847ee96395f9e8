"""What a run leaves in a party's ledger: truthful intents, and a reservation that expires."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest

from models.plan import parse_plan
from models.training import held_out
from party_client.admission import validity
from party_client.node import Node
from privacy.errors import CohortError
from privacy.framing import read
from privacy.ledger import Ledger
from privacy.messages import COORDINATOR_MESSAGES, Preflight, TrainRound
from simulations.local_federation import MemoryChannel

from .conftest import HASTY, PLAN, LocalRun, changed


def digest_by_hand(node: Node, aside: bool) -> str:
    """HMAC of the training rows, or of the held-out rows (`aside`), from a copy in plain bytes."""
    plan = parse_plan(PLAN)
    examples = node.source.training_examples(plan, node.party)
    assert examples.labels is not None
    chosen = held_out(examples.customer_ids, node.local_key, plan.evaluation.held_out) == aside
    content = b"fedtags dataset 1\0"
    for one in np.array(examples.customer_ids)[chosen]:
        content += struct.pack(">Q", len(one.encode())) + one.encode()
    for array in (examples.features[chosen], examples.labels[chosen]):
        encoded = array.astype("<f4").tobytes()
        content += struct.pack(">Q", len(encoded)) + encoded
    return hmac.new(node.local_key, content, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("engine", ["factorised", "opacus"])
def test_each_intent_says_truthfully_how_its_mechanism_ran(local: LocalRun, engine: str) -> None:
    local.run(changed(PLAN, "local_steps = 4", f'local_steps = 4\nengine = "{engine}"'))
    node = local.services["bank"].node
    first, second, last = node.ledger.state().runs["run-1"].intents
    assert [one.round for one in (first, second, last)] == [1, 2, 0]
    assert first.provenance == second.provenance
    assert first.provenance.engine == engine
    assert first.provenance.sampler == "Poisson: binomial size, then a uniform subset"
    assert first.provenance.dataset == digest_by_hand(node, aside=False)
    assert last.provenance.engine == "histogram of label and score bin"
    assert last.provenance.sampler == "none: every row"
    assert last.provenance.dataset == digest_by_hand(node, aside=True)
    for one in (first, last):
        assert one.provenance.family == "logistic"
        assert one.provenance.rng == "AES-128 in counter mode (randomgen.AESCounter)"
        assert one.provenance.code_version == version("fedtags")
        assert one.provenance.recipients == ("bank", "ecommerce", "retailer")


def test_the_same_rows_are_named_alike_and_changed_rows_are_not(local: LocalRun) -> None:
    local.run(run_id="run-1")
    local.run(run_id="run-2")
    path = local.federation.homes["bank"] / "consent.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(one.replace(",yes", ",no") for one in lines[:40]) + "\n")
    path.write_text(path.read_text() + "\n".join(lines[40:]) + "\n")
    local.run(run_id="run-3")
    runs = local.services["bank"].node.ledger.state().runs
    named = [runs[f"run-{number}"].intents[0].provenance.dataset for number in (1, 2, 3)]
    assert named[0] == named[1] != named[2]
    elsewhere = local.services["retailer"].node.ledger.state().runs["run-1"].intents[0]
    assert elsewhere.provenance.dataset != named[0]


def test_an_accepted_run_holds_its_rows_once(local: LocalRun) -> None:
    class Looking(MemoryChannel):
        def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            replies = super().exchange(frames, timeout_s)
            if header(local, frames)[0] == Preflight.kind:
                look(local)
            return replies

    def look(local: LocalRun) -> None:
        session = local.services["bank"]._session
        assert session is not None
        admission = session.admission
        assert admission.examples.features.size == 0
        assert admission.examples.labels is None
        rows = len(admission.training.labels) + len(admission.held_out.labels)
        assert rows == len(admission.examples.customer_ids)
        looked.append(rows)

    looked: list[int] = []
    local.wrap = lambda channel: Looking(channel.answers)
    local.run()
    assert len(looked) == 1


@pytest.mark.parametrize(
    ("cohort", "minutes"),
    [
        ("pause_minutes = 0", 18),
        ("pause_minutes = 0\ntimeout_seconds = 5", 10),
        ("pause_minutes = 90\ntimeout_seconds = 5", 100),
    ],
)
def test_a_reservation_stands_for_the_exchanges_and_the_pause_of_its_plan(
    cohort: str, minutes: int
) -> None:
    plan = parse_plan(PLAN + f"\n[cohort]\n{cohort}\n".encode())
    assert validity(plan) == timedelta(minutes=minutes)


class LateClock:
    """The time now, later by what was slept."""

    def __init__(self) -> None:
        self.slept = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.slept


@pytest.mark.parametrize(("minutes", "goes_on"), [(17, True), (19, False)])
def test_a_run_that_lies_still_longer_than_that_is_over(
    local: LocalRun, caplog: pytest.LogCaptureFixture, minutes: int, goes_on: bool
) -> None:
    clock = LateClock()
    bank = local.service("bank")
    path = local.federation.homes["bank"] / "ledger.jsonl"
    bank.node = replace(bank.node, ledger=Ledger(path, clock=clock))

    class Sleeping(MemoryChannel):
        def exchange(self, frames: Mapping[str, bytes], timeout_s: float) -> Mapping[str, bytes]:
            if header(local, frames) == (TrainRound.kind, 2):
                clock.slept += timedelta(minutes=minutes)
            return super().exchange(frames, timeout_s)

    local.wrap = lambda channel: Sleeping(channel.answers)
    if goes_on:
        local.run(HASTY)
    else:
        with pytest.raises(CohortError, match="bank refused a message in phase round 2"):
            local.run(HASTY)
        assert "the run's reservation has expired; submit the plan again" in caplog.text
    run = bank.node.ledger.state().runs["run-1"]
    assert (run.state == "finished") == goes_on
    assert len(run.intents) == (3 if goes_on else 1)


def header(local: LocalRun, frames: Mapping[str, bytes]) -> tuple[Any, int]:
    public = local.federation.coordinator.public
    envelope = read(next(iter(frames.values())), public, *COORDINATOR_MESSAGES).envelope
    return envelope.type, envelope.round
