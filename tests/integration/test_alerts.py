"""Alerts: raised once, resolved when over, told to a real web server; metrics of a coordinator."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from coordinator.alert_tables import alerts as alerts_table
from coordinator.alert_watch import AlertWatch
from coordinator.alerts import AlertStore, Kind
from coordinator.disclosures import DisclosureStore
from coordinator.evidence import Evidence
from coordinator.member_store import MemberStore
from coordinator.metrics import Facts, render
from coordinator.run_figures import ExchangeTotals, RunFigures
from coordinator.run_store import RunStore
from coordinator.settings import CONFIG_NAME, CoordinatorSettings, load_settings
from coordinator.setup import initialise
from party_client.supernode import free_port
from privacy.disclosure import BudgetTold, Disclosure, StatusTold
from privacy.errors import ConfigError, NotRunningError, RunError, SignatureError
from privacy.hosting.access import Principal
from privacy.hosting.access_log import AccessLog
from privacy.hosting.database import open_engine, utc_now
from privacy.hosting.webhooks import signature
from privacy.identity import SigningKey, read_secret, sign_plan

from .conftest import PLAN
from .control_plane_server import make_coordinator

KEY = bytes(range(32))
HASHES = tuple(hashlib.sha256(bytes([one])).hexdigest() for one in range(4))


@dataclass(frozen=True)
class Seen:
    """A node as the SuperLink lists it."""

    public_key: str
    online: bool
    last_seen: datetime | None = None


@dataclass
class Watched:
    """A coordinator's stores, what its SuperLink says, and the watch over them."""

    settings: CoordinatorSettings
    members: MemberStore
    runs: RunStore
    told: DisclosureStore
    figures: RunFigures
    alerts: AlertStore
    later: timedelta = timedelta(0)
    nodes: list[Seen] = field(default_factory=list)
    down: bool = False
    faults: dict[str, str] = field(default_factory=dict)
    watch: AlertWatch | None = None

    def seen(self) -> list[Seen]:
        if self.down:
            raise NotRunningError("the SuperLink does not answer")
        return self.nodes

    def look(self) -> list[tuple[Kind, str]]:
        """What one look raises."""
        if self.watch is None:
            self.watch = AlertWatch(
                self.settings,
                self.alerts,
                self.runs,
                self.members,
                self.told,
                self.figures,
                self.seen,
                lambda: self.faults,
                lambda: utc_now() + self.later,
            )
        return [(one.kind, one.subject) for one in self.watch.look()]

    def open(self) -> list[tuple[Kind, str]]:
        return [(one.kind, one.subject) for one in self.alerts.open()]

    def enrol(self, party: str) -> None:
        token = self.members.invite(party, timedelta(hours=1)).token
        key = hashlib.sha256(party.encode()).digest()
        self.members.enrol(token, party, key, f"ssh {party}", lambda: None)
        self.nodes.append(Seen(f"ssh {party}", online=True))

    def tell(self, party: str, sequence: int, **sections: Any) -> None:
        empty = dict.fromkeys(
            ("status", "budget", "limits", "approvals", "tags", "models", "egress")
        )
        told = Disclosure(
            format=1, federation="demo", party=party, sequence=sequence, **{**empty, **sections}
        )
        body = told.model_dump_json().encode()
        self.told.keep(told, body, signed_at=sequence, signature=bytes(64))

    def submit(self, run: str) -> None:
        key = SigningKey.load(self.settings.requester_key)
        self.runs.create_run(run, PLAN, key.public, sign_plan(key, run, PLAN))


