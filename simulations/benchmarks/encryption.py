"""`fedtags-sim bench encryption`: our double envelope beside NVIDIA FLARE's use of TenSEAL.

What is timed, for one party and 1M parameters, in wall-clock seconds (ours takes up to two cores:
this process masks while child processes encrypt; so CPU-seconds, the children's too, are told
beside them):

- protect, ours: `SharedKeys.protect`, from packed residues to the bytes of the upload: MAC tags,
  pairwise masks, BFV encryption in child processes, serialising. Quantising and packing, which CKKS
  does not need, are told apart (`quantise_s`).
- protect, theirs: `ckks_vector(...)` and `serialize()`, from floats to bytes. No masks, no MAC: any
  party could open what any other one sends.
- open: from the sum's bytes to residues with their MAC checked, beside to floats.
- add: at the coordinator, from all uploads' bytes to the sum's bytes, divided by the parties.

Keys are agreed before and are not timed. The contenders take turns; figures are medians, and a
speed-up is the median of the ratios of neighbours. Memory is measured in fresh processes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from coordinator.aggregate import Adder
from privacy.ciphertexts import MODULUS, SLOTS
from privacy.encryption import RunKey
from privacy.encryption_process import Children
from privacy.key_agreement import ExchangeKeys, KeyAgreement
from privacy.masking import SumLabel, pairwise_mask
from privacy.packing import DeltaCode, field_chunks, pack_fields, unpack_fields
from privacy.shared_keys import SharedKeys
from simulations.benchmarks.figures import at_least, at_most

if TYPE_CHECKING:
    from simulations.benchmarks.documented_tenseal import DocumentedTenseal

PARTIES = (3, 10)
CONTENDERS = ("ours", "ckks")
MEGABYTE = 1e6


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are the benchmark, smaller ones try that it works."""

    parameters: int = 1_000_000
    coordinator_parameters: int = 5_000_000
    repeats: int = 5


def bench_encryption(progress: Progress, sizes: Sizes | None = None) -> dict[str, Any]:
    """Run the benchmark: a minute or two."""
    sizes = sizes or Sizes()
    task = progress.add_task("", total=5)
    figures: dict[str, float] = {}
    steps: dict[str, Callable[[], dict[str, float]]] = {
        **{f"{n} parties": partial(_speeds, n, sizes) for n in PARTIES},
        "masks": lambda: _masks(sizes),
        "memory of a party": lambda: _party_memory(sizes),
        "memory of the coordinator": lambda: _coordinator_memory(sizes),
    }
    for name, step in steps.items():
        progress.update(task, description=name)
        figures |= step()
        progress.advance(task)
    progress.remove_task(task)
    for what in ("protect", "open"):
        figures[f"{what}_speedup"] = min(figures[f"{what}_speedup_{n}"] for n in PARTIES)
    least = {"protect_speedup": 10.0, "open_speedup": 2.0}
    most = {
        "bytes_up_per_parameter": 4.1,
        "masks_9_peers_ms": 100.0,
        "coordinator_peak_mb_5m": 1000.0,
    }
    return {
        "benchmark": "encryption",
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "goals": {
            **{name: at_most(figures[name], limit) for name, limit in most.items()},
            **{name: at_least(figures[name], goal) for name, goal in least.items()},
        },
    }


