"""Readiness verifies a file when it changed, or after a while, and not at each question."""

from __future__ import annotations

from pathlib import Path

import pytest

from party_client import metrics, readiness
from party_client.readiness import Readiness
from party_client.settings import PartySettings
from party_client.setup import initialise


@pytest.fixture
def settings(tmp_path: Path) -> PartySettings:
    return initialise(tmp_path / "bank", "bank", 1000)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the files were verified."""
    times: list[int] = []
    real = metrics.sound_files

    def counted(settings: PartySettings) -> dict[str, bool]:
        times.append(1)
        return real(settings)

    monkeypatch.setattr(metrics, "sound_files", counted)
    return times


def test_files_that_did_not_change_are_verified_once(
    settings: PartySettings, verified: list[int]
) -> None:
    ready = Readiness(settings)
    assert [ready.missing() for _ in range(5)] == [metrics.missing(settings, {})] * 5
    assert len(verified) == 1


def test_an_altered_ledger_shows_at_the_next_question_and_so_does_its_repair(
    settings: PartySettings, verified: list[int]
) -> None:
    ready = Readiness(settings)
    ready.missing()
    sound = settings.ledger.read_bytes()
    settings.ledger.write_bytes(sound.replace(b"bank", b"bamk"))
    assert any("ledger verify" in one for one in ready.missing())
    settings.ledger.write_bytes(sound)
    assert not any("ledger" in one for one in ready.missing())
    assert len(verified) == 3


def test_a_file_that_others_may_read_is_missed_though_not_a_byte_changed(
    settings: PartySettings,
) -> None:
    ready = Readiness(settings)
    assert not any("ledger" in one for one in ready.missing())
    settings.ledger.chmod(0o644)
    assert any("ledger verify" in one for one in ready.missing())


def test_a_verdict_is_not_trusted_for_ever(
    settings: PartySettings, verified: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "TRUSTED_S", 0.0)
    ready = Readiness(settings)
    ready.missing()
    ready.missing()
    assert len(verified) == 2
