"""A year of one party's ledger: weekly runs of two plans, with everything that goes wrong.

The file is then read by a second, short implementation that shares no code with the first but
dp_accounting, and must come to the same float.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import pld_privacy_accountant
from dp_accounting.rdp import RdpAccountant

from privacy.accounting import calibrate_release, calibrate_training, epsilon
from privacy.budget import Limit
from privacy.errors import BudgetExceeded
from privacy.ledger import Ledger
from privacy.mechanism import Gaussian, SampledGaussian
from tests.ledgers import FROM, commit

ROOT = Path(__file__).parents[2]
DELTA = 2e-6  # 1 / (10 * N^) at N^ = 50,000
CAP = 3.15
ROUNDS = 2
VALID_FOR = timedelta(hours=6)
MONDAY = datetime(2024, 1, 1, 2, tzinfo=UTC)
WEEK = timedelta(weeks=1)


@dataclass(frozen=True)
class Plan:
    """What a plan costs: calibrated training in rounds, and one evaluation release."""

    name: str
    purpose: str
    training: SampledGaussian
    evaluation: Gaussian

    @classmethod
    def of(cls, name: str, purpose: str, rate: float, target: float, steps: int) -> Plan:
        sigma = calibrate_training(target, DELTA, rate, steps * ROUNDS)
        training = SampledGaussian(rate, sigma, steps * ROUNDS)
        return cls(name, purpose, training, Gaussian(calibrate_release(target / 2, DELTA)))


PLANS = (
    Plan.of("churn-180", "retention", 0.15, 0.3, 20),
    Plan.of("propensity-30", "marketing", 0.05, 0.2, 40),
)
LIMITS = (Limit("marketing a quarter", 0.75, purpose="marketing", window="quarter"),)
# How often each end comes, in percent.
ENDS = {"finished": 70, "failed": 12, "refunded": 8, "torn": 5, "left": 5}


@dataclass
class Year:
    """The ledger of a simulated year, and what was asked of it."""

    path: Path
    now: datetime = MONDAY
    ends: Counter[str] = field(default_factory=Counter)

    def clock(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def open(self) -> Ledger:
        return Ledger(self.path, self.clock)


def live(path: Path) -> Year:
    """52 weeks; the same every time. After each run the ledger must be within its cap."""
    year, choose = Year(path), random.Random(3)
    ledger = Ledger.create(
        path, party="bank", cap_epsilon=CAP, cap_delta=DELTA, code_version="0", clock=year.clock
    )
    for week in range(52):
        for plan in PLANS:
            year.now = max(year.now, MONDAY + week * WEEK)
            end = choose.choices(list(ENDS), list(ENDS.values()))[0]
            year.ends[run(year, ledger, f"{plan.name}-{week}", plan, end, choose)] += 1
            assert ledger.used() <= 1
    return year


def run(year: Year, ledger: Ledger, name: str, plan: Plan, end: str, choose: random.Random) -> str:
    """One run at the party. Returns how it ended."""
    try:
        ledger.reserve(
            name,
            plan_digest=hashlib.sha256(plan.name.encode()).hexdigest(),
            plan=plan.name,
            purpose=plan.purpose,
            mechanisms=[plan.training, plan.evaluation],
            valid_for=VALID_FOR,
            limits=LIMITS,
        )
    except BudgetExceeded as refused:
        return "refused by a limit" if "marketing a quarter" in str(refused) else "refused for life"
    if end == "refunded":
        ledger.refund(name)
        return end
    done = ROUNDS if end == "finished" else choose.randrange(ROUNDS)
    for number in range(1, done + 1):
        ledger.intent(name, number, plan.training.split(plan.training.steps // ROUNDS), FROM)
        commit(ledger, name, number)
    if end == "finished":
        ledger.intent(name, 0, plan.evaluation, FROM)
        commit(ledger, name, 0)
        ledger.close(name, "finished")
    elif end == "torn":
        with year.path.open("ab") as file:
            file.write(b'{"body":{"mechanism":{"mechanism":"sampled_gau')
        year.open().close(name, "failed")
    elif end == "failed":
        ledger.close(name, "failed")
    return end  # one that was left lies still until its reservation has expired


# The second implementation -----------------------------------------------------------------------


def parsed(path: Path) -> Iterator[dict[str, Any]]:
    """Each whole line, its hash and its predecessor's checked; a torn one is skipped."""
    previous = "0" * 64
    for line in path.read_bytes().splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        digest = content.pop("hash")
        rest = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        assert hashlib.sha256(b"fedtags ledger 1\0" + rest).hexdigest() == digest
        assert content["previous"] == previous
        previous = digest
        yield content


