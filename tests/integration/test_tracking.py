"""Runs in a real MLflow server: told once, whole, and never to a run's harm."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from coordinator import tracking
from coordinator.run_store import RunStore
from coordinator.settings import CoordinatorSettings, load_settings
from coordinator.setup import initialise
from coordinator.tracking import Tracker, track
from privacy.errors import NotRunningError, PartyTimeout, ProtocolError, RunStopped
from tests.servers import require_or_skip

from .oidc_servers import free_port

# The first test waits for MLflow to be installed, and it is slow to start.
pytestmark = pytest.mark.timeout(1500)
PACKAGE = "mlflow>=3,<4"
PLAN = b"""
format = 1
name = "churn"
purpose = "retention"
[task]
kind = "churn"
cutoff = 2024-06-01
[privacy]
epsilon = 1.0
"""


def mlflow_python() -> Path:
    """The Python of a virtual environment with MLflow, made once in a cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = base / "fedtags-tests" / "mlflow-3"
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes may come here at once
        if not (folder / "installed").exists():
            venv.create(folder / "venv", with_pip=True, clear=True)
            line = [str(python), "-m", "pip", "install", "--quiet", PACKAGE]
            done = subprocess.run(line, capture_output=True, check=False)
            require_or_skip("mlflow", done.returncode == 0)
            (folder / "installed").touch()
    return python


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    line = [str(mlflow_python()), "-m", "mlflow", "server", "--host", "127.0.0.1"]
    line += ["--port", str(port), "--workers", "1"]
    line += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    line += ["--default-artifact-root", str(folder / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (folder / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(
            line,
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, **quiet},
            start_new_session=True,
        )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 600
        while True:
            assert process.poll() is None, (folder / "mlflow.log").read_text()
            assert time.monotonic() < deadline, (folder / "mlflow.log").read_text()
            try:
                if httpx.get(f"{address}/health", timeout=30).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers, too; it holds nothing of worth
        process.wait(60)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), free_port()) as address:
        yield address


_homes = 0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A coordinator's home, of a federation that no other test has told MLflow about."""
    global _homes
    _homes += 1
    initialise(tmp_path / "coordinator", f"market-{_homes}", "science")
    return tmp_path / "coordinator"


def tracked(home: Path, uri: str | None, extra: str = "") -> CoordinatorSettings:
    if uri is not None:
        path = home / "coordinator.toml"
        path.write_text(path.read_text() + f'\n[tracking]\nuri = "{uri}"\n{extra}\n')
    return load_settings(home)


@pytest.fixture
def store(home: Path) -> Iterator[RunStore]:
    opened = RunStore(load_settings(home).database_url)
    yield opened
    opened.close()


def made(store: RunStore, run: str = "run-1") -> str:
    store.create_run(run, PLAN, b"p" * 32, run.encode().ljust(64, b"s"))
    recorder = store.recorder(run)
    recorder.phase("round", 1, 6)
    recorder.exchange("round", 1, 1.5, {"bank": 10, "shop": 20}, {"bank": 30, "shop": 40})
    recorder.metric("auc", 0.71)
    recorder.metric("calibration", -0.02)
    return run


def finished(store: RunStore, run: str = "run-1") -> str:
    made(store, run)
    store.finish(run, {})
    return run


def runs_in(address: str, name: str) -> list[dict[str, Any]]:
    api = f"{address}/api/2.0/mlflow"
    found = httpx.get(
        f"{api}/experiments/get-by-name", params={"experiment_name": name}, timeout=60
    )
    if found.status_code == 404:
        return []
    body = {"experiment_ids": [found.json()["experiment"]["experiment_id"]], "max_results": 100}
    runs: list[dict[str, Any]] = (
        httpx.post(f"{api}/runs/search", json=body, timeout=60).json().get("runs", [])
    )
    return runs


def values(run: dict[str, Any], what: str) -> dict[str, Any]:
    return {one["key"]: one["value"] for one in run["data"].get(what, [])}


# With a real server ------------------------------------------------------------------------------


