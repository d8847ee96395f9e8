"""The child process: what ends it costs a named error, never the service or a leftover."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coordinator.aggregate import Adder as CoordinatorsAdder
from privacy.ciphertexts import CHUNK_BYTES, CIPHERTEXT_BYTES, MODULUS, SLOTS, SUM_BYTES
from privacy.encryption import Adder, RunKey
from privacy.encryption_process import MEMORY_BYTES, Children, worker_command
from privacy.encryption_worker import BATCH, REQUEST
from privacy.errors import ProtocolError

RNG = np.random.default_rng(1)
SEED = bytes(range(32))


def residues(count: int = 1) -> np.ndarray:
    return RNG.integers(0, MODULUS, (count, SLOTS))


def exists(pid: int) -> bool:
    """Whether a process of this number is there, a dead one that nobody reaped included."""
    return Path(f"/proc/{pid}").exists()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


# Ends of a child ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_dies_costs_a_named_error_and_is_reaped(number: signal.Signals) -> None:
    gc.collect()  # what other tests have left open
    before = descriptors()
    key = RunKey.generate()
    (pid,) = key._children.pids
    os.kill(pid, number)
    with pytest.raises(ProtocolError, match=rf"has died \(exit status -{number.value}\); start"):
        key.encrypt(residues())
    assert not exists(pid)
    assert descriptors() == before
    with pytest.raises(ProtocolError, match="has ended"):
        key.encrypt(residues())


def test_a_child_killed_in_the_midst_of_its_work_is_noticed() -> None:
    key = RunKey.generate()
    pids = []

    def rows():
        for number, row in enumerate(residues(200)):
            if number == 100:
                pids.extend(key._children.pids)
                os.kill(pids[0], signal.SIGKILL)
            yield row

    with pytest.raises(ProtocolError, match="has died"):
        key.encrypt(rows())
    assert len(pids) == 2
    assert not any(exists(pid) for pid in pids)


def test_the_coordinator_adds_on_after_its_child_has_died() -> None:
    with RunKey.generate() as key, CoordinatorsAdder() as adder:
        part = residues()
        uploads = {"bank": key.encrypt(part), "shop": key.encrypt(part)}
        adder.total(uploads)
        assert adder._child is not None
        (pid,) = adder._child._children.pids
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ProtocolError, match="has died"):
            adder.total(uploads)
        assert np.array_equal(key.decrypt(adder.total(uploads)), 2 * part % MODULUS)


def test_the_coordinator_says_whose_bytes_are_malformed() -> None:
    with RunKey.generate() as key, CoordinatorsAdder() as adder:
        good = key.encrypt(residues())
        with pytest.raises(ProtocolError, match=r"^shop: a ciphertext"):
            adder.total({"bank": good, "shop": bytes(len(good))})
        for unlike in ({}, {"bank": good, "shop": good + good}, {"bank": b"", "shop": b""}):
            with pytest.raises(ProtocolError, match="ciphertext"):
                adder.total(unlike)
        assert adder._child is None  # none of it came so far


def test_a_child_that_hangs_is_killed_at_the_time_limit() -> None:
    children = Children(SEED, limit_s=2)
    (pid,) = children.pids
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(ProtocolError, match="does not answer in time"):
        children.ask(b"E", [(1, [bytes(CHUNK_BYTES)])])
    assert time.monotonic() - started < 10
    assert not exists(pid)


def test_a_child_that_takes_no_input_is_killed_at_the_time_limit() -> None:
    children = Children(SEED, limit_s=2)
    os.kill(children.pids[0], signal.SIGSTOP)
    with pytest.raises(ProtocolError, match="does not answer in time"):
        children.ask(b"E", [(BATCH, [bytes(BATCH * CHUNK_BYTES)])])


@pytest.mark.parametrize(
    "answers",
    ["import os; os.write(1, b'x' * 100)", "print('hello', flush=True)", "", "raise SystemExit(7)"],
)
def test_a_child_that_answers_nonsense_is_refused(answers: str) -> None:
    gc.collect()  # what other tests have left open
    before = descriptors()
    with pytest.raises(ProtocolError, match=r"nonsense|has died"):
        Children(SEED, command=[sys.executable, "-I", "-c", answers])
    gc.collect()
    assert descriptors() == before


def test_a_child_that_answers_too_little_is_refused() -> None:
    half = "import os; os.read(0, 100); os.write(1, b'\\1' + bytes(20))"
    with pytest.raises(ProtocolError, match="has died"):
        Children(SEED, command=[sys.executable, "-I", "-c", half])


# Memory -------------------------------------------------------------------------------------------


def test_every_child_runs_under_limits_of_memory_and_without_core_files() -> None:
    with RunKey.generate() as key, Adder() as adder:
        upload = key.encrypt(residues(40))
        adder.add([upload])
        pids = key._children.pids + adder._children.pids
        assert len(pids) == 4
        for pid in pids:
            assert resource.prlimit(pid, resource.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES)
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)


def test_a_child_without_enough_memory_costs_a_named_error() -> None:
    with pytest.raises(ProtocolError, match="has died"):
        Children(SEED, command=worker_command(8 << 20))


def test_a_child_that_runs_out_of_memory_costs_a_named_error() -> None:
    children = Children(SEED)
    resource.prlimit(children.pids[0], resource.RLIMIT_AS, (1 << 20, MEMORY_BYTES))
    with pytest.raises(ProtocolError, match="has died"):
        children.ask(b"E", [(BATCH, [bytes(BATCH * CHUNK_BYTES)])] * 2)


def test_a_child_stays_far_below_its_limit() -> None:
    with RunKey.generate() as key, Adder() as adder:
        upload = key.encrypt(residues(48))
        key.decrypt(adder.add([upload] * 32))
        for pid in key._children.pids + adder._children.pids:
            assert address_space_peak(pid) < MEMORY_BYTES / 4


def address_space_peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return 1024 * int(fields.get("VmPeak", fields["VmSize"]).split()[0])


# What a child knows and does ----------------------------------------------------------------------


def test_the_coordinators_child_has_no_key_to_use() -> None:
    for operation, size in ((b"E", CHUNK_BYTES), (b"D", SUM_BYTES)):
        with pytest.raises(ProtocolError, match=r"has died \(exit status 3\)"):
            Children().ask(operation, [(1, [bytes(size)])])


def test_a_party_does_not_add_and_its_key_is_given_once() -> None:
    for operation, payload in ((b"A", bytes(CIPHERTEXT_BYTES)), (b"K", SEED)):
        with pytest.raises(ProtocolError, match=r"has died \(exit status 3\)"):
            Children(SEED).ask(operation, [(1, [payload])])


def test_the_key_is_in_no_command_line_and_no_environment() -> None:
    children = Children(SEED)
    for file in ("cmdline", "environ"):
        content = Path(f"/proc/{children.pids[0]}/{file}").read_bytes()
        assert SEED not in content
        assert SEED.hex().encode() not in content
    children.close()


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST.pack(b"X", 1, 1),
        REQUEST.pack(b"A", 0, 1),
        REQUEST.pack(b"A", 1, 0),
        REQUEST.pack(b"A", 2**32 - 1, 1),
        REQUEST.pack(b"A", 1, 2**32 - 1),
        REQUEST.pack(b"A", 1, 1) + b"too short",
        b"half",
    ],
)
def test_a_wrong_request_ends_the_child_before_it_reserves_memory(request_: bytes) -> None:
    done = subprocess.run(worker_command(), input=request_, capture_output=True, timeout=60)
    assert done.returncode == 3
    assert done.stdout == b""


def test_the_child_refuses_by_itself_and_goes_on() -> None:
    """The parent compares the same before; this is the second wall."""
    keyed, keyless = Children(SEED), Children()
    (upload,) = keyed.ask(b"E", [(1, [residues().tobytes()])])
    (total,) = keyless.ask(b"A", [(1, [upload])])
    for children, operation, good in ((keyed, b"D", total), (keyless, b"A", upload)):
        for bad in (
            bytes(len(good)),
            RNG.bytes(len(good)),
            good[:200] + b"\xff" * (len(good) - 200),
        ):
            with pytest.raises(ProtocolError, match="not one of this protocol's"):
                children.ask(operation, [(1, [bad])])
            assert len(children.ask(operation, [(1, [good])])) == 1
    with pytest.raises(ProtocolError, match="not one of this protocol's"):
        keyless.ask(b"A", [(1, [upload, bytes(len(upload)), upload])])
    assert keyless.ask(b"A", [(1, [upload])]) == [total]
    for children in (keyed, keyless):
        children.close()


# Life and death -----------------------------------------------------------------------------------


def test_erasing_the_key_ends_its_children_and_leaves_nothing() -> None:
    gc.collect()  # what other tests have left open
    before = descriptors()
    key = RunKey.generate()
    key.encrypt(residues(40))
    pids = key._children.pids
    assert len(pids) == 2
    key.erase()
    assert not any(exists(pid) for pid in pids)
    assert descriptors() == before
    assert key._children._seed is None


def test_a_key_that_nobody_holds_any_more_ends_its_child() -> None:
    gc.collect()  # what other tests have left open
    before = descriptors()
    pids = []
    for _ in range(3):
        pids.extend(RunKey.generate()._children.pids)
    gc.collect()
    assert not any(exists(pid) for pid in pids)
    assert descriptors() == before


def test_a_key_erased_in_another_thread_ends_what_is_under_way() -> None:
    key = RunKey.generate()
    erased, failures = threading.Event(), []

    def rows():
        for number, row in enumerate(residues(200)):
            if number == 100:
                threading.Thread(target=lambda: (key.erase(), erased.set())).start()
                time.sleep(0.2)
            yield row

    try:
        key.encrypt(rows())
    except ProtocolError as error:
        failures.append(str(error))
    assert failures
    assert erased.wait(20)
    with pytest.raises(ProtocolError, match="erased"):
        key.to_bytes()


def test_threads_may_share_a_key() -> None:
    with RunKey.generate() as key, Adder() as adder:
        parts = [residues(20) for _ in range(4)]
        uploads: list[bytes] = [b""] * len(parts)

        def work(number: int) -> None:
            uploads[number] = key.encrypt(parts[number])

        threads = [threading.Thread(target=work, args=(one,)) for one in range(len(parts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for part, upload in zip(parts, uploads, strict=True):
            assert np.array_equal(key.decrypt(adder.add([upload])), part)


def test_a_fork_of_the_service_does_not_end_its_children() -> None:
    with RunKey.generate() as key:
        child = os.fork()
        if child == 0:
            key.erase()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert len(key.encrypt(residues())) == CIPHERTEXT_BYTES


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_children_end_with_the_service(end: str) -> None:
    program = (
        "import os, signal, numpy as np\n"
        "from privacy.encryption import RunKey\n"
        "key = RunKey.generate()\n"
        "key.encrypt(np.zeros((40, 4096), np.int64))\n"
        "print(*key._children.pids, flush=True)\n" + end
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=60)
    pids = [int(one) for one in done.stdout.split()]
    assert len(pids) == 2
    assert wait_for(lambda: not any(running(pid) for pid in pids))


def running(pid: int) -> bool:
    """Not ended; whoever adopted it may not have reaped it yet."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
