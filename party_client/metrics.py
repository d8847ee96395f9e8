"""What this node tells a monitoring system: Prometheus metrics, and readiness.

Nothing here is a value of a row, names a customer or counts customers, rows or tags: a scrape is
often open to more people than the console is. Read anew at every scrape; no state is kept.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from party_client import egress
from party_client.approvals import waiting
from party_client.egress import REFUSED, EgressEntry
from party_client.federation import FEDERATION_NAME, load_federation
from party_client.ledger_words import run_status
from party_client.processes import child_pid, service_answers
from party_client.quality import REPORT_FILE, load_report
from party_client.settings import PartySettings
from privacy.errors import FedtagsError
from privacy.ledger import Ledger
from privacy.ledger_state import LedgerState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(settings: PartySettings) -> bytes:
    """All metrics in Prometheus' text format (CONTENT_TYPE). What cannot be read is left out, and
    `fedtags_party_file_sound` says which."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Party(settings))
    return generate_latest(registry)


def ready(settings: PartySettings) -> list[str]:
    """What is missing before this node can take part in a run, each in words; empty: nothing."""
    return missing(settings, sound_files(settings))


def sound_files(settings: PartySettings) -> dict[str, bool]:
    """Whether the ledger and the egress log are whole: every byte of both is verified."""
    return _sound(_ledger_state(settings), _egress(settings))


class _Party(Collector):
    def __init__(self, settings: PartySettings) -> None:
        self._settings = settings

    def collect(self) -> Iterable[Metric]:
        """One reading of everything."""
        settings = self._settings
        state, messages = _ledger_state(settings), _egress(settings)
        files = _sound(state, messages)
        yield _gauge("up", "Whether this page was made.", 1)
        up = service_answers(settings.socket)
        yield _gauge("service_up", "Whether the party service listens.", up)
        supernode = _supernode_up(settings)
        if supernode is not None:
            yield _gauge("supernode_up", "Whether the SuperNode runs.", supernode)
        yield _gauge("ready", "Whether nothing is missing for a run.", not missing(settings, files))
        sound = GaugeMetricFamily(
            "fedtags_party_file_sound", "Whether a hash-chained file is whole.", labels=["file"]
        )
        for name, whole in files.items():
            sound.add_metric([name], float(whole))
        yield sound
        if state is not None:
            yield from _of_ledger(state)
        if messages is not None:
            yield from _of_messages(messages)
        yield from _of_plans(settings)
        yield from _of_quality(settings)


def _of_ledger(state: LedgerState) -> Iterator[Metric]:
    runs = GaugeMetricFamily("fedtags_party_runs", "Runs in the ledger.", labels=["state"])
    for name, count in Counter(run_status(one, state.now) for one in state.runs.values()).items():
        runs.add_metric([name], count)
    yield runs
    yield _gauge("budget_epsilon", "The lifetime budget.", state.cap_epsilon)
    used = state.cap.used(state.charged())
    yield _gauge("budget_used_ratio", "Share of the lifetime budget that is charged.", used)


def _of_messages(messages: tuple[EgressEntry, ...]) -> Iterator[Metric]:
    sent = CounterMetricFamily(
        "fedtags_party_messages", "Messages that left, refusals not counted.", labels=["kind"]
    )
    kinds = Counter(one.kind for one in messages)
    refused = kinds.pop(REFUSED, 0)
    for name, count in kinds.items():
        sent.add_metric([name], count)
    yield sent
    yield _counter("refused_messages", "Messages that got the constant refusal.", refused)
    yield _counter("sent_bytes", "Bytes that left.", sum(one.bytes for one in messages))


def _of_plans(settings: PartySettings) -> Iterator[Metric]:
    try:
        count = len(waiting(settings))
    except FedtagsError:
        return
    yield _gauge("waiting_plans", "Plans that wait for a person's decision.", count)


def _of_quality(settings: PartySettings) -> Iterator[Metric]:
    try:
        report = load_report(settings.quality / REPORT_FILE)
    except FedtagsError:
        return
    if report is None:
        return
    age = time.time() - report.checked_at.timestamp()
    yield _gauge("quality_check_age_seconds", "Since the source was checked last.", age)
    # Two digits: more of them would give the exact number of rows away.
    share = math.floor(100 * report.usable_share) / 100
    yield _gauge("quality_usable_ratio", "Share of the source's rows that are usable.", share)


def _sound(state: LedgerState | None, messages: tuple[EgressEntry, ...] | None) -> dict[str, bool]:
    return {"ledger": state is not None, "egress": messages is not None}


def missing(settings: PartySettings, files: Mapping[str, bool]) -> list[str]:
    """The same as `ready`, of `files` as `sound_files` found them."""
    found = []
    if not (settings.home / FEDERATION_NAME).exists():
        found.append("no federation joined: fedtags-party join INVITE")
    else:
        try:
            if len(load_federation(settings.home).confirmed) < 2:
                found.append("no other member confirmed: fedtags-party join")
        except FedtagsError as error:
            found.append(str(error))
    if not service_answers(settings.socket):
        found.append("the party service is down: fedtags-party start")
    if _supernode_up(settings) is False:
        found.append("the SuperNode is down: fedtags-party start")
    for name, sound in files.items():
        if not sound:
            found.append(f"the {name} is not what was written: fedtags-party {name} verify")
    return found


def _ledger_state(settings: PartySettings) -> LedgerState | None:
    try:
        return Ledger(settings.ledger).state()
    except FedtagsError:
        return None


def _egress(settings: PartySettings) -> tuple[EgressEntry, ...] | None:
    try:
        return egress.everything(settings)
    except FedtagsError:
        return None


def _supernode_up(settings: PartySettings) -> bool | None:
    """None where it runs under a user of its own, whose processes are not ours to look at."""
    if settings.isolation.node_user is not None:
        return None
    return child_pid(settings.home, "supernode") is not None


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"fedtags_party_{name}", text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"fedtags_party_{name}", text, value=float(value))
