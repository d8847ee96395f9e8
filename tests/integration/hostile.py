"""Code of somebody who got in: tries what it can on a party's service, and prints what it got.

Not a test, and it uses nothing of fedtags. Each attempt ends in an error's name, or in what it
read.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

FILES = (
    *("party.toml", "policy.toml", "federation.json", "ledger.jsonl", "egress.jsonl"),
    *("peer_heads.json", "manifest.json", "profile.db", "run/service.sock"),
    *("keys/identity.pem", "keys/node", "keys/local.key", "keys/store.key", "keys/access.key"),
)
PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SEIZE = 16, 17, 0x4206
SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
libc = ctypes.CDLL(None, use_errno=True)


def tried(attempt: Callable[[], object]) -> str:
    try:
        return str(attempt())[:20_000]
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return type(error).__name__


def checked(result: int) -> str:
    if result == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return "done"


def read(path: Path | str) -> str:
    with open(path, "rb") as file:
        return file.read(1 << 16).decode("utf-8", "replace")


def memory(pid: int) -> str:
    start = int(read(f"/proc/{pid}/maps").split("-")[0], 16)
    with open(f"/proc/{pid}/mem", "rb") as file:
        file.seek(start)
        return file.read(64).hex()


def read_another_way(pid: int) -> str:
    buffer = ctypes.create_string_buffer(64)

    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    mine = Vector(ctypes.cast(buffer, ctypes.c_void_p), 64)
    theirs = Vector(ctypes.c_void_p(0x400000), 64)
    one = ctypes.c_ulong(1)
    return checked(
        libc.process_vm_readv(pid, ctypes.byref(mine), one, ctypes.byref(theirs), one, 0)
    )


def trace(pid: int, request: int) -> str:
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    libc.ptrace.restype = ctypes.c_long
    result = checked(libc.ptrace(request, pid, 0, 0))
    libc.ptrace(PTRACE_DETACH, pid, 0, 0)
    return result


def steal_descriptor(pid: int) -> str:
    opened = libc.syscall(SYS_PIDFD_OPEN, pid, 0)
    checked(opened)
    return checked(libc.syscall(SYS_PIDFD_GETFD, opened, 3, 0))


def say(path: str, data: bytes) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        try:
            connection.connect(path)
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            heard = b""
            while piece := connection.recv(1 << 16):
                heard += piece
        except OSError as error:
            return type(error).__name__
        return heard.hex()


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def take_place(path: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path + ".mine")
        os.rename(path + ".mine", path)
    return "mine"


def main(home: str, number: str, path: str) -> None:
    """Try everything on the service of this home, process and socket."""
    folder, pid = Path(home), int(number)
    found: dict[str, object] = {}
    for name in FILES:
        found[f"read {name}"] = tried(partial(read, folder / name))
        found[f"read {name} by the process"] = tried(
            partial(read, f"/proc/{pid}/root{home}/{name}")
        )
    for name in ("", "keys", "reports", "logs"):
        found[f"list home/{name}"] = tried(partial(os.listdir, folder / name))
    found["list folder of the process"] = tried(partial(os.listdir, f"/proc/{pid}/cwd"))
    found["list descriptors"] = tried(partial(os.listdir, f"/proc/{pid}/fd"))
    found["read a descriptor"] = tried(partial(read, f"/proc/{pid}/fd/3"))
    found["read environ"] = tried(partial(read, f"/proc/{pid}/environ"))
    found["read memory"] = tried(partial(memory, pid))
    if os.geteuid() != os.stat(path).st_uid:  # what follows would harm the service if it could
        found["write home"] = tried(partial((folder / "mine").write_text, "mine"))
        found["write policy"] = tried(partial((folder / "policy.toml").open, "ab"))
        found["read memory another way"] = tried(partial(read_another_way, pid))
        found["attach"] = tried(partial(trace, pid, PTRACE_ATTACH))
        found["seize"] = tried(partial(trace, pid, PTRACE_SEIZE))
        found["take a descriptor"] = tried(partial(steal_descriptor, pid))
        found["stop it"] = tried(partial(os.kill, pid, signal.SIGSTOP))
        found["end it"] = tried(partial(os.kill, pid, signal.SIGKILL))
        found["remove the socket"] = tried(partial(os.unlink, path))
        found["take the socket's place"] = tried(partial(take_place, path))
        found["change the socket"] = tried(partial(os.chmod, path, 0o777))
    frames = {
        "an empty frame": b"",
        "a frame of zeros": bytes(5000),
        "a frame that asks for runs": json.dumps({"list": "runs"}).encode(),
        "a frame that asks for SQL": b"SELECT * FROM customers; --",
        "a frame that looks signed": bytes(64) + framed(b"\xa1\x64type\x64runs"),
        "a large frame": os.urandom(20 << 20),
    }
    said = {name: say(path, framed(data)) for name, data in frames.items()}
    said["a length beyond all"] = say(path, b"\xff\xff\xff\xff" + bytes(1000))
    said["less than was promised"] = say(path, (1000).to_bytes(4, "big") + b"short")
    said["half a length"] = say(path, b"\0\0")
    said["a web request"] = say(path, b"GET / HTTP/1.1\r\nHost: party\r\n\r\n")
    said["nothing"] = say(path, b"")
    print(json.dumps({**found, "said": said}))