def charged(path: Path, now: datetime) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """The mechanisms that count as spent by the end, and the entry that opened the ledger."""
    entries = list(parsed(path))
    runs: dict[str, dict[str, Any]] = {}
    newest = MONDAY
    for entry in entries[1:]:
        body, at = entry["body"], datetime.fromisoformat(entry["time"])
        name = body.get("run")
        if entry["kind"] == "reserve":
            runs[name] = {"all": body["mechanisms"], "begun": [], "open": True, "whole": False}
            runs[name]["valid"] = timedelta(seconds=body["valid_seconds"])
        elif entry["kind"] == "torn":
            for one in runs.values():
                one["whole"] |= one["open"] and newest <= one["until"]
        elif entry["kind"] == "intent":
            runs[name]["begun"].append(body["mechanism"])
        elif entry["kind"] in ("close", "refund"):
            runs[name]["open"] = False
        if name is not None:
            runs[name]["until"] = at + runs[name]["valid"]
        newest = at
    counted: list[Mapping[str, Any]] = []
    for one in runs.values():
        whole = one["whole"] or (one["open"] and now <= one["until"])
        counted += one["all"] if whole else one["begun"]
    return counted, entries[0]["body"]


def steps_of(mechanisms: list[Mapping[str, Any]]) -> dict[tuple[float, float], int]:
    """How often each (noise multiplier, sample rate) runs; a rate of 0 is a release of all rows."""
    steps: dict[tuple[float, float], int] = {}
    for one in mechanisms:
        key = (one["noise_multiplier"], one.get("sample_rate", 0.0))
        steps[key] = steps.get(key, 0) + one.get("steps", 1)
    return steps


def recomputed(path: Path, now: datetime) -> tuple[float, float]:
    """Epsilon by PLD, and by RDP at the order of the cap, by dp_accounting alone."""
    mechanisms, opened = charged(path, now)
    steps = steps_of(mechanisms)
    releases = [sigma for (sigma, rate), count in steps.items() for _ in range(count) if not rate]
    pld = pld_privacy_accountant.PLDAccountant(value_discretization_interval=1e-4)
    rdp = RdpAccountant([opened["order"]])
    for rate, sigma in sorted((rate, sigma) for sigma, rate in steps if rate):
        event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma))
        pld.compose(event, steps[sigma, rate])
        rdp.compose(event, steps[sigma, rate])
    together = dp_event.GaussianDpEvent(math.fsum(one**-2 for one in releases) ** -0.5)
    pld.compose(together)
    rdp.compose(together)
    delta = opened["cap_delta"]
    return pld.get_epsilon(delta), rdp.get_epsilon(delta)


FRESH = """
import sys
from datetime import datetime
from pathlib import Path
from privacy.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), lambda: datetime.fromisoformat(sys.argv[2]))
print(ledger.spent().hex(), ledger.used().hex(), ledger.verify().hash)
"""


def fresh_process(path: Path, now: datetime, hash_seed: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", FRESH, str(path), now.isoformat()],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
    ).stdout


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    return live(tmp_path_factory.mktemp("year") / "ledger.jsonl")


def test_everything_that_can_happen_did(year: Year) -> None:
    assert set(year.ends) == {*ENDS, "refused by a limit", "refused for life"}
    assert sum(year.ends.values()) == 104
    kinds = Counter(entry.kind for entry in year.open().entries())
    assert kinds["torn"] == year.ends["torn"]
    assert sum(kinds.values()) > 500


def test_the_year_stays_within_its_cap_by_the_filter_and_by_pld(year: Year) -> None:
    ledger = year.open()
    assert 0.95 < ledger.used() <= 1
    assert ledger.spent() < CAP
    assert ledger.spent() < sum(ledger.spent_by_run().values())


def test_the_year_recomputes_bit_for_bit_from_the_file_alone(year: Year) -> None:
    ledger, now = year.open(), year.now
    spent, at_the_order = recomputed(year.path, now)
    assert spent == ledger.spent()
    assert spent < at_the_order <= min(CAP, 1.1 * spent)


def test_two_processes_come_to_the_identical_numbers(year: Year) -> None:
    told = [fresh_process(year.path, year.now, seed) for seed in ("1", "2")]
    assert told[0] == told[1]
    ledger = Ledger(year.path, lambda: year.now)
    assert told[0].split() == [ledger.spent().hex(), ledger.used().hex(), ledger.head().hash]


def test_no_quarter_passed_its_limit(year: Year) -> None:
    by_quarter: dict[int, list[Any]] = {}
    state = year.open().state()
    for one in state.runs.values():
        if one.purpose == "marketing":
            quarter = by_quarter.setdefault((one.reserved_at.month - 1) // 3, [])
            quarter += one.charged(state.now)
    assert len(by_quarter) == 4
    assert all(0 < epsilon(one, DELTA) <= LIMITS[0].epsilon for one in by_quarter.values())
