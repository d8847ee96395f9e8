"""A real run's model, exported by every party: one model, which gives the scores in the tags."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.plan import parse_plan
from party_client import egress
from party_client.backup import make_backup, restore_backup
from party_client.model_export import card_of, export
from party_client.model_shelf import ModelShelf, open_shelf
from party_client.settings import load_settings

from .conftest import PLAN, LocalRun


def test_an_exported_model_gives_the_scores_that_the_run_wrote(
    local: LocalRun, tmp_path: Path
) -> None:
    local.run()
    plan = parse_plan(PLAN)
    files = set()
    for party, home in local.federation.homes.items():
        node, kept = local.services[party].node, open_shelf(load_settings(home)).get("run-1")
        report = json.loads((node.reports / "run-1.json").read_text())
        assert kept.facts.model_digest == report["model_digest"]
        assert card_of(kept.facts)["privacy"]["epsilon"] == report["epsilon_run"]
        assert card_of(kept.facts)["released_figures"]["auc"] == report["released_auc"]
        made, _, _ = export(kept, "onnx", tmp_path / f"{party}.onnx")
        files.add(made)
        session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
        scored = node.source.scoring_examples(plan, party)
        (scores,) = session.run(["probability"], {"features": scored.features})
        of = dict(zip(scored.customer_ids, scores.tolist(), strict=True))
        tags = list(node.store.export("churn_risk", purpose="marketing"))
        assert len(tags) > 100
        own = np.array([one.score for one in tags])
        np.testing.assert_allclose([of[one.customer] for one in tags], own, atol=1e-6)
        assert np.ptp(own) > 0.01
    assert len(files) == len(local.federation.homes)


def test_keeping_a_model_sends_nothing_and_costs_nothing(local: LocalRun) -> None:
    local.run()
    settings = load_settings(local.federation.homes["bank"])
    ledger = local.services["bank"].node.ledger
    before = (ledger.spent(), ledger.head(), egress.count(settings))
    open_shelf(settings).get("run-1")
    assert (ledger.spent(), ledger.head(), egress.count(settings)) == before


def test_a_model_that_cannot_be_kept_ends_no_run(
    local: LocalRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ModelShelf, "put", full)
    local.run()
    for party, home in local.federation.homes.items():
        runs = local.services[party].node.ledger.state().runs
        assert runs["run-1"].state == "finished"
        assert open_shelf(load_settings(home)).listed() == ()


def test_kept_models_are_in_a_backup_and_open_after_a_restore(
    local: LocalRun, tmp_path: Path
) -> None:
    local.run()
    settings = load_settings(local.federation.homes["bank"])
    phrase = tmp_path / "phrase"
    phrase.write_text("a passphrase of many words\n")
    phrase.chmod(0o600)
    make_backup(settings, tmp_path / "bank.backup", passphrase_file=phrase)
    restore_backup(tmp_path / "again", tmp_path / "bank.backup", passphrase_file=phrase)
    before = open_shelf(settings).get("run-1")
    again = open_shelf(load_settings(tmp_path / "again")).get("run-1")
    assert again.facts == before.facts
    np.testing.assert_array_equal(again.parameters, before.parameters)
