"""Processes as the kernel knows them: who is who, whole families, and how to end them.

A pid alone proves nothing: it is used again. A pid with its kernel start time and the boot it
belongs to names one process for ever, so that is what pid files hold and what is signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import PortInUseError

POLL_S = 0.05


@dataclass(frozen=True)
class ProcessIdentity:
    """What tells one process from every other that had or will have its pid."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The identity of a live process; None if there is none (a zombie is not live)."""
        fields = stat_fields(pid)
        return None if fields is None else cls(pid, int(fields[19]), boot_id())

    @classmethod
    def load(cls, path: Path) -> ProcessIdentity | None:
        """Read a pid file; None if it is missing, broken or its process is not alive any more."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            stored = cls(int(data["pid"]), int(data["started"]), str(data["boot"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return stored if stored.alive() else None

    def save(self, path: Path) -> None:
        """Write a pid file, in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        data = {"pid": self.pid, "started": self.started, "boot": self.boot}
        draft.write_text(json.dumps(data) + "\n", encoding="utf-8")
        draft.replace(path)

    def alive(self) -> bool:
        """True while this very process runs."""
        return ProcessIdentity.of(self.pid) == self


def stop_processes(roots: Sequence[ProcessIdentity], grace_s: float) -> None:
    """SIGTERM to each root's group, at most `grace_s` seconds, then SIGKILL to all that remain.

    "All" is the roots, their groups and every descendant seen before or after the SIGTERM. Roots
    that are our own children must be waited for by the caller, after this.
    """
    family = {each for root in roots for each in _family(root)}
    for root in roots:
        signal_group(root, signal.SIGTERM)
    wait_for_end(family, grace_s)
    # Twice: a process may fork between the look and the kill.
    for _ in range(2):
        family |= {each for member in family for each in _family(member)}
        for root in roots:
            signal_group(root, signal.SIGKILL)
        for member in family:
            if member.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)
    wait_for_end(family, 5.0)


def check_port_free(host: str, port: int, setting: str) -> None:
    """Raise PortInUseError, naming `setting` as what to change, if `port` cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUseError(
                f"port {port} on {host} cannot be used ({error.strerror}); stop what uses it or "
                f"change `{setting}`"
            ) from error


def accepts_connections(host: str, port: int) -> bool:
    """True if something listens on host:port; a readiness check."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM while cleaning up, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in old:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def signal_group(root: ProcessIdentity, number: signal.Signals) -> None:
    """Signal the group that `root` leads. A group outlives its leader and keeps its number, which
    the kernel gives to no other process meanwhile; a leader that was replaced is left alone."""
    current = ProcessIdentity.of(root.pid)
    if current is not None and current != root:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(root.pid, number)


def wait_for_end(processes: Iterable[ProcessIdentity], timeout_s: float) -> None:
    """Return when all have ended or after `timeout_s` seconds."""
    processes = tuple(processes)
    deadline = time.monotonic() + timeout_s
    while any(each.alive() for each in processes) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _family(root: ProcessIdentity) -> list[ProcessIdentity]:
    """`root`, its descendants, and the members of the group or session it leads."""
    if (ProcessIdentity.of(root.pid) or root) != root:
        return []  # the pid names a stranger now
    children: dict[int, list[int]] = {}
    members: list[int] = [root.pid]
    for entry in os.listdir("/proc"):
        fields = stat_fields(int(entry)) if entry.isdigit() else None
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
            if root.pid in (int(fields[2]), int(fields[3])):
                members.append(int(entry))
    seen: dict[int, None] = {}
    while members:
        pid = members.pop()
        if pid not in seen:
            seen[pid] = None
            members.extend(children.get(pid, []))
    found = [ProcessIdentity.of(pid) for pid in seen if pid != os.getpid()]
    return [each for each in found if each is not None]


def stat_fields(pid: int, zombies: bool = False) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on (state, ppid, pgrp, session, ...)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" and not zombies else fields


def boot_id() -> str:
    """The kernel's name for this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