def test_a_finished_run_is_told_with_its_plans_facts_and_released_figures(
    mlflow: str, home: Path, store: RunStore
) -> None:
    settings = tracked(home, mlflow)
    assert track(settings, store, finished(store))
    (run,) = runs_in(mlflow, f"fedtags-{settings.federation}")
    record = store.get("run-1")
    assert run["info"]["status"] == "FINISHED"
    assert record.ended_at is not None
    assert run["info"]["end_time"] == int(record.ended_at.timestamp() * 1000)
    parameters = values(run, "params")
    assert (parameters["plan"], parameters["task"], parameters["epsilon"]) == (
        "churn",
        "churn",
        "1.0",
    )
    metrics = values(run, "metrics")
    assert (metrics["auc"], metrics["calibration"]) == (0.71, -0.02)
    assert (metrics["bytes_up"], metrics["bytes_down"]) == (30, 70)
    tags = values(run, "tags")
    assert (tags["fedtags.run"], tags["fedtags.plan"]) == ("run-1", record.plan_digest)


def test_a_run_is_told_once_however_often_it_is_asked_for(
    mlflow: str, home: Path, store: RunStore
) -> None:
    settings = tracked(home, mlflow)
    finished(store)
    for _ in range(3):
        assert track(settings, store, "run-1")
    assert len(runs_in(mlflow, f"fedtags-{settings.federation}")) == 1


