"""Start, watch and stop the operating-system processes of one home folder.

Both services need it and must not write it twice. What it guarantees: every child leads its own
session and process group, so Ctrl-C reaches the supervisor alone; stopping means SIGTERM to each
group, a wait, then SIGKILL to every group and every descendant that is left, whichever group it
moved to; and `stop_service` from another terminal signals only a process that is provably the one
that wrote the pid file (same pid, same kernel start time, same boot).

Files under the home: logs/NAME.log (appended) of the service and of each child; run/NAME.pid and
run/NAME.ready of the service, run/NAME.CHILD.pid of each child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

from privacy import errors
from privacy.errors import ConfigError, FedtagsError, NotRunningError
from privacy.hosting.processes import (
    POLL_S,
    ProcessIdentity,
    boot_id,
    signal_group,
    signals_held,
    stat_fields,
    stop_processes,
    wait_for_end,
)

CHILD_ENVIRONMENT = {
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}


# A child that may be started again is, but one that ends this often in this time has a reason.
RESTART_LIMIT = 5
RESTART_WINDOW_S = 600.0
# It is started again at once the first time, then after this long, twice as long, and so on.
RESTART_WAIT_S = 0.25


@dataclass(frozen=True)
class Child:
    """One process to run. `ready` is polled until it is true, for at most `ready_timeout_s`.

    `restart`: once the service is up, it is started again when it ends, each time later.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] | None = None
    ready_timeout_s: float = 60.0
    restart: bool = False


@dataclass
class _Running:
    child: Child
    process: subprocess.Popen[bytes]
    identity: ProcessIdentity
    deadline: float


