"""A coordinator's home for the control benchmark, filled through the stores: nothing is run.

Parties enrol and disclose, runs are recorded as their ServerApps would record them. One run in
twenty asks 32 parties, as many as a plan may name, the others five. No figure comes from any data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from coordinator.disclosures import DisclosureStore
from coordinator.member_store import MemberStore
from coordinator.outcome import RunOutcome
from coordinator.run_store import RunStore
from coordinator.settings import CoordinatorSettings
from models.plan import plan_digest
from privacy.disclosure import (
    ApprovalsTold,
    BudgetTold,
    Disclosure,
    EgressTold,
    LimitTold,
    ModelTold,
    RunSent,
    StatusTold,
    TagTold,
)
from privacy.errors import CohortError
from privacy.hosting.database import utc_now
from privacy.identity import SigningKey, read_secret, sign_plan
from simulations.demo import plan_file

FEDERATION = "bench"
COHORT, LARGE = 5, 32
LARGE_EVERY = 20  # runs; such a one asks as many as a plan may name
FAILED_EVERY = 50
BUDGETS_TOLD = 10  # of each party, over time
RUNS_TOLD = 20
_TAGS = ("churn_risk", "purchase_propensity", "price_sensitivity")
_FRAME = 60_000  # bytes
_ADMIT_FOR = timedelta(days=7)


@dataclass(frozen=True)
class Stores:
    """The stores of one coordinator's home, and the key that signs plans."""

    members: MemberStore
    runs: RunStore
    disclosures: DisclosureStore
    requester: SigningKey


@contextmanager
def opened(settings: CoordinatorSettings) -> Iterator[Stores]:
    """The stores of a home folder, closed when the block ends."""
    url = settings.database_url
    with ExitStack() as stack:
        yield Stores(
            stack.enter_context(closing(MemberStore(url, read_secret(settings.token_key)))),
            stack.enter_context(closing(RunStore(url))),
            stack.enter_context(closing(DisclosureStore(url))),
            SigningKey.load(settings.requester_key),
        )


def party_name(number: int) -> str:
    """The party of this number, from 0."""
    return f"party-{number:03}"


def run_name(number: int) -> str:
    """The run of this number, from 0."""
    return f"run-{number:05}"


def fill(stores: Stores, parties: int, runs: int) -> None:
    """Enrol `parties`, store `runs`, and let each party tell about them."""
    for number in range(parties):
        enrol(stores, party_name(number))
    for number in range(runs):
        add_run(stores, number, parties)
    digests = {
        number: plan_digest(_plan(number, cohort(number, parties))) for number in range(runs)
    }
    for number in range(parties):
        name = party_name(number)
        newest = [one for one in reversed(range(runs)) if name in cohort(one, parties)]
        taken_part = {run_name(one): digests[one] for one in newest[:RUNS_TOLD]}
        _tell(stores, name, taken_part)


def enrol(stores: Stores, name: str) -> None:
    """Invite a party and use its invitation up, as the control plane does."""
    invitation = stores.members.invite(name, _ADMIT_FOR)
    node = ec.generate_private_key(ec.SECP384R1()).public_key()
    stores.members.enrol(
        invitation.token,
        name,
        SigningKey.generate().public,
        node.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        lambda: None,
    )


def cohort(number: int, parties: int) -> list[str]:
    """The parties that a run asks."""
    if number % LARGE_EVERY == 0:
        return [party_name(one) for one in range(min(LARGE, parties))]
    return sorted({party_name((number * 7 + one) % parties) for one in range(COHORT)})


def create_run(stores: Stores, number: int, asked: Sequence[str]) -> str:
    """Store a submitted run; returns its id."""
    run_id, plan = run_name(number), _plan(number, asked)
    signature = sign_plan(stores.requester, run_id, plan)
    stores.runs.create_run(run_id, plan, stores.requester.public, signature)
    return run_id