@pytest.mark.parametrize("broken", ["log", "end"])
def test_a_run_that_was_told_by_half_is_completed_not_repeated(
    mlflow: str, home: Path, store: RunStore, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    settings = tracked(home, mlflow)
    finished(store)

    def away(*_: object) -> None:
        raise NotRunningError("the connection broke")

    with monkeypatch.context() as patched:
        patched.setattr(tracking._Mlflow, broken, away)
        with pytest.raises(NotRunningError):
            track(settings, store, "run-1")
    assert track(settings, store, "run-1")
    (run,) = runs_in(mlflow, f"fedtags-{settings.federation}")
    assert run["info"]["status"] == "FINISHED"
    history = httpx.get(
        f"{mlflow}/api/2.0/mlflow/metrics/get-history",
        params={"run_id": run["info"]["run_id"], "metric_key": "auc"},
        timeout=60,
    ).json()
    assert [one["value"] for one in history["metrics"]] == [0.71]


def test_a_failed_and_a_stopped_run_are_told_as_such_without_free_text(
    mlflow: str, home: Path, store: RunStore
) -> None:
    settings = tracked(home, mlflow, 'experiment = "ours"')
    made(store, "run-1")
    store.fail("run-1", PartyTimeout("bank is away <script>"))
    made(store, "run-2")
    store.fail("run-2", RunStopped("stopped"))
    assert Tracker(settings, store).look() == 2
    runs = {values(one, "tags")["fedtags.run"]: one for one in runs_in(mlflow, "ours")}
    assert runs["run-1"]["info"]["status"] == "FAILED"
    assert runs["run-2"]["info"]["status"] == "KILLED"
    assert values(runs["run-1"], "tags")["fedtags.error"] == "PartyTimeout"
    assert "script" not in str(runs)


def test_a_tracker_tells_each_run_once_and_goes_on_after_the_server_was_away(
    mlflow: str, home: Path, store: RunStore
) -> None:
    settings = tracked(home, mlflow)
    assert settings.tracking is not None
    nobody = settings.tracking.model_copy(update={"uri": f"http://127.0.0.1:{free_port()}"})
    now = [0.0]
    tracker = Tracker(settings.model_copy(update={"tracking": nobody}), store, clock=lambda: now[0])
    finished(store, "run-1")
    before = store.get("run-1")
    assert tracker.look() == 0
    tracker._settings = settings  # the server is there now
    assert tracker.look() == 0  # and is left alone, because it was away just now
    now[0] += tracking.RETRY_SECONDS
    assert tracker.look() == 1
    finished(store, "run-2")
    made(store, "run-3")
    assert tracker.look() == 1
    assert tracker.look() == 0
    assert Tracker(settings, store).look() == 2  # as after a restart: looked up, not repeated
    assert len(runs_in(mlflow, f"fedtags-{settings.federation}")) == 2
    assert store.get("run-1") == before


# Without one -------------------------------------------------------------------------------------


def test_nothing_is_told_where_no_tracker_is_set(home: Path, store: RunStore) -> None:
    settings = tracked(home, None)
    assert not track(settings, store, finished(store))
    assert Tracker(settings, store).look() == 0


def test_a_run_under_way_is_not_told(home: Path, store: RunStore) -> None:
    settings = tracked(home, f"http://127.0.0.1:{free_port()}")
    assert not track(settings, store, made(store))


class _Odd(BaseHTTPRequestHandler):
    """Answers everything with what the test chose, and remembers the headers."""

    answer: tuple[int, bytes] = (200, b"")
    heard: list[str | None]

    def do_GET(self) -> None:
        self.heard.append(self.headers["authorization"])
        status, body = self.answer
        self.send_response(status)
        if status == 302:
            self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with suppress(OSError):  # the other side has read enough
            self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>a sign-in page</html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"experiment": {"experiment_id": 7}}'),
        (302, b"{}"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "token s3cret is bad"}'),
        (500, b"{}"),
        (200, b"[" * 100_000),
        (200, b" " * (2 * tracking.MAX_ANSWER_BYTES)),
    ],
)
def test_a_server_that_is_no_mlflow_harms_nothing_and_the_token_is_not_repeated(
    home: Path, store: RunStore, answer: tuple[int, bytes]
) -> None:
    handler = type("Chosen", (_Odd,), {"answer": answer, "heard": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    token = home / "keys" / "tracker.token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    settings = tracked(
        home, f"http://127.0.0.1:{server.server_port}", 'token = "file:keys/tracker.token"'
    )
    try:
        finished(store)
        before = store.get("run-1")
        with pytest.raises(ProtocolError) as caught:
            track(settings, store, "run-1")
        assert Tracker(settings, store).look() == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "s3cret" not in str(caught.value)
    assert set(handler.heard) == {"Bearer s3cret"}
    assert store.get("run-1") == before


class _Choosy(_Odd):
    """Takes every run but run-1, as MLflow does with a value that it does not allow."""

    answers: ClassVar[Mapping[str, dict[str, Any]]] = {
        "get-by-name": {"experiment": {"experiment_id": "7"}},
        "create": {"run": {"info": {"run_id": "m"}}},
    }

    def do_GET(self) -> None:
        said = self.rfile.read(int(self.headers["content-length"] or 0)).decode()
        last = self.path.partition("?")[0].rpartition("/")[2]
        refused = last == "create" and '"run-1"' in said
        body: dict[str, Any] = {"error_code": "INVALID_PARAMETER_VALUE"}
        self.answer = (
            400 if refused else 200,
            json.dumps(body if refused else self.answers.get(last, {})).encode(),
        )
        super().do_GET()


def test_a_run_that_the_server_refuses_keeps_no_other_from_being_told(
    home: Path, store: RunStore
) -> None:
    _Choosy.heard = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Choosy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        for run in ("run-1", "run-2", "run-3"):
            finished(store, run)
        tracker = Tracker(tracked(home, f"http://127.0.0.1:{server.server_port}"), store)
        assert tracker.look() == 2
        assert tracker.look() == 0
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_control_planes_own_process_stays_small(home: Path, store: RunStore) -> None:
    finished(store)
    settings = tracked(home, f"http://127.0.0.1:{free_port()}")
    script = (
        "import sys; from pathlib import Path;"
        "from coordinator.settings import load_settings;"
        "from coordinator.run_store import RunStore;"
        "from coordinator.tracking import Tracker;"
        "s = load_settings(Path(sys.argv[1]));"
        "assert Tracker(s, RunStore(s.database_url)).look() == 0;"
        "print(sorted({'torch', 'mlflow', 'coordinator.rounds', 'requests'} & set(sys.modules)))"
    )
    seen = subprocess.run(
        [sys.executable, "-c", script, str(settings.home)], capture_output=True, text=True
    )
    assert seen.stdout.strip() == "[]", seen.stderr