class Supervisor:
    """Runs the children of one service; a context manager that leaves none behind.

    While it is open, run/NAME.pid names this process; SIGINT raises KeyboardInterrupt and SIGTERM,
    which `stop_service` sends, SystemExit(0), both at a moment when no child can be lost, and a
    second signal does not cut the clean-up short. One supervisor of a name per home.
    """

    def __init__(self, home: Path, name: str, stop_grace_s: float = 8.0) -> None:
        self.home = home
        self.name = name
        self._stop_grace_s = stop_grace_s
        self._running: list[_Running] = []
        self._restarts: dict[str, list[float]] = {}
        # Children that are to be started again, and when.
        self._due: list[tuple[float, Child]] = []
        self._old_handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._held = False
        self._pending = 0

    def __enter__(self) -> Supervisor:
        if running_pid(self.home, self.name) is not None:
            raise ConfigError(f"{self.name} is already running for {self.home}; stop it first")
        for folder in ("logs", "run"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        _sweep(self.home, self.name)
        own = ProcessIdentity.of(os.getpid())
        if own is None:
            raise ConfigError("process supervision needs Linux and a mounted /proc")
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old_handlers[number] = signal.signal(number, self._on_signal)
        own.save(_pid_file(self.home, self.name))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held = True
        try:
            self.stop()
        finally:
            _ready_file(self.home, self.name).unlink(missing_ok=True)
            _pid_file(self.home, self.name).unlink(missing_ok=True)
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)

    def start(self, *children: Child) -> None:
        """Start `children` together and return when all are ready.

        Raises NotRunningError if one ends or is not ready in time, ConfigError if a program is
        missing; the caller leaves the `with` block then, which stops the rest.
        """
        for child in children:
            self._spawn(child)
        waiting = [each for each in self._running if each.child in children and each.child.ready]
        while waiting:
            self.check()
            waiting = [each for each in waiting if not _is_ready(each.child)]
            late = [each for each in waiting if time.monotonic() > each.deadline]
            if late:
                name = late[0].child.name
                raise NotRunningError(
                    f"{name} was not ready within {late[0].child.ready_timeout_s:.0f} s; "
                    f"see {self.log_file(name)}"
                )
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raise NotRunningError if a child has ended; its log is named in the message."""
        for each in self._running:
            status = each.process.poll()
            if status is not None:
                self._log(f"{each.child.name} ended unexpectedly ({_how(status)})")
                raise NotRunningError(
                    f"{each.child.name} ended unexpectedly ({_how(status)}); "
                    f"see {self.log_file(each.child.name)}"
                )

    def ready(self) -> None:
        """Tell whoever started this service detached that it is up."""
        _ready_file(self.home, self.name).write_text(str(os.getpid()), encoding="utf-8")
        self._log("ready: " + ", ".join(each.child.name for each in self._running))

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        """Return once `until()` is true; raise as `check` does if a child ends before that may
        not be started again, or keeps ending."""
        while not until():
            self._revive()
            self.check()
            time.sleep(4 * POLL_S)

    def pids(self) -> dict[str, int]:
        """The children's pids by name."""
        return {each.child.name: each.identity.pid for each in self._running}

    def log_file(self, name: str) -> Path:
        """Where a child's standard output and error go."""
        return self.home / "logs" / f"{name}.log"

    def stop(self) -> None:
        """Stop all children and their descendants. Safe to call twice and under Ctrl-C."""
        with self._hold():
            roots = [each.identity for each in self._running]
            stop_processes(roots, self._stop_grace_s)
            for each in self._running:
                each.process.wait()
                self._pid_file(each.child).unlink(missing_ok=True)
            if self._running:
                self._log("stopped")
            self._running.clear()
            self._due.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._pending = number
            return
        self._held = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(0)

    @contextlib.contextmanager
    def _hold(self) -> Iterator[None]:
        """Put signals off: between a fork and its record, and while stopping."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before
            if self._pending and not before:
                number, self._pending = self._pending, 0
                self._on_signal(number, None)

    def _spawn(self, child: Child) -> None:
        self.log_file(child.name).touch(mode=0o600)
        with self._hold(), self.log_file(child.name).open("ab") as log:
            try:
                process = subprocess.Popen(  # noqa: S603  argv is ours, never a shell line
                    list(child.argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.home,
                    env=child_environment(child.environment),
                    start_new_session=True,
                )
            except OSError as error:
                raise ConfigError(
                    f"{child.name} cannot be started: {child.argv[0]}: {error.strerror}"
                ) from error
            # A child that ended at once is a zombie until waited for: its start time still reads.
            fields = stat_fields(process.pid, zombies=True)
            started = int(fields[19]) if fields else 0
            identity = ProcessIdentity(process.pid, started, boot_id())
            identity.save(self._pid_file(child))
            deadline = time.monotonic() + child.ready_timeout_s
            self._running.append(_Running(child, process, identity, deadline))

    def _revive(self) -> None:
        """Start again each child that has ended and may be, with nothing of the old one left."""
        now = time.monotonic()
        for each in list(self._running):
            status, child = each.process.poll(), each.child
            if status is None or not child.restart:
                continue
            known = self._restarts.get(child.name, [])
            recent = [moment for moment in known if now - moment < RESTART_WINDOW_S]
            if len(recent) < RESTART_LIMIT:
                self._restarts[child.name] = [*recent, now]
                self._log(f"{child.name} ended unexpectedly ({_how(status)}); starting it again")
                stop_processes([each.identity], 0.0)
                self._running.remove(each)
                wait = RESTART_WAIT_S * 2 ** (len(recent) - 1) if recent else 0.0
                self._due.append((now + wait, child))
        for at, child in list(self._due):
            if now >= at:
                self._due.remove((at, child))
                self._spawn(child)

    def _pid_file(self, child: Child) -> Path:
        return _pid_file(self.home, f"{self.name}.{child.name}")

    def _log(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with self.log_file(self.name).open("a", encoding="utf-8") as log:
            log.write(f"{stamp} {self.name}: {text}\n")


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment plus what every child gets; our own programs lead PATH."""
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join([own, os.environ.get("PATH", os.defpath)])
    # Flower's HTTP clients follow the proxy settings of the machine, also to loopback.
    direct = {
        name: ",".join(filter(None, [os.environ.get(name), "localhost,127.0.0.1,::1"]))
        for name in ("NO_PROXY", "no_proxy")
    }
    return {**os.environ, "PATH": path, **direct, **CHILD_ENVIRONMENT, **(extra or {})}


