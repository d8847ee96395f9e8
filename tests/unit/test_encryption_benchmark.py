"""The encryption benchmark, small: both contenders do what they are timed for."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from privacy.packing import DATA_SLOTS
from simulations.benchmarks import encryption
from simulations.benchmarks.documented_tenseal import DocumentedTenseal

PARAMETERS = 2 * DATA_SLOTS + 1


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    with Progress(disable=True) as progress:
        return encryption.bench_encryption(progress, encryption.Sizes(PARAMETERS, PARAMETERS, 1))


def test_the_benchmark_tells_every_figure_that_has_a_goal(result: dict[str, Any]) -> None:
    assert result["benchmark"] == "encryption"
    assert set(result["goals"]) == {
        "bytes_up_per_parameter",
        "masks_9_peers_ms",
        "coordinator_peak_mb_5m",
        "protect_speedup",
        "open_speedup",
    }
    assert set(result["goals"]) < set(result["figures"])
    assert min(result["figures"].values()) >= 0


def test_a_speed_up_is_the_smaller_of_both_cohorts(result: dict[str, Any]) -> None:
    figures = result["figures"]
    for what in ("protect", "open"):
        both = [figures[f"{what}_speedup_{parties}"] for parties in encryption.PARTIES]
        assert figures[f"{what}_speedup"] == min(both)


def test_bytes_are_those_of_whole_ciphertexts(result: dict[str, Any]) -> None:
    figures = result["figures"]
    assert figures["bytes_up_per_parameter"] == pytest.approx(2 * 32972 / PARAMETERS, abs=1e-3)
    assert figures["bytes_down_per_parameter"] == pytest.approx(2 * 65659 / PARAMETERS, abs=1e-3)


def test_what_we_are_measured_against_adds_what_it_is_given() -> None:
    theirs = DocumentedTenseal()
    values = np.random.default_rng(0).normal(size=5000)
    uploads = [theirs.protect(values), theirs.protect(2 * values)]
    assert uploads[0] != theirs.protect(values)
    assert np.allclose(theirs.open(theirs.add(uploads)), 3 * values, atol=1e-5)


def test_what_we_are_measured_against_writes_nothing_to_stdout(
    capfd: pytest.CaptureFixture[str],
) -> None:
    DocumentedTenseal().protect(np.zeros(5000))
    assert capfd.readouterr().out == ""


def test_the_clock_counts_the_childrens_seconds_too() -> None:
    with encryption.RunKey.generate() as key:
        clock = encryption.Clock(lambda: key._children.pids)
        rows = np.zeros((600, encryption.SLOTS), np.int64)
        clock.time("all", lambda: key.encrypt(rows))
        alone = encryption.Clock(list)
        alone.time("parent", lambda: key.encrypt(rows))
    assert clock.cpu["all"][0] > 2 * alone.cpu["parent"][0] > 0


def test_a_peak_of_memory_is_the_process_own() -> None:
    held = np.ones(40_000_000)  # 320 MB here, while a fresh process is measured
    started = time.monotonic()
    assert encryption._in_fresh_process("party", PARAMETERS)["party_peak_mb"] < 300
    assert time.monotonic() - started < 60
    assert held.sum() == held.size