def add_run(stores: Stores, number: int, parties: int) -> None:
    """Store a run with all that it records until its end."""
    asked = cohort(number, parties)
    run_id = create_run(stores, number, asked)
    stores.runs.attach_flower_run(run_id, str(10**6 + number))
    recorder = stores.runs.recorder(run_id)
    rounds = 6
    steps: list[tuple[str, int | None]] = [("preflight", None), ("keys", None)]
    steps += [("round", one) for one in range(1, rounds + 1)]
    steps += [("evaluation", None), ("opening", None), ("publication", None)]
    for phase, place in steps:
        recorder.phase(phase, place, rounds)
        size = dict.fromkeys(asked, _FRAME)
        recorder.exchange(phase, place, 0.5, size, size)
    if number % FAILED_EVERY == 1:
        stores.runs.fail(run_id, CohortError("2 of 5 parties are there; the plan needs 3"))
        return
    for name, value in (("auc", 0.7), ("auc_standard_error", 0.01), ("calibration", 0.02)):
        recorder.metric(name, value + number % 100 / 1000)
    head = hashlib.sha256(run_id.encode()).digest()
    outcome = RunOutcome(
        parties=tuple(asked),
        refused={},
        evaluation=(number,) * 40,
        auc=0.7,
        auc_standard_error=0.01,
        calibration=0.02,
        ledger_heads=dict.fromkeys(asked, head),
    )
    stores.runs.finish(run_id, outcome)


def _plan(number: int, asked: Sequence[str]) -> bytes:
    """One of ten plans by name, for these parties."""
    text = plan_file("market-churn").read_text(encoding="utf-8")
    text = text.replace('name = "market-churn"', f'name = "plan-{number % 10}"')
    named = ", ".join(f'"{one}"' for one in asked)
    text = text.replace('["retailer", "bank", "ecommerce"]', f"[{named}]")
    text = text.replace("minimum = 3", f"minimum = {min(3, len(asked))}")
    return f"# Run {number}.\n{text}".encode()


def _tell(stores: Stores, party: str, taken_part: Mapping[str, str]) -> None:
    now = int(utc_now().timestamp())
    for place in range(BUDGETS_TOLD):
        at = now - BUDGETS_TOLD + place
        told = _disclosure(party, 1000 * at, place, taken_part)
        body = told.encoded()
        stores.disclosures.keep(told, body, signed_at=at, signature=bytes(64))


def _disclosure(party: str, sequence: int, place: int, taken_part: Mapping[str, str]) -> Disclosure:
    """`taken_part`: the party's newest runs with their plans' digests, the newest first."""
    digest = hashlib.sha256(f"{party} {place}".encode()).hexdigest()
    spent = 0.5 * (place + 1)
    return Disclosure(
        format=1,
        federation=FEDERATION,
        party=party,
        sequence=sequence,
        status=StatusTold(
            version="1.0",
            bundle=digest,
            public_size=6000,
            ledger_position=100 + place,
            ledger_hash=digest,
        ),
        budget=BudgetTold(
            epsilon=10.0,
            delta=1e-8,
            spent=spent,
            used=spent / 10,
            last_run=next(iter(taken_part), None),
            runs_left=BUDGETS_TOLD - place,
        ),
        limits=(
            LimitTold(
                name="marketing a year",
                window="year",
                purpose="marketing",
                plan=None,
                epsilon=8.0,
                spent=spent,
            ),
        ),
        approvals=ApprovalsTold(waiting=(digest,), approved=()),
        tags=tuple(TagTold(name=one, state="listed") for one in _TAGS),
        models=tuple(
            ModelTold(run=one, plan=plan, model=hashlib.sha256(one.encode()).hexdigest())
            for one, plan in taken_part.items()
        ),
        egress=EgressTold(
            runs=tuple(RunSent(run=one, messages=11, bytes=11 * _FRAME) for one in taken_part),
            other_messages=100,
            other_bytes=10_000,
        ),
    )