def program(name: str) -> str:
    """The path of a command installed beside this interpreter. Raises ConfigError if missing."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise ConfigError(f"{name} is not installed beside {sys.executable}; install fedtags again")
    return str(path)


def running_pid(home: Path, name: str) -> int | None:
    """The pid of the running service `name` of this home, or None."""
    identity = ProcessIdentity.load(_pid_file(home, name))
    return None if identity is None else identity.pid


def is_ready(home: Path, name: str) -> bool:
    """True once the running service `name` has said that it is ready."""
    pid = running_pid(home, name)
    try:
        said = _ready_file(home, name).read_text(encoding="utf-8")
    except OSError:
        return False
    return pid is not None and said == str(pid)


def start_detached(home: Path, name: str, argv: Sequence[str], timeout_s: float = 120.0) -> int:
    """Run a service's own foreground command in the background; return its pid when it is ready.

    If it ends before, its last log line is raised as the error whose exit code it ended with.
    """
    if running_pid(home, name) is not None:
        raise ConfigError(f"{name} is already running for {home}; stop it first")
    log_path = home / "logs" / f"{name}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.touch(mode=0o600)
    with log_path.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  argv is ours, never a shell line
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout_s
    try:
        while not (is_ready(home, name) and running_pid(home, name) == process.pid):
            status = process.poll()
            if status is not None:
                lines = log_path.read_text(encoding="utf-8", errors="replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), "no message")
                raise error_of(status)(f"{name} did not start: {last.strip()} (log: {log_path})")
            if time.monotonic() > deadline:
                raise NotRunningError(
                    f"{name} was not ready within {timeout_s:.0f} s; see {log_path}"
                )
            time.sleep(POLL_S)
    except BaseException:
        with signals_held():
            identity = ProcessIdentity.of(process.pid)
            if identity is not None:
                signal_group(identity, signal.SIGTERM)
                wait_for_end([identity], 15.0)
                stop_processes([identity], 0.0)
            process.wait()
            _sweep(home, name)
        raise
    return process.pid


def stop_service(home: Path, name: str, timeout_s: float = 30.0) -> None:
    """Stop a service from anywhere, and whatever a killed one left behind.

    Raises NotRunningError if neither it nor a leftover child was running.
    """
    identity = ProcessIdentity.load(_pid_file(home, name))
    if identity is not None:
        # The service itself only: it stops its children in order, as its own code says.
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, signal.SIGTERM)
        wait_for_end([identity], timeout_s)
        stop_processes([identity], 0.0)
    leftovers = _sweep(home, name)
    if identity is None and not leftovers:
        raise NotRunningError(f"{name} is not running for {home}")


def error_of(exit_code: int) -> type[FedtagsError]:
    """The error class whose exit code this is; NotRunningError if there is none."""
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, FedtagsError):
            own = vars(value)
            if own.get("exit_code") == exit_code != 1 and "__init__" not in own:
                return value
    return NotRunningError


def _pid_file(home: Path, name: str) -> Path:
    return home / "run" / f"{name}.pid"


def _ready_file(home: Path, name: str) -> Path:
    return home / "run" / f"{name}.ready"


def _sweep(home: Path, name: str) -> int:
    """End children of a service that was killed; drop stale files. Returns how many were alive."""
    identities = []
    folder = home / "run"
    for path in [*folder.glob(f"{name}.pid"), *folder.glob(f"{name}.*.pid")]:
        identity = ProcessIdentity.load(path)
        if identity is not None and identity.pid != os.getpid():
            identities.append(identity)
        path.unlink(missing_ok=True)
    _ready_file(home, name).unlink(missing_ok=True)
    if identities:
        stop_processes(identities, 5.0)
    return len(identities)


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _is_ready(child: Child) -> bool:
    return child.ready is None or child.ready()