# Speed --------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """Seconds of wall and of CPU by name: this process's, and that of `children`."""

    children: Callable[[], list[int]]
    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` returns, timed."""
        cpu, started = self._cpu(), time.perf_counter()
        result = work()
        self.wall.setdefault(name, []).append(time.perf_counter() - started)
        self.cpu.setdefault(name, []).append(self._cpu() - cpu)
        return result

    def forget(self) -> None:
        """Start again."""
        self.wall.clear()
        self.cpu.clear()

    def _cpu(self) -> float:
        return time.process_time() + sum(_child_cpu_seconds(pid) for pid in self.children())


def _child_cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _speeds(parties: int, sizes: Sizes) -> dict[str, float]:
    from simulations.benchmarks.documented_tenseal import DocumentedTenseal

    names = tuple(f"party-{number}" for number in range(parties))
    with Adder() as adder:
        bench = Bench(agreed_keys(names), DocumentedTenseal(), adder, sizes)
        bench.turn(0)
        bench.clock.forget()  # children and caches began there
        for number in range(sizes.repeats):
            sent = bench.turn(number + 1)
        for one in bench.keys.values():
            one.erase()
    return _figures(bench.clock, parties, sent, sizes.parameters)


class Bench:
    """Both contenders with their keys, and the same values for all parties."""

    def __init__(
        self,
        keys: dict[str, SharedKeys],
        theirs: DocumentedTenseal,
        adder: Adder,
        sizes: Sizes,
    ) -> None:
        self.keys, self.theirs, self.adder = keys, theirs, adder
        self.names = tuple(keys)
        self.values = np.random.default_rng(0).normal(0, 0.01, sizes.parameters)
        self.code = DeltaCode(bound=0.05, largest_weight=1.0, parties=len(keys))
        mine = children_of(keys[self.names[0]])
        self.clock = Clock(lambda: [*mine.pids, *adder.child_pids()])

    def turn(self, number: int) -> tuple[int, int, int, int]:
        """One round of both, checked. Bytes of upload and sum: ours, then theirs."""
        clock, names, parties = self.clock, self.names, len(self.names)
        me, label = self.keys[names[0]], SumLabel(1, number + 1, "update", names)
        packed = clock.time("quantise", lambda: _packed(self.values, self.code))
        upload = clock.time("ours protect", lambda: me.protect(packed, label))
        their_upload = clock.time("ckks protect", lambda: self.theirs.protect(self.values))
        uploads = {name: self.keys[name].protect(packed, label) for name in names[1:]}
        uploads[names[0]] = upload
        total = clock.time("ours add", lambda: self.adder.total(uploads))
        their_total = clock.time("ckks add", lambda: self.theirs.add([their_upload] * parties))
        opened = clock.time("ours open", lambda: me.open_total(total, len(packed), label))
        their_opened = clock.time("ckks open", lambda: self.theirs.open(their_total))
        _check_sum(opened, packed, parties)
        assert np.allclose(their_opened, self.values * parties, atol=1e-5)
        return len(upload), len(total), len(their_upload), len(their_total)


def _packed(values: NDArray[np.float64], code: DeltaCode) -> NDArray[np.int64]:
    return pack_fields(code.quantise(values, 1.0, np.random.default_rng(0)))


def _check_sum(opened: NDArray[np.int64], packed: NDArray[np.int64], parties: int) -> None:
    count = 2 * packed.size
    assert np.array_equal(unpack_fields(opened, count), parties * unpack_fields(packed, count))


def _figures(
    clock: Clock, parties: int, sent: tuple[int, int, int, int], parameters: int
) -> dict[str, float]:
    figures = {}
    for what in ("protect", "open", "add"):
        share = parties if what == "add" else 1
        for who in CONTENDERS:
            wall, cpu = clock.wall[f"{who} {what}"], clock.cpu[f"{who} {what}"]
            figures[f"{who}_{what}_s_{parties}"] = statistics.median(wall) / share
            figures[f"{who}_{what}_cpu_s_{parties}"] = statistics.median(cpu) / share
        pairs = zip(clock.wall[f"ckks {what}"], clock.wall[f"ours {what}"], strict=True)
        figures[f"{what}_speedup_{parties}"] = statistics.median(a / b for a, b in pairs)
    figures["quantise_s"] = statistics.median(clock.wall["quantise"])
    names = ("bytes_up", "bytes_down", "ckks_bytes_up", "ckks_bytes_down")
    per = {f"{name}_per_parameter": one / parameters for name, one in zip(names, sent, strict=True)}
    return figures | per


def _masks(sizes: Sizes) -> dict[str, float]:
    """Milliseconds of one party's masks towards nine others."""
    names = tuple(f"party-{number}" for number in range(10))
    pairs = {name: os.urandom(32) for name in names[1:]}
    found = []
    for attempt in range(sizes.repeats):
        label = SumLabel(1, attempt + 1, "update", names)
        started = time.perf_counter()
        for chunk in range(field_chunks(sizes.parameters)):
            pairwise_mask(names[0], pairs, label, chunk)
        found.append(time.perf_counter() - started)
    return {"masks_9_peers_ms": 1000 * statistics.median(found)}


def agreed_keys(names: tuple[str, ...]) -> dict[str, SharedKeys]:
    """The keys of a cohort that agreed on them, every member's by its name."""
    exchange = {name: ExchangeKeys.generate() for name in names}
    offers = {name: one.offer for name, one in exchange.items()}
    sides = {
        name: KeyAgreement(name, one, names[0], offers, bytes(32)) for name, one in exchange.items()
    }
    seals = {name: side.seal() for name, side in sides.items()}
    return {name: side.complete(seals) for name, side in sides.items()}


def children_of(keys: SharedKeys) -> Children:
    """The processes that hold a member's run key; for measuring only."""
    return keys._run_key._children


# Memory -------------------------------------------------------------------------------------------


def _in_fresh_process(*arguments: str | int | Path) -> dict[str, float]:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "simulations.benchmarks.encryption", *map(str, arguments)],
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _party_memory(sizes: Sizes) -> dict[str, float]:
    parts = ("party", "ckks-party")
    found = [_in_fresh_process(part, sizes.parameters) for part in parts]
    return {name: value for figures in found for name, value in figures.items()}


def party(parameters: int) -> dict[str, float]:
    """Peak of one party that protects and opens: its process and its children, each at its peak.

    The other two take their turns in the same process, so this is an upper bound.
    """
    names = ("bank", "retailer", "telecom")
    keys, adder = agreed_keys(names), Adder()
    values = np.random.default_rng(0).normal(0, 0.01, parameters)
    packed = _packed(values, DeltaCode(0.05, 1.0, len(names)))
    label = SumLabel(1, 1, "update", names)
    total = adder.total({name: one.protect(packed, label) for name, one in keys.items()})
    keys["bank"].open_total(total, len(packed), label)
    return {"party_peak_mb": _peak_mb(children_of(keys["bank"]).pids)}


def ckks_party(parameters: int) -> dict[str, float]:
    """Peak of one party that protects, and opens as much."""
    from simulations.benchmarks.documented_tenseal import DocumentedTenseal

    theirs = DocumentedTenseal()
    upload = theirs.protect(np.random.default_rng(0).normal(0, 0.01, parameters))
    theirs.open(upload)
    return {"ckks_party_peak_mb": _peak_mb([])}


def _coordinator_memory(sizes: Sizes) -> dict[str, float]:
    """10 parties' uploads of 5M parameters are added by a process that does nothing else."""
    chunks = field_chunks(sizes.coordinator_parameters)
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as folder, RunKey.generate() as key:
        upload = Path(folder) / "upload"
        upload.write_bytes(key.encrypt(rng.integers(0, MODULUS, SLOTS) for _ in range(chunks)))
        return _in_fresh_process("coordinator", upload)


def coordinator(upload: Path) -> dict[str, float]:
    """Peak of adding 10 parties' uploads, these and the sum included; every one has its bytes."""
    with Adder() as adder:
        started = time.perf_counter()
        adder.total({f"party-{number}": upload.read_bytes() for number in range(10)})
        seconds = time.perf_counter() - started
        return {
            "coordinator_peak_mb_5m": _peak_mb(adder.child_pids()),
            "coordinator_add_s_5m": seconds,
        }


def _peak_mb(children: list[int]) -> float:
    """This process's and its children's largest resident sizes, added."""
    return 1024 * (_peak_kib("self") + sum(map(_peak_kib, children))) / MEGABYTE


def _peak_kib(process: int | str) -> int:
    # Not `ru_maxrss`, which a process begins with its parent's.
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Measure one part and print its figures."""
    part, argument = sys.argv[1:]
    measured = {
        "party": lambda: party(int(argument)),
        "ckks-party": lambda: ckks_party(int(argument)),
        "coordinator": lambda: coordinator(Path(argument)),
    }[part]()
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    main()
