"""The party benchmark measures what it says: tags with history, and answers of the real process."""

from __future__ import annotations

from pathlib import Path

import pytest

from party_client.profile_store import open_profile_store
from party_client.settings import load_settings
from simulations.benchmarks import party

SCALE = 0.0003


def test_the_measured_store_holds_every_tag_twice_and_answers_look_ups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = party.sqlite(tmp_path, SCALE)
    assert min(figures.values()) > 0
    assert figures["sqlite_tags_per_s"] == min(
        figures["sqlite_first_tags_per_s"], figures["sqlite_again_tags_per_s"]
    )
    store = open_profile_store(load_settings(tmp_path / "bank"))
    profile = store.profile(party._customer(7), purpose=party.PURPOSE)
    assert {one.tag for one in profile.tags} == set(party.TAGS)
    for one in profile.tags:
        assert len(store.history(profile.customer, one.tag, purpose=party.PURPOSE)) == 1
    assert profile.tags[0].reasons
    store.close()
    monkeypatch.setattr(party, "RATE", 10)
    monkeypatch.setattr(party, "SECONDS", 1)
    figures = party.lookup(tmp_path, SCALE)
    assert figures["lookup_requests"] == 10
    assert 0 < figures["lookup_p50_ms"] <= figures["lookup_p99_ms"]


def test_features_are_of_every_customer_of_the_log(tmp_path: Path) -> None:
    party.write_log(tmp_path, SCALE)
    figures = party.features(tmp_path, SCALE)
    assert figures["features_customers"] == round(party.CUSTOMERS * SCALE)


def test_postgresql_is_left_out_aloud_where_none_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(party.SERVER, "postgresql+psycopg://postgres@127.0.0.1:9/test")
    assert party.postgresql(tmp_path, SCALE) == {}
    assert "figure is left out" in capfd.readouterr().err
