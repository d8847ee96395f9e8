"""The typed client against a served control plane: runs as they happen, pages, what is repeated."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator import following
from coordinator.cli import app
from coordinator.client import CoordinatorClient
from coordinator.desk_views import ExchangeView, MembershipView, RunView
from coordinator.live import parse_position
from privacy.errors import NotFound, NotRunningError, NotSignedIn, RunError, RunStopped
from privacy.identity import SigningKey
from tests.integration.control_plane_server import PLAN, served
from tests.integration.coordinator_asking import Asked, asked, make_template


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("live")
    with (
        asked(make_template(folder / "template"), folder / "coordinator") as opened,
        served(opened.coordinator),
    ):
        opened.enrol("bank", "retailer", "shop")
        yield opened


@pytest.fixture
def client(api: Asked) -> Iterator[CoordinatorClient]:
    with api.coordinator.client() as opened:
        yield opened


@pytest.fixture
def started(api: Asked, client: CoordinatorClient) -> Iterator[str]:
    """A run that was submitted; whatever happened to it, it has ended afterwards."""
    run_id = f"run-{time.time_ns():x}"
    client.submit(run_id, PLAN, SigningKey.load(api.coordinator.settings.requester_key))
    yield run_id
    api.coordinator.control.runs.fail(run_id, RunStopped("the test has ended"))


def test_a_run_is_followed_from_its_beginning_to_its_end(
    api: Asked, client: CoordinatorClient, started: str
) -> None:
    recorder = api.coordinator.control.runs.recorder(started)
    found: list[following.Happened] = []
    both = threading.Thread(target=lambda: found.extend(client.follow(started)), daemon=True)
    both.start()
    recorder.phase("round", 1, 6)
    recorder.exchange("round", 1, 0.5, {"bank": 7, "shop": 9}, {"bank": 1})
    recorder.membership("shop", "left")
    recorder.metric("auc", 0.5)
    _until(lambda: any(one.kind == "metric" for one in found))
    api.coordinator.control.runs.finish(started, {"parties": ["bank"]})
    both.join(timeout=30)
    kinds = [one.kind for one in found]
    assert kinds[-1] == "end"
    exchange = next(one.data for one in found if isinstance(one.data, ExchangeView))
    assert (exchange.round, exchange.bytes_up) == (1, {"bank": 7, "shop": 9})
    left = next(one.data for one in found if isinstance(one.data, MembershipView))
    assert (left.party, left.event) == ("shop", "left")
    last = found[-1].data
    assert isinstance(last, RunView)
    assert (last.state, last.active, last.metrics) == ("finished", False, {"auc": 0.5})
    assert [kinds.count(one) for one in ("exchange", "metric", "membership")] == [1, 1, 1]


def test_one_who_comes_back_misses_nothing_and_gets_nothing_twice(
    api: Asked, client: CoordinatorClient, started: str
) -> None:
    recorder = api.coordinator.control.runs.recorder(started)
    recorder.phase("round", 1, 6)
    recorder.exchange("round", 1, 0.5, {"bank": 7}, {})
    first = client.follow(started)
    seen = next(one for one in first if one.kind == "exchange")
    first.close()
    recorder.exchange("round", 2, 0.5, {"bank": 8}, {})
    headers = {"last-event-id": seen.position}
    with client._api.lines(f"/v1/runs/{started}/events", headers=headers, seconds=20) as (
        status,
        lines,
    ):
        assert status == 200
        after = next(one for one in following.happened_of(lines) if one.kind == "exchange")
    assert isinstance(after.data, ExchangeView)
    assert after.data.round == 2
    api.coordinator.control.runs.finish(started, {"parties": []})
    last = list(client.follow(started))[-1]
    again = {"last-event-id": last.position}
    with client._api.lines(f"/v1/runs/{started}/events", headers=again, seconds=20) as (status, _):
        assert status == 204  # a browser comes back for more until it is told that there is none


def test_a_position_that_is_none_of_ours_is_the_beginning() -> None:
    for text in (None, "", "x", "1-2-3-zz", "9" * 40 + "-1-1-", "-1-1-1-"):
        assert parse_position(text) == parse_position(None)


def test_an_unknown_run_cannot_be_followed(client: CoordinatorClient) -> None:
    with pytest.raises(NotFound):
        list(client.follow("never"))


def test_a_control_plane_that_is_away_for_too_long_ends_the_following(api: Asked) -> None:
    settings = api.coordinator.settings
    ca = settings.ca_certificate.read_text()
    with (
        CoordinatorClient("https://127.0.0.1:1", ca, "token") as away,
        pytest.raises(NotRunningError),
    ):
        list(away.follow("run-1", away_seconds=0.1))


def test_a_wrong_token_is_named_as_such(api: Asked) -> None:
    settings = api.coordinator.settings
    ca = settings.ca_certificate.read_text()
    with (
        CoordinatorClient(settings.control_url, ca, "wrong") as client,
        pytest.raises(NotSignedIn, match="token create"),
    ):
        client.runs()


def test_the_client_reads_everything_that_the_api_tells(
    api: Asked, client: CoordinatorClient, started: str
) -> None:
    api.coordinator.control.runs.finish(started, {"parties": ["bank"], "refused": {}})
    api.disclose("bank", public_size=6000, used=0.1)
    assert client.health().status == "ok"
    assert client.federation().name == api.coordinator.settings.federation
    assert {one.name for one in client.parties()} == {"bank", "retailer", "shop"}
    assert client.party("bank").public_size == 6000
    assert client.overview().last_runs[0].run_id == started
    assert client.run(started).state == "finished"
    assert client.plan_of(started).text == PLAN.decode()
    assert client.models().models[0].run_id == started
    assert client.budgets()[0].used == 0.1
    assert {one.tag for one in client.tags()} >= {"churn_risk"}
    assert client.evidence(started).made_at is None
    assert client.alerts().alerts == ()
    assert "admin" in {one.name for one in client.tokens()}
    assert client.people() == []
    assert client.audit(limit=2).next is not None
    assert client.audit_chain().whole
    assert client.invite("cafe").party == "cafe"
    assert [one.party for one in client.invitations()] == ["cafe"]


def test_commands_show_json_that_is_the_apis_own(api: Asked, started: str) -> None:
    home = ["--home", str(api.coordinator.settings.home)]

    def run(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, [*home, *arguments])
        if status:
            assert result.exception is not None
            return str(result.exception)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    listed = json.loads(run("run", "list", "--format", "json"))
    assert listed[0]["run_id"] == started
    assert api.get(f"/v1/runs/{started}") == json.loads(
        run("run", "show", started, "--format", "json")
    )
    assert json.loads(run("party", "list", "--format", "json"))[0]["name"] == "bank"
    stopped = json.loads(run("run", "stop", started, "--force", "--format", "json"))
    assert stopped["state"] == "stopped"
    assert "already ended" in run("run", "stop", started, status=1)
    lines = [json.loads(line) for line in run_lines(api, started)]
    assert lines[-1] == api.get(f"/v1/runs/{started}")
    assert lines[-1]["state"] == "stopped"
    assert "cause" in run("run", "show", started)
    assert "Remove party" in CliRunner().invoke(app, [*home, "party", "remove", "shop"]).output


def run_lines(api: Asked, run_id: str) -> list[str]:
    """What `run watch --format json` prints of a run that was stopped."""
    home = ["--home", str(api.coordinator.settings.home)]
    result = CliRunner().invoke(app, [*home, "run", "watch", run_id, "--format", "json"])
    assert isinstance(result.exception, RunStopped)
    return result.output.strip().splitlines()


def test_plans_are_compared_by_command(api: Asked, tmp_path: Path) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_bytes(PLAN)
    other.write_bytes(PLAN.replace(b"epsilon = 1.0", b"epsilon = 0.5"))
    result = CliRunner().invoke(app, ["plan", "diff", str(other), str(one), "--format", "json"])
    assert json.loads(result.output)["changes"] == [
        {"key": "privacy.epsilon", "before": "1.0", "after": "0.5"}
    ]
    same = CliRunner().invoke(app, ["plan", "diff", str(one), str(one)])
    assert "mean the same" in same.output
    assert CliRunner().invoke(app, ["plan", "diff", str(one)]).exception is not None


def _until(happened: object) -> None:
    assert callable(happened)
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_run_error_is_what_the_command_ends_with(api: Asked, client: CoordinatorClient) -> None:
    run_id = f"run-{time.time_ns():x}"
    client.submit(run_id, PLAN, SigningKey.load(api.coordinator.settings.requester_key))
    api.coordinator.control.runs.fail(run_id, RunError("it was cut short"))
    home = ["--home", str(api.coordinator.settings.home)]
    result = CliRunner().invoke(app, [*home, "run", "watch", run_id])
    assert isinstance(result.exception, RunError)
    assert "cut short" in str(result.exception)