@pytest.fixture(params=["sqlite", "postgresql"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    home = tmp_path / "c"
    initialise(home, "demo", "data-science", control_port=free_port(), superlink_port=free_port())
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
        config = home / CONFIG_NAME
        config.write_text(config.read_text().replace("sqlite:///coordinator.db", url))
    settings = load_settings(home)
    url = settings.database_url
    made = Watched(
        settings,
        MemberStore(url, read_secret(settings.token_key)),
        RunStore(url),
        DisclosureStore(url),
        RunFigures(url),
        AlertStore(url),
    )
    AccessLog(settings.audit_log).close()
    yield made
    for store in (made.members, made.runs, made.told, made.figures, made.alerts):
        store.close()


def budget(used: float) -> BudgetTold:
    return BudgetTold(epsilon=8.0, delta=1e-6, spent=1.0, used=used, last_run=None, runs_left=None)


def status(position: int, head: str) -> StatusTold:
    return StatusTold(
        version="0.1.0",
        bundle=HASHES[0],
        public_size=6000,
        ledger_position=position,
        ledger_hash=head,
    )


def test_nothing_is_raised_where_nothing_is_wrong(watched: Watched) -> None:
    watched.enrol("bank")
    watched.tell("bank", 1, budget=budget(0.5), status=status(3, HASHES[1]))
    watched.submit("run-1")
    assert watched.look() == []
    assert watched.open() == []


def test_a_low_budget_is_raised_once_and_resolved_when_it_is_raised(watched: Watched) -> None:
    watched.enrol("bank")
    watched.tell("bank", 1, budget=budget(0.93))
    assert watched.look() == [(Kind.BUDGET_LOW, "bank")]
    assert watched.look() == []
    (alert,) = watched.alerts.open()
    assert alert.message.startswith("bank has 7% of its lifetime budget left")
    watched.tell("bank", 2, budget=budget(0.5))
    assert watched.look() == []
    assert watched.open() == []
    watched.tell("bank", 3, budget=budget(1.2))
    assert watched.look() == [(Kind.BUDGET_LOW, "bank")]
    history = watched.alerts.page()
    assert [one.open for one in history] == [True, False]
    assert watched.alerts.page(before=history[0].number) == history[1:]
    assert watched.alerts.page(limit=1) == history[:1]


def test_a_budget_that_is_not_disclosed_raises_nothing(watched: Watched) -> None:
    watched.enrol("bank")
    watched.tell("bank", 1)
    assert watched.look() == []


def test_a_party_is_silent_when_neither_node_nor_word_comes(watched: Watched) -> None:
    watched.enrol("bank")
    watched.later = timedelta(minutes=61)
    assert watched.look() == [], "its node is connected"
    watched.nodes = [Seen("ssh bank", online=False, last_seen=utc_now() + watched.later)]
    assert watched.look() == [], "it was a moment ago"
    watched.nodes = [Seen("ssh bank", online=False, last_seen=utc_now())]
    assert watched.look() == [(Kind.PARTY_SILENT, "bank")]
    watched.down = True
    assert watched.look() == []
    assert watched.open() == [(Kind.PARTY_SILENT, "bank")], "nothing is known while it is down"
    watched.down = False
    watched.members.remove("bank", lambda party: None)
    watched.look()
    assert watched.open() == [], "who has left is not missed"


def test_a_party_that_never_came_is_silent_since_it_enrolled(watched: Watched) -> None:
    watched.enrol("bank")
    watched.nodes.clear()
    assert watched.look() == []
    watched.later = timedelta(minutes=61)
    assert watched.look() == [(Kind.PARTY_SILENT, "bank")]


def test_a_run_without_progress_is_stalled_and_a_paused_one_is_not(watched: Watched) -> None:
    watched.submit("run-1")
    watched.later = timedelta(minutes=121)
    assert watched.look() == [(Kind.RUN_STALLED, "run-1")]
    watched.runs.recorder("run-1").pause(["bank"], utc_now() + timedelta(hours=9))
    watched.look()
    assert watched.open() == []


def test_progress_ends_a_stall(watched: Watched) -> None:
    watched.submit("run-1")
    watched.later = timedelta(minutes=121)
    watched.look()
    watched.later = timedelta(minutes=1)
    watched.look()
    assert watched.open() == []


def test_an_altered_audit_log_is_a_failed_verification(watched: Watched) -> None:
    log = watched.settings.audit_log
    writer = AccessLog(log)
    writer.record(Principal("ann", "admin", "person", "192.0.2.1"), "see runs", allowed=True)
    writer.close()
    whole = log.read_bytes()
    assert watched.look() == []
    log.write_bytes(whole.replace(b"192.0.2.1", b"192.0.2.2"))
    watched.later = timedelta(minutes=59)
    assert watched.look() == [], "it is verified every hour"
    watched.later = timedelta(minutes=61)
    assert watched.look() == [(Kind.VERIFICATION_FAILED, "audit log")]
    log.write_bytes(whole)
    watched.later = timedelta(minutes=122)
    watched.look()
    assert watched.open() == []


def test_a_ledger_that_went_back_is_a_failed_verification(watched: Watched) -> None:
    watched.enrol("bank")
    watched.tell("bank", 1, status=status(9, HASHES[1]))
    assert watched.look() == []
    watched.tell("bank", 2, status=status(4, HASHES[2]))
    assert watched.look() == [(Kind.VERIFICATION_FAILED, "bank")]


def test_a_run_that_ended_by_a_failed_check_is_one_until_another_finished(
    watched: Watched,
) -> None:
    watched.submit("run-1")
    watched.runs.fail("run-1", SignatureError("a reply is not signed by its sender"))
    assert watched.look() == [(Kind.VERIFICATION_FAILED, "run-1")]
    watched.submit("run-2")
    watched.runs.fail("run-2", NotRunningError("no"))
    watched.look()
    assert watched.open() == [(Kind.VERIFICATION_FAILED, "run-1")]
    watched.submit("run-3")
    watched.runs.finish("run-3", {})
    watched.look()
    assert watched.open() == []


def test_a_pack_that_does_not_verify_is_one(watched: Watched) -> None:
    watched.faults["run-9"] = "the pack of run-9 is not what was signed"
    assert watched.look() == [(Kind.VERIFICATION_FAILED, "run-9")]


def test_the_service_looks_at_the_packs_that_it_keeps(tmp_path: Path) -> None:
    with closing(make_coordinator(tmp_path / "c").service) as service:
        runs, settings = service.control.runs, service.settings
        key = SigningKey.load(settings.requester_key)
        runs.create_run("run-1", PLAN, key.public, sign_plan(key, "run-1", PLAN))
        runs.fail("run-1", RunError("over"))
        with closing(Evidence(settings)) as packs:
            packs.export("run-1")
        assert service.operations.look() == []
        (pack,) = (settings.home / "evidence").iterdir()
        pack.write_bytes(pack.read_bytes()[:-1] + b"!")
        (raised,) = service.operations.look()
    assert (raised.kind, raised.subject) == (Kind.VERIFICATION_FAILED, "run-1")


def test_two_who_look_at_once_raise_one_alert(watched: Watched) -> None:
    finding = {(Kind.BUDGET_LOW, "bank"): "low"}
    start = threading.Barrier(4)
    raised: list[int] = []

    def look() -> None:
        store = AlertStore(watched.settings.database_url)
        start.wait()
        raised.append(len(store.observe({Kind.BUDGET_LOW}, finding)))
        store.close()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(raised) == 1
    assert len(watched.alerts.page()) == 1


# The webhook ------------------------------------------------------------------------------------


@dataclass
class Receiver:
    """A system that is told. `answers`: statuses to give, the last one for ever."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [204])
    received: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.received.append(({k.lower(): v for k, v in self.headers.items()}, body))
            status = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/hooks"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def told_to(watched: Watched, url: str) -> Watched:
    secret = watched.settings.keys / "webhook.secret"
    secret.write_text("whsec_" + base64.b64encode(KEY).decode())
    secret.chmod(0o600)
    config = watched.settings.home / CONFIG_NAME
    lines = f'[alerts]\nurl = "{url}"\nsecret = "file:keys/webhook.secret"\n'
    config.write_text(config.read_text().replace("[alerts]\n", lines))
    watched.settings = load_settings(watched.settings.home)
    return watched


def events(receiver: Receiver) -> list[tuple[str, str]]:
    return [(h["webhook-id"], json.loads(body)["type"]) for h, body in receiver.received]


def test_both_events_of_an_alert_are_sent_signed_and_once(
    watched: Watched, receiver: Receiver
) -> None:
    told_to(watched, receiver.url)
    watched.enrol("bank")
    watched.tell("bank", 1, budget=budget(0.95))
    for _ in range(3):
        watched.look()
    (alert,) = watched.alerts.open()
    assert events(receiver) == [(f"alert-{alert.number}-raised", "alert.raised")]
    watched.tell("bank", 2, budget=budget(0.1))
    for _ in range(2):
        watched.look()
    assert events(receiver)[1:] == [(f"alert-{alert.number}-resolved", "alert.resolved")]
    for headers, body in receiver.received:
        sent = signature(KEY, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
        assert hmac.compare_digest(sent, headers["webhook-signature"])
        data = json.loads(body)["data"]
        assert (data["federation"], data["kind"], data["subject"]) == (
            "demo",
            "budget-low",
            "bank",
        )


def test_an_event_that_did_not_arrive_is_sent_again_and_in_order(
    watched: Watched, receiver: Receiver
) -> None:
    told_to(watched, receiver.url)
    receiver.answers = [500, 204]
    watched.enrol("bank")
    watched.tell("bank", 1, budget=budget(0.95))
    watched.look()
    watched.tell("bank", 2, budget=budget(0.1))
    watched.look()
    assert len(receiver.received) == 1 or events(receiver)[1][1] == "alert.raised"
    engine = open_engine(watched.settings.database_url)
    with engine.begin() as connection:
        connection.execute(update(alerts_table).values(next_attempt_at=None))
    engine.dispose()
    for _ in range(2):
        watched.look()
    assert [kind for _, kind in events(receiver)][-2:] == ["alert.raised", "alert.resolved"]


def test_a_webhook_elsewhere_is_https(watched: Watched) -> None:
    told_to(watched, "http://192.0.2.7/hooks")
    watched.enrol("bank")
    watched.tell("bank", 1, budget=budget(0.95))
    with pytest.raises(ConfigError, match=r"alerts\.url"):
        watched.look()
    assert watched.open() == [(Kind.BUDGET_LOW, "bank")], "it is raised all the same"


# Figures and metrics ----------------------------------------------------------------------------


def exchange(watched: Watched, run: str, seconds: float) -> None:
    watched.runs.recorder(run).exchange("round", 1, seconds, {"bank": 10}, {"bank": 3})


def test_totals_of_exchanges_are_read_on_from_the_last_look(watched: Watched) -> None:
    watched.enrol("bank")
    watched.submit("run-1")
    assert watched.figures.exchanges() == ExchangeTotals({}, {}, {}, {})
    exchange(watched, "run-1", 2.0)
    exchange(watched, "run-1", 3.0)
    first = watched.figures.exchanges()
    assert (first.count, first.seconds) == ({"round": 2}, {"round": 5.0})
    exchange(watched, "run-1", 1.0)
    anew = RunFigures(watched.settings.database_url)
    assert anew.exchanges() == watched.figures.exchanges()
    anew.close()
    assert watched.figures.exchanges().bytes_up == {"bank": 30}
    assert watched.figures.by_state() == {"created": 1} or watched.figures.by_state() == {
        "running": 1
    }


NAMES = frozenset(
    f"fedtags_coordinator_{name}"
    for name in (
        *("up", "ready", "runs", "run_progress_age_seconds", "party_up", "alerts_open"),
        *("party_budget_left_ratio", "party_disclosure_age_seconds"),
        *("exchange_seconds_count", "exchange_seconds_sum", "received_bytes_total"),
        *("sent_bytes_total", "certificate_left_seconds"),
    )
)


def a_reading() -> Facts:
    now = utc_now()
    return Facts(
        now=now,
        runs={"finished": 3},
        exchanges=ExchangeTotals({"round": 2}, {"round": 5.0}, {"bank": 30}, {"bank": 9}),
        online={"bank": True, "shop": False},
        budget_left={"bank": 0.25},
        told_at={"bank": now - timedelta(seconds=90)},
        alerts=dict.fromkeys(Kind, 1),
        progress_at=now - timedelta(seconds=5),
        certificate_expires=now + timedelta(days=1),
        ready=True,
    )


def samples(facts: Facts) -> dict[tuple[str, ...], float]:
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(render(facts).decode())
        for one in family.samples
    }


def test_metrics_say_how_the_coordinator_stands() -> None:
    found = samples(a_reading())
    assert {name for name, *_ in found} == NAMES
    assert found["fedtags_coordinator_runs", "finished"] == 3
    assert found["fedtags_coordinator_runs", "running"] == 0
    assert found["fedtags_coordinator_party_up", "shop"] == 0
    assert found["fedtags_coordinator_party_budget_left_ratio", "bank"] == 0.25
    assert found["fedtags_coordinator_party_disclosure_age_seconds", "bank"] == 90
    assert found["fedtags_coordinator_exchange_seconds_sum", "round"] == 5
    assert found["fedtags_coordinator_alerts_open", "run-stalled"] == 1


DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "fedtags-coordinator.json"


def test_every_metric_that_the_grafana_dashboard_asks_for_exists() -> None:
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(queries) >= 8
    used = {name for query in queries for name in re.findall(r"fedtags_\w+", query)}
    assert used <= NAMES
    assert used >= NAMES - {"fedtags_coordinator_up"}, "every metric is shown"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
