"""`python -m tests.fuzz`: coverage-guided fuzzing (atheris, libFuzzer) of every target.

Half a million cases in all; a finding is an error without a name, a dead child, a case that takes a
second, or 512 MB more than what the process held before its first case. What was found is left in
.fuzz/, beside the inputs that reached new code, and the exit status is 1.

`python -m tests.fuzz NAME` runs one target, and `python -m tests.fuzz NAME FILE` only the input in
that file.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(".fuzz")
LIMIT_S = 1
MEMORY_MB = 512
MEGABYTE = 1 << 20


def main() -> int:
    """Every target in a process of its own, and a line for each."""
    from tests.fuzz.targets import TARGETS

    total, found = 0, []
    for target in TARGETS:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", target.name], capture_output=True, check=False
        )
        output = done.stderr.decode(errors="replace")
        cases, slowest, peak = (
            _statistic(output, name)
            for name in ("number_of_executed_units", "slowest_unit_time_sec", "peak_rss_mb")
        )
        total += cases
        fine = done.returncode == 0 and cases >= target.cases
        print(
            f"{target.name:22} {cases:7,} cases in {time.monotonic() - started:5.0f} s, "
            f"slowest {slowest} s, peak {peak} MB: {'fine' if fine else 'A FINDING'}",
            flush=True,
        )
        if not fine:
            found.append(target.name)
            print("\n".join(output.splitlines()[-40:]), flush=True)
    print(f"{total:,} cases; findings: {', '.join(found) or 'none'}")
    return 1 if found else 0


def _statistic(output: str, name: str) -> int:
    match = re.search(rf"stat::{name}:\s*(\d+)", output)
    return int(match.group(1)) if match else 0


def fuzz(name: str, files: list[str]) -> None:
    """Run one target; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["privacy", "models", "party_client"]):
        from tests.fuzz.targets import TARGETS

    target = next(one for one in TARGETS if one.name == name)
    label = name.replace(" ", "-")
    corpus = FOLDER / label
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
        target.check(seed)  # what is made once is made here
    options = [
        f"-timeout={LIMIT_S}",
        f"-rss_limit_mb={_resident_mb() + MEMORY_MB}",
        f"-artifact_prefix={FOLDER}/{label}-",
        "-print_final_stats=1",
    ]
    inputs = files or [f"-runs={target.cases}", str(corpus)]
    atheris.Setup([sys.argv[0], *options, *inputs], target.check)
    atheris.Fuzz()


def _resident_mb() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    held = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return held * 1024 // MEGABYTE


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fuzz(sys.argv[1], sys.argv[2:])
    sys.exit(main())
