"""What the coordinator tells a monitoring system, in Prometheus' text format.

Runs, nodes, sizes and times of messages, open alerts, and of each party's budget what that party
discloses. No figure that a run released is in it: those are for people who may see the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from coordinator.alerts import Kind
from coordinator.run_figures import ExchangeTotals
from coordinator.run_store import ACTIVE

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = (*ACTIVE, "finished", "failed", "stopped")


@dataclass(frozen=True)
class Facts:
    """One reading. None: it could not be read.

    `runs`: by state. `online`: by enrolled party, whether its SuperNode is connected.
    `budget_left`: share of the lifetime budget by party, as disclosed at `told_at`. `progress_at`:
    of the active run, if there is one. `ready`: whether nothing keeps it from running a plan.
    """

    now: datetime
    runs: Mapping[str, int] | None
    exchanges: ExchangeTotals | None
    online: Mapping[str, bool] | None
    budget_left: Mapping[str, float]
    told_at: Mapping[str, datetime]
    alerts: Mapping[Kind, int] | None
    progress_at: datetime | None
    certificate_expires: datetime | None
    ready: bool


def render(facts: Facts) -> bytes:
    """All metrics (CONTENT_TYPE). What could not be read is left out."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Coordinator(facts))
    return generate_latest(registry)


class _Coordinator(Collector):
    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def collect(self) -> Iterable[Metric]:
        """Everything of one reading."""
        facts = self._facts
        yield _gauge("up", "Whether this page was made.", 1)
        yield _gauge("ready", "Whether nothing keeps it from running a plan.", facts.ready)
        if facts.runs is not None:
            counted = {**dict.fromkeys(STATES, 0), **facts.runs}
            yield _by("runs", "Runs by state.", "state", counted)
        if facts.progress_at is not None:
            age = (facts.now - facts.progress_at).total_seconds()
            yield _gauge("run_progress_age_seconds", "Since the active run's last progress.", age)
        yield from _of_parties(facts)
        if facts.exchanges is not None:
            yield from _of_exchanges(facts.exchanges)
        if facts.alerts is not None:
            kinds = {kind.value: count for kind, count in facts.alerts.items()}
            yield _by("alerts_open", "Open alerts by kind.", "kind", kinds)
        if facts.certificate_expires is not None:
            left = (facts.certificate_expires - facts.now).total_seconds()
            yield _gauge("certificate_left_seconds", "Until the certificate expires.", left)


def _of_parties(facts: Facts) -> Iterator[Metric]:
    if facts.online is not None:
        yield _by("party_up", "Whether a party's node is connected.", "party", facts.online)
    yield _by(
        "party_budget_left_ratio",
        "Share of the lifetime budget that is left, as the party discloses it.",
        "party",
        facts.budget_left,
    )
    ages = {party: (facts.now - at).total_seconds() for party, at in facts.told_at.items()}
    yield _by("party_disclosure_age_seconds", "Since the party's last word.", "party", ages)


def _of_exchanges(totals: ExchangeTotals) -> Iterator[Metric]:
    seconds = SummaryMetricFamily(
        "fedtags_coordinator_exchange_seconds",
        "Exchanges with the parties by phase: how many, and their seconds.",
        labels=["phase"],
    )
    for phase, count in sorted(totals.count.items()):
        seconds.add_metric([phase], count_value=count, sum_value=totals.seconds[phase])
    yield seconds
    for name, text, found in (
        ("received_bytes", "Frames' bytes from a party.", totals.bytes_up),
        ("sent_bytes", "Frames' bytes to a party.", totals.bytes_down),
    ):
        family = CounterMetricFamily(f"fedtags_coordinator_{name}", text, labels=["party"])
        for party, count in sorted(found.items()):
            family.add_metric([party], count)
        yield family


def _by(name: str, text: str, label: str, found: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"fedtags_coordinator_{name}", text, labels=[label])
    for one, value in sorted(found.items()):
        family.add_metric([str(one)], float(value))
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"fedtags_coordinator_{name}", text, value=float(value))
