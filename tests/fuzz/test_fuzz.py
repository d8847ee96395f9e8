"""Hostile inputs by the thousand to everything that parses: named errors only, none in a second."""

from __future__ import annotations

import os
import signal
import time
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.messages import COORDINATOR_MESSAGES, PARTY_MESSAGES
from tests.fuzz.samples import COORDINATOR_SAMPLES, PARTY_SAMPLES
from tests.fuzz.targets import TARGETS, Target, encryption, party_service

LIMIT_S = 1.0
EXAMPLES = 300
EXPENSIVE = {"run key": 20}
BY_NAME = {target.name: target for target in TARGETS}


@cache
def seeds(name: str) -> list[bytes]:
    return BY_NAME[name].seeds()


@st.composite
def hostile(draw: st.DrawFn, name: str) -> bytes:
    """Any bytes; or a well-formed input with some bytes replaced, cut off or put in between."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(seeds(name))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        until = min(len(data), at + draw(st.integers(0, 8)))
        data[at:until] = draw(st.binary(max_size=8))
    return bytes(data)


def test_every_type_of_message_is_a_seed() -> None:
    assert tuple(map(type, COORDINATOR_SAMPLES)) == COORDINATOR_MESSAGES
    assert tuple(map(type, PARTY_SAMPLES)) == PARTY_MESSAGES


def test_the_deep_run_is_at_least_a_hundred_thousand_cases() -> None:
    assert sum(target.cases for target in TARGETS) >= 100_000


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_well_formed_inputs_are_no_finding(target: Target) -> None:
    for seed in seeds(target.name):
        target.check(seed)


@pytest.mark.parametrize("name", BY_NAME)
def test_hostile_bytes_meet_named_errors_only_and_in_time(name: str) -> None:
    target = BY_NAME[name]
    target.check(b"")  # what is made once is made here
    slowest = 0.0

    @settings(
        max_examples=EXPENSIVE.get(name, EXAMPLES),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(hostile(name))
    def check(data: bytes) -> None:
        nonlocal slowest
        started = time.monotonic()
        target.check(data)
        slowest = max(slowest, time.monotonic() - started)

    check()
    assert slowest < LIMIT_S


def test_a_child_that_dies_of_an_input_is_a_finding() -> None:
    for name in ("upload", "total", "upload in the child", "total in the child"):
        target = BY_NAME[name]
        target.check(seeds(name)[0])
        for pid in encryption().pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(AssertionError, match="died"):
            target.check(seeds(name)[0])
        encryption().close()
        encryption.cache_clear()


def test_an_error_that_the_service_did_not_expect_is_a_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("not a named error")

    monkeypatch.setattr(party_service().party, "_answer", fails)
    with pytest.raises(ZeroDivisionError):
        BY_NAME["service"].check(b"anything")
