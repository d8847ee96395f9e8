"""Real child processes: started, watched, stopped, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.errors import ConfigError, NotRunningError, PlanError, PortInUseError
from privacy.hosting.processes import (
    ProcessIdentity,
    accepts_connections,
    check_port_free,
    stat_fields,
)
from privacy.hosting.supervision import (
    RESTART_LIMIT,
    Child,
    Supervisor,
    error_of,
    is_ready,
    running_pid,
    start_detached,
    stop_service,
)

SLEEP = "import time; time.sleep(300)"
# Ignores SIGTERM, and so do a child in its own session and one in the parent's group.
STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
near = subprocess.Popen([sys.executable, "-c", code])
far = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
pathlib.Path("family").write_text(f"{near.pid} {far.pid}")
time.sleep(300)
"""
# A service of its own: supervises one sleeper, or fails as told.
SERVICE = """
import sys
from pathlib import Path
from privacy.errors import FedtagsError, PlanError
from privacy.hosting.supervision import Child, Supervisor
home = Path(sys.argv[1])
try:
    with Supervisor(home, "service", stop_grace_s=2) as supervisor:
        supervisor.start(Child("sleeper", [sys.executable, "-c", "import time; time.sleep(300)"]))
        if len(sys.argv) > 2:
            raise PlanError(sys.argv[2])
        supervisor.ready()
        supervisor.watch()
except FedtagsError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *arguments]


def alive(pid: int) -> bool:
    return stat_fields(pid) is not None


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_children_run_in_their_own_groups_and_end_with_the_block(tmp_path: Path) -> None:
    with Supervisor(tmp_path, "service") as supervisor:
        supervisor.start(Child("one", python(SLEEP)), Child("two", python(SLEEP)))
        pids = supervisor.pids()
        assert running_pid(tmp_path, "service") == os.getpid()
        assert {os.getpgid(pid) for pid in pids.values()} == set(pids.values())
        assert running_pid(tmp_path, "service.one") == pids["one"]
    assert not any(alive(pid) for pid in pids.values())
    assert list((tmp_path / "run").iterdir()) == []


def test_a_family_that_ignores_sigterm_is_killed_whole(tmp_path: Path) -> None:
    family = tmp_path / "family"
    with Supervisor(tmp_path, "service", stop_grace_s=0.3) as supervisor:
        supervisor.start(Child("stubborn", python(STUBBORN), ready=family.exists))
        assert eventually(lambda: len(family.read_text().split()) == 2)
        near, far = (int(pid) for pid in family.read_text().split())
        assert alive(near)
        assert alive(far)
    assert not alive(near)
    assert not alive(far)


def test_children_get_safe_path_and_a_log_and_the_programs_beside_us(tmp_path: Path) -> None:
    code = "import os; print(os.environ['PYTHONSAFEPATH'], os.environ['EXTRA'], os.environ['PATH'])"
    with Supervisor(tmp_path, "service") as supervisor:
        child = Child("printer", python(code + ";" + SLEEP), environment={"EXTRA": "yes"})
        log = supervisor.log_file("printer")
        supervisor.start(child)
        assert eventually(lambda: log.read_text().endswith("\n"))
    safe, extra, path = log.read_text().split(maxsplit=2)
    assert (safe, extra) == ("1", "yes")
    assert path.startswith(str(Path(sys.executable).parent))
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_child_that_dies_ends_the_service_with_a_named_error_and_stops_the_others(
    tmp_path: Path,
) -> None:
    with Supervisor(tmp_path, "service") as supervisor:
        supervisor.start(
            Child("long", python(SLEEP)),
            Child("short", python("import time; time.sleep(.3); raise SystemExit(3)")),
        )
        long = supervisor.pids()["long"]
        with pytest.raises(
            NotRunningError, match=r"short ended unexpectedly .*status 3.*short.log"
        ):
            supervisor.watch()
    assert not alive(long)
    assert "short ended unexpectedly" in (tmp_path / "logs" / "service.log").read_text()


def test_a_child_that_may_be_started_again_is_until_it_keeps_ending(tmp_path: Path) -> None:
    child = Child("phoenix", python(SLEEP), restart=True)
    with Supervisor(tmp_path, "service") as supervisor:
        supervisor.start(child, Child("calm", python(SLEEP)))
        calm, killed = supervisor.pids()["calm"], set()

        def kill() -> bool:
            """Kill whichever phoenix runs now, once each."""
            pid = supervisor.pids().get("phoenix")
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            return False

        with pytest.raises(NotRunningError, match=r"phoenix ended unexpectedly \(signal 9\)"):
            supervisor.watch(until=kill)
        assert alive(calm)
    assert len(killed) == RESTART_LIMIT + 1
    log = (tmp_path / "logs" / "service.log").read_text()
    assert log.count("starting it again") == RESTART_LIMIT


def test_a_child_that_dies_before_the_service_is_up_is_not_started_again(tmp_path: Path) -> None:
    dies = Child("dies", python("raise SystemExit(3)"), ready=lambda: False, restart=True)
    with Supervisor(tmp_path, "service") as supervisor, pytest.raises(NotRunningError):
        supervisor.start(dies)
    assert "starting it again" not in (tmp_path / "logs" / "service.log").read_text()


def test_a_child_that_never_gets_ready_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(NotRunningError, match=r"slow was not ready.*slow\.log"),
        Supervisor(tmp_path, "service") as supervisor,
    ):
        supervisor.start(Child("slow", python(SLEEP), ready=lambda: False, ready_timeout_s=0.2))


def test_a_missing_program_is_a_config_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="absent cannot be started"),
        Supervisor(tmp_path, "service") as supervisor,
    ):
        supervisor.start(Child("absent", ["/nonexistent/program"]))


def test_two_supervisors_of_one_home_are_refused(tmp_path: Path) -> None:
    with (
        Supervisor(tmp_path, "service"),
        pytest.raises(ConfigError, match="already running"),
        Supervisor(tmp_path, "service"),
    ):
        pass
    assert running_pid(tmp_path, "service") is None


def test_detached_service_is_ready_when_the_call_returns_and_stops_from_elsewhere(
    tmp_path: Path,
) -> None:
    pid = start_detached(tmp_path, "service", python(SERVICE, str(tmp_path)), timeout_s=30)
    sleeper = running_pid(tmp_path, "service.sleeper")
    assert sleeper is not None
    assert running_pid(tmp_path, "service") == pid
    assert is_ready(tmp_path, "service")
    stop_service(tmp_path, "service")
    assert not alive(pid)
    assert not alive(sleeper)
    with pytest.raises(NotRunningError, match="service is not running"):
        stop_service(tmp_path, "service")


def test_detached_service_that_fails_raises_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="rounds must be at least 1"):
        start_detached(
            tmp_path, "service", python(SERVICE, str(tmp_path), "rounds must be at least 1")
        )
    assert list((tmp_path / "run").iterdir()) == []


def test_children_of_a_killed_supervisor_are_stopped_later(tmp_path: Path) -> None:
    pid = start_detached(tmp_path, "service", python(SERVICE, str(tmp_path)))
    sleeper = running_pid(tmp_path, "service.sleeper")
    assert sleeper is not None
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: running_pid(tmp_path, "service") is None)
    assert alive(sleeper)
    stop_service(tmp_path, "service")
    assert not alive(sleeper)


def test_interrupt_stops_the_children_even_when_pressed_twice(tmp_path: Path) -> None:
    process = subprocess.Popen(python(SERVICE, str(tmp_path)), stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: is_ready(tmp_path, "service"), 30)
        sleeper = running_pid(tmp_path, "service.sleeper")
        assert sleeper is not None
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) != 0
        assert not alive(sleeper)
        assert list((tmp_path / "run").iterdir()) == []
    finally:
        process.kill()
        process.wait()


def test_a_pid_file_that_names_another_process_is_not_believed(tmp_path: Path) -> None:
    stranger = subprocess.Popen(python(SLEEP))
    try:
        true = ProcessIdentity.of(stranger.pid)
        assert true is not None
        path = tmp_path / "run" / "service.pid"
        true.save(path)
        assert running_pid(tmp_path, "service") == stranger.pid
        data = json.loads(path.read_text())
        path.write_text(json.dumps({**data, "started": data["started"] + 1}))
        with pytest.raises(NotRunningError):
            stop_service(tmp_path, "service")
        path.write_text("12 not json")
        with pytest.raises(NotRunningError):
            stop_service(tmp_path, "service")
        assert alive(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_taken_port_names_the_setting_to_change() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert accepts_connections("127.0.0.1", port)
        with pytest.raises(PortInUseError, match=rf"port {port} .*change `superlink.port`"):
            check_port_free("127.0.0.1", port, "superlink.port")
    check_port_free("127.0.0.1", port, "superlink.port")
    assert not accepts_connections("127.0.0.1", port)


def test_exit_codes_map_back_to_their_errors() -> None:
    assert error_of(17) is PortInUseError
    assert error_of(10) is ConfigError
    assert error_of(1) is NotRunningError
    assert error_of(77) is NotRunningError
