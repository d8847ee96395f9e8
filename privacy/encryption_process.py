"""The parent's side of `privacy.encryption_worker`: starts children, asks them, survives them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence

from privacy.ciphertexts import CHUNK_BYTES, CIPHERTEXT_BYTES, SUM_BYTES
from privacy.encryption_worker import DIGEST_BYTES, DONE, REFUSED, REQUEST
from privacy.errors import ProtocolError

# Address space of one child: it takes up to 60 MB (measured).
MEMORY_BYTES = 512 << 20
# For a request, and for its reply, which take some 20 ms: a child that takes longer hangs.
LIMIT_S = 60.0
# At a time; more than two hardly help, because the parent masks meanwhile.
CHILDREN = 2
# Fewer changes between the two processes than with the usual 64 KiB.
_PIPE_BYTES = 1 << 20
_REPLY_BYTES = {b"K": DIGEST_BYTES, b"E": CIPHERTEXT_BYTES, b"D": CHUNK_BYTES, b"A": SUM_BYTES}
_AGAIN = "start the run again"
# Number of ciphertexts, and the payload in parts: for b"A", one part a party.
Request = tuple[int, Sequence[bytes | memoryview]]


def worker_command(memory_bytes: int = MEMORY_BYTES) -> list[str]:
    """The child's command line: isolated, so that neither its folder nor its environment chooses
    what it imports."""
    return [sys.executable, "-I", "-m", "privacy.encryption_worker", str(memory_bytes)]


class Children:
    """Up to CHILDREN processes with one key, or none, which share the work.

    Invariant: either every child is idle between two calls, or all are ended and every call raises
    ProtocolError. Threads may share it. The children end with the last reference to this, and with
    this process.
    """

    def __init__(
        self,
        seed: bytes | None = None,
        command: Sequence[str] | None = None,
        limit_s: float = LIMIT_S,
    ) -> None:
        """`seed`: makes the secret key, in a child that starts here; None for adding without one.

        Raises ProtocolError if that child does not answer.
        """
        self._seed = seed
        self._command = worker_command() if command is None else command
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._children: list[_Child] = []
        self._closed = False
        self.key_digest = b"" if seed is None else self.ask(b"K", [(1, [seed])])[0]
        """SHA-256 of the secret key that the seed makes."""

    @property
    def pids(self) -> list[int]:
        """The children's process ids."""
        return [child.process.pid for child in self._children]

    def ask(self, operation: bytes, requests: Iterable[Request]) -> list[bytes]:
        """The replies to all requests, in order (`privacy.encryption_worker`). The next request
        is made while the children work.

        Raises ProtocolError if a child refuses one, and they go on; or if a child has died, takes
        too long or answers nonsense, and they are all ended.
        """
        with self._lock:
            if self._closed:
                raise ProtocolError(f"the encryption process has ended; {_AGAIN}")
            try:
                replies = self._exchange(operation, requests)
            except BaseException:
                self._end()
                raise
        if None in replies:
            raise ProtocolError("a ciphertext is not one of this protocol's parameters")
        return [one for one in replies if one is not None]

    def _exchange(self, operation: bytes, requests: Iterable[Request]) -> list[bytes | None]:
        replies: list[bytes | None] = []
        busy: deque[_Child] = deque()  # the first one was asked first
        for count, payload in requests:
            if len(busy) == CHILDREN:
                child = busy.popleft()
                replies.append(child.receive())
            else:
                child = self._idle_child(len(busy), operation)
            child.send(operation, count, payload)
            busy.append(child)
        replies.extend(child.receive() for child in busy)
        return replies

    def _idle_child(self, number: int, operation: bytes) -> _Child:
        if number == len(self._children):
            child = _Child(self._command, self._limit_s)
            self._children.append(child)
            if self._seed is not None and operation != b"K":
                child.send(b"K", 1, [self._seed])
                child.receive()
        return self._children[number]

    def close(self) -> None:
        """Kill the children, wait for their end and forget the seed; idempotent."""
        self._closed = True
        for child in self._children:
            child.process.kill()  # what another thread waits for fails now
        with self._lock:
            self._end()

    def _end(self) -> None:
        self._closed, self._seed = True, None
        for child in self._children:
            child.end()
        self._children = []


class _Child:
    def __init__(self, command: Sequence[str], limit_s: float) -> None:
        self._limit_s = limit_s
        # A subprocess, not a fork of this process: that may have threads. A process group of its
        # own: Ctrl-C is for the parent.
        self.process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            bufsize=0,
            process_group=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin.fileno(), self.process.stdout.fileno()
        for pipe in (self._to, self._from):
            os.set_blocking(pipe, False)
            with contextlib.suppress(PermissionError):  # this user's pipes hold enough already
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.end = weakref.finalize(self, _end, self.process, os.getpid())
        self._reply_bytes = 0

    def send(self, operation: bytes, count: int, payload: Sequence[bytes | memoryview]) -> None:
        self._reply_bytes = count * _REPLY_BYTES[operation]
        deadline = time.monotonic() + self._limit_s
        for part in (REQUEST.pack(operation, count, len(payload)), *payload):
            left = memoryview(part)
            while left:
                self._wait(self._to, select.POLLOUT, deadline)
                try:
                    left = left[os.write(self._to, left) :]
                except BrokenPipeError as error:
                    raise self._failed("has died") from error

    def receive(self) -> bytes | None:
        """The reply to what was sent last; None: refused."""
        deadline = time.monotonic() + self._limit_s
        status = self._read(1, deadline)
        if status == DONE:
            return self._read(self._reply_bytes, deadline)
        if status != REFUSED:
            raise self._failed("answers nonsense")
        return None

    def _read(self, count: int, deadline: float) -> bytes:
        parts = []
        while count:
            self._wait(self._from, select.POLLIN, deadline)
            part = os.read(self._from, min(count, _PIPE_BYTES))
            if not part:
                raise self._failed("has died")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise self._failed("does not answer in time")

    def _failed(self, what: str) -> ProtocolError:
        self.end()
        return ProtocolError(
            f"the encryption process {what} (exit status {self.process.returncode}); {_AGAIN}, "
            "and if this comes again, install fedtags anew, or look for who sent what ends it"
        )


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """Kill and reap it and close its pipes; a fork of its owner closes its copies only."""
    if os.getpid() == owner:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
