"""What parties tell, as the coordinator takes it in: over TLS, on SQLite and on PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from coordinator import disclosure_tables, disclosures
from coordinator.disclosures import (
    LEDGER_BACK,
    LEDGER_FORK,
    DisclosureStore,
    doubts,
    models,
    receive,
)
from party_client import egress
from party_client.disclosure import build, send, sequence_now
from party_client.federation import load_federation, save_federation
from party_client.policy import load_policy
from party_client.settings import PartySettings, load_settings
from party_client.setup import initialise
from party_client.socket_server import request
from privacy.disclosure import (
    MAX_DISCLOSURE_BYTES,
    PATH,
    SECTIONS,
    BudgetTold,
    Disclosure,
    ModelTold,
    StatusTold,
    read_disclosure,
)
from privacy.errors import FedtagsError, NotRunningError, ProtocolError, SignatureError
from privacy.hosting import web
from privacy.hosting.certificates import create_authority, create_server_certificate
from privacy.hosting.database import open_engine
from privacy.hosting.signed_requests import SignedRequestAuth, verify_request
from privacy.hosting.supervision import child_environment
from privacy.identity import SigningKey
from privacy.ledger import Ledger
from privacy.messages import REFUSAL
from tests.disclosures import FEDERATION, everything_told, pin_federation, set_policy
from tests.ledgers import reserve

from .conftest import LocalRun

HASHES = tuple(hashlib.sha256(bytes([one])).hexdigest() for one in range(8))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        found: str = request.getfixturevalue("postgresql_url")
        return found
    return f"sqlite:///{tmp_path / 'coordinator.db'}"


@pytest.fixture
def store(url: str) -> Iterator[DisclosureStore]:
    opened = DisclosureStore(url)
    yield opened
    opened.close()


@dataclass
class Parties:
    """Two enrolled parties and a store that hears them, without a network."""

    store: DisclosureStore
    keys: dict[str, SigningKey]

    def key_of(self, name: str) -> bytes | None:
        key = self.keys.get(name)
        return None if key is None else key.public

    def signed(self, signer: str, key: SigningKey, body: bytes) -> httpx.Request:
        made = httpx.Request("POST", f"https://coordinator{PATH}", content=body)
        return next(SignedRequestAuth(signer, key).auth_flow(made))

    def hear(self, request: httpx.Request) -> Disclosure:
        return receive(
            self.store,
            federation=FEDERATION,
            key_of=self.key_of,
            method=request.method,
            path=request.url.path,
            headers=request.headers,
            body=request.content,
        )

    def tell(self, made: Disclosure) -> Disclosure:
        return self.hear(self.signed(made.party, self.keys[made.party], made.encoded()))


@pytest.fixture
def parties(store: DisclosureStore) -> Parties:
    return Parties(store, {name: SigningKey.generate() for name in ("bank", "shop")})


_newest = 0


def told(
    party: str = "bank",
    *,
    ledger: tuple[int, str] | None = None,
    budget: BudgetTold | None = None,
    models: tuple[ModelTold, ...] | None = None,
    sequence: int | None = None,
    federation: str = FEDERATION,
) -> Disclosure:
    global _newest
    _newest = sequence_now(_newest)
    status = None
    if ledger is not None:
        status = StatusTold(
            version="0.1.0",
            bundle=HASHES[0],
            public_size=700,
            ledger_position=ledger[0],
            ledger_hash=ledger[1],
        )
    return Disclosure(
        format=1,
        federation=federation,
        party=party,
        sequence=_newest if sequence is None else sequence,
        status=status,
        budget=budget,
        limits=None,
        approvals=None,
        tags=None,
        models=models,
        egress=None,
    )


def spending(spent: float) -> BudgetTold:
    return BudgetTold(
        epsilon=8.0, delta=1e-5, spent=spent, used=spent / 8, last_run=None, runs_left=None
    )


# Who may tell what -------------------------------------------------------------------------------


def test_the_newest_that_a_party_told_is_what_is_read(parties: Parties) -> None:
    assert parties.store.newest() == {}
    parties.tell(told(ledger=(3, HASHES[3])))
    parties.tell(told("shop"))
    newest = told(ledger=(5, HASHES[5]), budget=spending(1.0))
    parties.tell(newest)
    found = parties.store.newest()
    assert list(found) == ["bank", "shop"]
    assert found["bank"].disclosure == newest
    assert parties.store.of("bank") == found["bank"]
    assert parties.store.of("airline") is None
    assert parties.store.newest() == found
    assert parties.store.contradictions() == ()


def test_a_replayed_disclosure_is_refused_and_changes_nothing(parties: Parties) -> None:
    request = parties.signed("bank", parties.keys["bank"], told(budget=spending(2.0)).encoded())
    parties.hear(request)
    before = parties.store.of("bank")
    with pytest.raises(ProtocolError, match="not newer"):
        parties.hear(request)
    parties.tell(told(budget=spending(3.0)))
    with pytest.raises(ProtocolError, match="not newer"):
        parties.hear(request)
    assert parties.store.of("bank") != before
    assert [one.spent for one in parties.store.budget_over_time("bank")] == [2.0, 3.0]


def test_an_older_disclosure_that_arrives_late_is_refused(parties: Parties) -> None:
    late, newest = told(), told()
    parties.tell(newest)
    with pytest.raises(ProtocolError, match="not newer"):
        parties.tell(late)


@pytest.mark.parametrize("shift", [-200_000, 200_000, 2**53 - 1_900_000_000_000])
def test_a_sequence_that_is_not_the_time_of_sending_is_refused(
    parties: Parties, shift: int
) -> None:
    with pytest.raises(ProtocolError, match="sequence"):
        parties.tell(told(sequence=sequence_now() + shift))
    assert parties.store.newest() == {}


def test_nobody_tells_in_another_partys_name(parties: Parties) -> None:
    body = told("shop").encoded()
    with pytest.raises(ProtocolError, match="another party"):
        parties.hear(parties.signed("bank", parties.keys["bank"], body))
    with pytest.raises(SignatureError):
        parties.hear(parties.signed("shop", parties.keys["bank"], body))
    assert parties.store.newest() == {}


def test_a_disclosure_for_another_federation_is_refused(parties: Parties) -> None:
    with pytest.raises(ProtocolError, match="another federation"):
        parties.tell(told(federation="elsewhere"))


def test_a_party_that_is_not_enrolled_any_more_tells_nothing(parties: Parties) -> None:
    parties.tell(told())
    key = parties.keys.pop("bank")
    with pytest.raises(SignatureError, match="enrolled"):
        parties.hear(parties.signed("bank", key, told().encoded()))


def _changed_body(request: httpx.Request) -> httpx.Request:
    return httpx.Request(
        "POST", request.url, headers=request.headers, content=request.content + b" "
    )


def _old(request: httpx.Request) -> httpx.Request:
    request.headers["fedtags-time"] = str(int(time.time()) - 1000)
    return request


def _unsigned(request: httpx.Request) -> httpx.Request:
    del request.headers["fedtags-signature"]
    return request


def _elsewhere(request: httpx.Request) -> httpx.Request:
    return httpx.Request(
        "POST", "https://coordinator/v1/members", headers=request.headers, content=request.content
    )


@pytest.mark.parametrize("change", [_changed_body, _old, _unsigned, _elsewhere])
def test_what_the_party_did_not_sign_just_so_is_refused(
    parties: Parties, change: Callable[[httpx.Request], httpx.Request]
) -> None:
    request = parties.signed("bank", parties.keys["bank"], told().encoded())
    with pytest.raises(SignatureError):
        parties.hear(change(request))
    assert parties.store.newest() == {}


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 50_000, b" " * (MAX_DISCLOSURE_BYTES + 1)])
def test_a_signed_body_that_is_no_disclosure_is_refused(parties: Parties, body: bytes) -> None:
    with pytest.raises(ProtocolError):
        parties.hear(parties.signed("bank", parties.keys["bank"], body))
    assert parties.store.newest() == {}


def test_the_largest_disclosure_is_taken(parties: Parties) -> None:
    largest = everything_told("bank", sequence_now()).model_copy(update={"federation": FEDERATION})
    parties.tell(largest)
    assert parties.store.newest()["bank"].disclosure == largest


def test_of_many_at_the_same_moment_the_newest_stays(parties: Parties) -> None:
    made = [told(budget=spending(float(one))) for one in range(12)]

    def tell(one: Disclosure) -> bool:
        try:
            parties.tell(one)
        except ProtocolError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(tell, made[::-1]))
    assert any(taken)
    newest = parties.store.of("bank")
    assert newest is not None
    assert newest.disclosure == made[-1]


# A party that lies about its state ---------------------------------------------------------------


def test_a_ledger_that_goes_back_is_flagged_with_both_signed_statements(parties: Parties) -> None:
    parties.tell(told(ledger=(7, HASHES[7])))
    parties.tell(told(ledger=(4, HASHES[4])))
    (found,) = parties.store.contradictions()
    assert (found.party, found.kind, found.stands) == ("bank", LEDGER_BACK, True)
    assert "ends at entry 4, and before at entry 7" in found.what
    for text, position in ((found.earlier, 7), (found.later, 4)):
        proof = json.loads(text)
        headers = {
            "fedtags-party": "bank",
            "fedtags-time": str(proof["signed_at"]),
            "fedtags-signature": proof["signature"],
        }
        body = proof["body"].encode()
        verify_request(parties.keys["bank"].public, "POST", PATH, headers, body)
        status = read_disclosure(body).status
        assert status is not None
        assert status.ledger_position == position
    assert doubts(parties.store.newest(), parties.store.contradictions()) == {"bank": (found.what,)}


def test_a_ledger_that_stays_behind_is_flagged_once_and_stands_until_it_has_caught_up(
    parties: Parties,
) -> None:
    parties.tell(told(ledger=(6, HASHES[6])))
    for position in (2, 3, 4):
        parties.tell(told(ledger=(position, HASHES[position])))
        assert [one.stands for one in parties.store.contradictions("bank")] == [True]
    parties.tell(told(ledger=(7, HASHES[7])))
    assert [one.stands for one in parties.store.contradictions("bank")] == [False]
    assert doubts(parties.store.newest(), parties.store.contradictions()) == {}
    parties.tell(told(ledger=(5, HASHES[5])))
    assert [one.stands for one in parties.store.contradictions("bank")] == [True, True]
    assert parties.store.contradictions("shop") == ()


def test_two_entries_at_one_place_of_a_ledger_are_a_fork(parties: Parties) -> None:
    parties.tell(told(ledger=(6, HASHES[6])))
    parties.tell(told(ledger=(6, HASHES[6])))
    assert parties.store.contradictions() == ()
    parties.tell(told(ledger=(6, HASHES[1])))
    (found,) = parties.store.contradictions()
    assert (found.kind, found.stands) == (LEDGER_FORK, True)


def test_a_party_cannot_hide_a_step_back_by_keeping_its_status_to_itself(
    parties: Parties,
) -> None:
    parties.tell(told(ledger=(6, HASHES[6])))
    parties.tell(told())
    parties.tell(told(ledger=(5, HASHES[5])))
    assert [one.kind for one in parties.store.contradictions()] == [LEDGER_BACK]


def test_contradictions_of_one_party_do_not_fill_the_database(
    parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disclosures, "MAX_CONTRADICTIONS", 3)
    for number in range(8):
        parties.tell(told(ledger=(10 * number + 9, HASHES[1])))
        parties.tell(told(ledger=(10 * number, HASHES[2])))
    assert len(parties.store.contradictions("bank")) == 3


def test_parties_that_name_different_models_of_one_run_are_doubted(parties: Parties) -> None:
    for party, digest in (("bank", HASHES[1]), ("shop", HASHES[1])):
        held = (ModelTold(run="run-1", plan=HASHES[0], model=digest),)
        parties.tell(told(party, models=held))
    (agreed,) = models(parties.store.newest())
    assert agreed.agreed
    assert agreed.holders == {HASHES[1]: ("bank", "shop")}
    parties.tell(told("shop", models=(ModelTold(run="run-1", plan=HASHES[0], model=HASHES[2]),)))
    (differing,) = models(parties.store.newest())
    assert not differing.agreed
    assert set(doubts(parties.store.newest(), ())) == {"bank", "shop"}


def test_the_budget_over_time_has_a_point_at_each_change_and_an_end(
    parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disclosures, "MAX_BUDGETS", 4)
    for spent in (0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0):
        parties.tell(told(budget=spending(spent)))
    parties.tell(told())
    assert [one.spent for one in parties.store.budget_over_time("bank")] == [2.0, 3.0, 4.0, 5.0]
    assert parties.store.budget_over_time("shop") == ()


def test_what_was_told_outlives_the_process(parties: Parties, url: str) -> None:
    parties.tell(told(ledger=(6, HASHES[6]), budget=spending(1.0)))
    again = DisclosureStore(url)
    try:
        assert again.newest() == parties.store.newest()
        parties.tell(told(ledger=(7, HASHES[7])))
        assert again.newest() == parties.store.newest()
    finally:
        again.close()


def test_the_migration_makes_exactly_these_tables(store: DisclosureStore, url: str) -> None:
    names = {"disclosures", "disclosed_budgets", "contradictions"}
    engine = open_engine(url)
    with engine.connect() as connection:
        found = compare_metadata(
            MigrationContext.configure(
                connection,
                opts={
                    "include_name": lambda name, kind, _parents: kind != "table" or name in names
                },
            ),
            disclosure_tables.metadata,
        )
    engine.dispose()
    assert [one for one in found if getattr(one[1], "name", "") in names] == []


# Over the network --------------------------------------------------------------------------------


@contextmanager
def coordinator(
    folder: Path, store: DisclosureStore, keys: dict[str, bytes], federation: str = FEDERATION
) -> Iterator[str]:
    """A service over TLS that has this one route; yields its address."""
    app = FastAPI()
    web.install(app)

    @app.post(PATH)
    async def take(request: Request) -> dict[str, int]:
        made = await run_in_threadpool(
            receive,
            store,
            federation=federation,
            key_of=keys.get,
            method=request.method,
            path=request.url.path,
            headers=request.headers,
            body=await request.body(),
        )
        return {"sequence": made.sequence}

    ca, ca_key = folder / "ca.crt", folder / "ca.key"
    certificate, key = folder / "server.crt", folder / "server.key"
    create_authority(ca, ca_key, FEDERATION)
    create_server_certificate(certificate, key, ca, ca_key)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture
def bank(tmp_path: Path) -> PartySettings:
    return initialise(tmp_path / "bank", "bank", 700)


def test_a_node_tells_over_tls_what_its_egress_log_says_it_told(
    tmp_path: Path, bank: PartySettings
) -> None:
    store = DisclosureStore(f"sqlite:///{tmp_path / 'coordinator.db'}")
    own = SigningKey.load(bank.identity_key)
    with coordinator(tmp_path, store, {"bank": own.public}) as address:
        bank.ca_certificate.write_bytes((tmp_path / "ca.crt").read_bytes())
        pin_federation(bank, address)
        set_policy(bank, SECTIONS)
        ledger = Ledger(bank.ledger)
        reserve(ledger, "run-1")
        made = build(bank, load_policy(bank.policy), ledger, sequence=sequence_now())
        send(bank, made)
        assert store.newest()["bank"].disclosure == made
        (line,) = egress.everything(bank)
        row = store.of("bank")
        assert row is not None
        with pytest.raises(ProtocolError, match="not newer"):
            send(bank, made)
    body = json.dumps(made.model_dump(mode="json"), separators=(",", ":"), ensure_ascii=False)
    assert line.kind == egress.DISCLOSURE
    assert line.sha256 == hashlib.sha256(body.encode()).hexdigest()
    with pytest.raises(NotRunningError):
        send(bank, made)
    store.close()


def test_another_authority_than_the_pinned_one_hears_nothing(
    tmp_path: Path, bank: PartySettings
) -> None:
    store = DisclosureStore(f"sqlite:///{tmp_path / 'coordinator.db'}")
    own = SigningKey.load(bank.identity_key)
    create_authority(bank.ca_certificate, bank.keys / "other.key", "other")
    with coordinator(tmp_path, store, {"bank": own.public}) as address:
        pin_federation(bank, address)
        made = build(bank, load_policy(bank.policy), Ledger(bank.ledger), sequence=sequence_now())
        with pytest.raises(FedtagsError, match="pinned"):
            send(bank, made)
    assert store.newest() == {}
    store.close()


def test_the_running_service_tells_at_its_start_and_serves_on_when_nobody_listens(
    tmp_path: Path, local: LocalRun
) -> None:
    settings = load_settings(local.federation.homes["bank"])
    pinned = load_federation(settings.home)
    store = DisclosureStore(f"sqlite:///{tmp_path / 'coordinator.db'}")
    keys = dict(local.federation.members)
    with coordinator(tmp_path, store, keys, pinned.federation) as address:
        settings.ca_certificate.write_bytes((tmp_path / "ca.crt").read_bytes())
        there = pinned.coordinator.model_copy(update={"url": address})
        save_federation(settings.home, pinned.model_copy(update={"coordinator": there}))
        set_policy(settings, SECTIONS)
        service = subprocess.Popen(
            [sys.executable, "-m", "party_client.service", "--home", str(settings.home)],
            env=child_environment(),
            cwd=settings.home,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: "bank" in store.newest(), service)
        except BaseException:
            service.kill()
            raise
    first = store.newest()["bank"].disclosure
    assert first.told == SECTIONS
    reserve(Ledger(settings.ledger), "run-1")  # to be told, but nobody listens now
    until(lambda: egress.count(settings) > 1, service)
    assert request(settings.socket, b"who is there", 60) == REFUSAL
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0
    assert [one.kind for one in egress.everything(settings)][:2] == [egress.DISCLOSURE] * 2
    assert store.newest()["bank"].disclosure == first
    store.close()


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 150
    while not holds():
        assert process.poll() is None, "the service ended"
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.1)


# After a run -------------------------------------------------------------------------------------


def test_after_a_run_every_party_tells_the_same_model_and_its_own_spend(local: LocalRun) -> None:
    local.run()
    made = {}
    for party, home in local.federation.homes.items():
        settings = load_settings(home)
        set_policy(settings, SECTIONS)
        ledger = Ledger(settings.ledger)
        one = build(settings, load_policy(settings.policy), ledger, sequence=1)
        assert one.told == SECTIONS
        assert one.budget is not None
        assert one.budget.spent == ledger.spent() > 0
        assert one.budget.last_run == "run-1"
        assert one.egress is not None
        lines = [line for line in egress.everything(settings) if line.run == "run-1"]
        assert [(sent.run, sent.messages, sent.bytes) for sent in one.egress.runs] == [
            ("run-1", len(lines), sum(line.bytes for line in lines))
        ]
        made[party] = one
    reports = {
        json.loads(path.read_text())["model_digest"]
        for home in local.federation.homes.values()
        for path in home.glob("reports/*.json")
    }
    held = {tuple(one.model for one in each.models or ()) for each in made.values()}
    assert held == {tuple(reports)}
    assert len(reports) == 1


def test_what_is_told_does_not_depend_on_the_customers(local: LocalRun) -> None:
    settings = load_settings(local.federation.homes["bank"])
    set_policy(settings, [one for one in SECTIONS if one != "models"])
    local.run()
    ledger = Ledger(settings.ledger)
    policy = load_policy(settings.policy)
    before = build(settings, policy, ledger, sequence=1)
    local.close()
    local.services.clear()
    for path in (*settings.home.rglob("*.parquet"), *settings.home.rglob("*.csv")):
        path.unlink()
    for path in (*settings.home.glob("profile.db*"), *settings.reports.glob("*")):
        path.unlink()
    assert build(settings, policy, ledger, sequence=1) == before
