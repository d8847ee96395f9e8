"""Models as files: they score as the node does, say what they are, and run no code."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import stat
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from models.catalogue import columns_of, input_width
from models.families import build, network
from models.model_card import LIMITS, NOT_FOR, TWO_PARTY, card_markdown
from models.plan import Plan
from models.training import model_logits
from party_client.cli import app
from party_client.model_export import CARD_KEY, card_of, export
from party_client.model_shelf import ModelShelf, open_shelf
from party_client.settings import PartySettings, load_settings
from party_client.setup import initialise
from privacy.errors import ConfigError, NotFound, StoreError
from privacy.hosting.access_log import read_page
from privacy.hosting.sealing import Sealing
from tests.kept_models import kept, source

FAMILIES = {
    "logistic": "",
    "mlp": "[model]\nfamily = 'mlp'\nhidden = [7, 5]\n",
    "residual": "[model]\nfamily = 'residual'\nhidden = [6, 4, 3]\n",
}
CONTRACT = """
[features]
[[features.columns]]
name = "age"
low = 18
high = 90
unit = "years | <b>"
description = "how old\\n# not a heading"
[[features.columns]]
name = "plan"
kind = "category"
categories = ["basic", "gold"]
[[features.columns]]
name = "spend"
low = 0
high = 100
transform = "log1p"
missing = 1
"""


def rows(plan: Plan) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(5).random((257, input_width(plan))).astype(np.float32)


# Files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", ["", CONTRACT], ids=["catalogue", "contract"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_onnx_file_gives_the_nodes_own_scores(tmp_path: Path, family: str, extra: str) -> None:
    model = kept(source(FAMILIES[family], extra))
    plan = model.facts.plan
    made, _, _ = export(model, "onnx", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    features = rows(plan)
    logit, probability = session.run(["logit", "probability"], {"features": features})
    own = model_logits(plan, model.parameters, features)
    assert np.ptp(own) > 0.5
    np.testing.assert_allclose(logit, own, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-own)), rtol=1e-5, atol=1e-6)
    one = session.run(["logit"], {"features": features[:1]})[0]
    assert one.shape == (1,)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_safetensors_file_loads_into_torch_and_scores_the_same(
    tmp_path: Path, family: str
) -> None:
    model = kept(source(FAMILIES[family]))
    plan = model.facts.plan
    made, _, _ = export(model, "safetensors", tmp_path / "model.safetensors")
    module = build(plan.model, input_width(plan), bytes.fromhex(model.facts.plan_digest))
    module.load_state_dict(load_file(made))
    features = rows(plan)
    with torch.inference_mode():
        logits = module(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(
        logits, model_logits(plan, model.parameters, features), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_safetensors_file_holds_the_numbers_that_the_digest_names(
    tmp_path: Path, family: str
) -> None:
    model = kept(source(FAMILIES[family]))
    plan = model.facts.plan
    made, _, _ = export(model, "safetensors", tmp_path / "model.safetensors")
    tensors = load_file(made)
    names = [name for name, _ in network(plan.model, input_width(plan)).module().named_parameters()]
    flat = np.concatenate([tensors[name].numpy().ravel() for name in names])
    assert flat.dtype == np.float64
    data = bytes.fromhex(model.facts.plan_digest) + flat.astype("<f8").tobytes()
    assert hashlib.sha256(data).hexdigest() == model.facts.model_digest


def test_both_files_carry_the_card_and_the_private_mode(tmp_path: Path) -> None:
    model = kept(source())
    made, markdown, plain = export(model, "onnx", tmp_path / "model.onnx")
    card = card_of(model.facts)
    props = {one.key: one.value for one in onnx.load(made).metadata_props}
    assert json.loads(props[CARD_KEY]) == json.loads(plain.read_text()) == card
    other, _, _ = export(model, "safetensors", tmp_path / "model.safetensors")
    with safe_open(other, "np") as file:
        assert json.loads(file.metadata()[CARD_KEY]) == card
    assert markdown.read_text().startswith("# Model card: churn-180")
    for path in (made, markdown, plain, other):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_file_holds_a_pickle(tmp_path: Path) -> None:
    model = kept(source(FAMILIES["mlp"]))
    for form in ("onnx", "safetensors"):
        made, _, _ = export(model, form, tmp_path / f"model.{form}")  # type: ignore[arg-type]
        assert not zipfile.is_zipfile(made)
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError)):
            pickle.loads(made.read_bytes())


@pytest.mark.parametrize("taken", ["model.onnx", "model.onnx.card.md", "model.onnx.card.json"])
def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        export(kept(source()), "onnx", tmp_path / "model.onnx")
    assert [one.name for one in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


# Cards -------------------------------------------------------------------------------------------


def test_a_card_names_task_features_epsilon_cohort_and_what_it_is_not_for() -> None:
    model = kept(source())
    card = card_of(model.facts)
    assert card["task"]["predicts"] == "that a customer buys nothing in 180 days"
    assert [one["name"] for one in card["features"]] == [
        one.name for one in columns_of(model.facts.plan)
    ]
    assert (card["privacy"]["epsilon"], card["privacy"]["delta"]) == (1.75, 1e-5)
    assert card["training"]["parties"] == ["bank", "retailer", "shop"]
    assert card["not_for"] == list(NOT_FOR)
    text = card_markdown(card)
    for said in (*NOT_FOR, *LIMITS, "ε = 1.75 at δ = 1e-05", "bank, retailer, shop", "unlearn"):
        assert said in text
    assert card["privacy"]["two_party"] is None
    assert TWO_PARTY not in text


def test_a_card_of_two_parties_says_what_that_means() -> None:
    text = card_markdown(card_of(kept(source(), parties=2).facts))
    assert TWO_PARTY in text


def test_a_card_counts_nobody() -> None:
    model = kept(source())
    other = model.facts.model_copy(update={"public_size": 7000})
    assert card_of(model.facts) == card_of(other)


def test_a_plans_free_text_is_no_markup_in_a_card() -> None:
    text = card_markdown(card_of(kept(source(extra=CONTRACT)).facts))
    assert "<script>" not in text
    assert "\n# not a heading" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    table = [line for line in text.splitlines() if line.startswith("| age")]
    assert len(table) == 1
    assert len(re.findall(r"(?<!\\)\|", table[0])) == 7


# The shelf ---------------------------------------------------------------------------------------


def shelf(folder: Path, keep: int = 3, days: int = 30, secret: bytes = b"s" * 32) -> ModelShelf:
    return ModelShelf(folder / "models", Sealing(secret), keep=keep, keep_days=days)


def test_a_kept_model_comes_back_as_it_was_and_lies_there_sealed(tmp_path: Path) -> None:
    model, here = kept(source(extra=CONTRACT)), shelf(tmp_path, days=3650)
    assert here.put(model.facts, model.parameters)
    again = here.get("run-1")
    assert again.facts == model.facts
    np.testing.assert_array_equal(again.parameters, model.parameters)
    lying = b"".join(path.read_bytes() for path in (tmp_path / "models").iterdir())
    for secret in (b"churn", b"bank", model.parameters[:2].astype("<f8").tobytes()):
        assert secret not in lying


def test_only_the_newest_are_kept_and_none_longer_than_its_days(tmp_path: Path) -> None:
    here = shelf(tmp_path, keep=2, days=30)
    for number in range(4):
        model = kept(source(), run=f"run-{number}")
        moment = datetime.now(UTC) - timedelta(days=20 - number)
        here.put(model.facts.model_copy(update={"published_at": moment}), model.parameters)
    assert [one.run for one in here.listed()] == ["run-3", "run-2"]
    assert len(list((tmp_path / "models").iterdir())) == 4
    later = datetime.now(UTC) + timedelta(days=12, hours=12)
    assert [one.run for one in here.listed(later)] == ["run-3"]
    assert len(list((tmp_path / "models").iterdir())) == 2
    with pytest.raises(NotFound):
        here.get("run-2")


def test_a_party_that_keeps_none_keeps_none(tmp_path: Path) -> None:
    model = kept(source())
    assert not shelf(tmp_path, keep=0).put(model.facts, model.parameters)
    assert not (tmp_path / "models").exists()
    shelf(tmp_path, days=3650).put(model.facts, model.parameters)
    assert shelf(tmp_path, keep=0).listed() == ()
    assert list((tmp_path / "models").iterdir()) == []


def test_what_cannot_be_read_is_deleted_when_it_is_due_and_keeps_nothing_else(
    tmp_path: Path,
) -> None:
    here, days = shelf(tmp_path, days=30), timedelta(days=30, hours=1)
    for run in ("run-1", "run-2", "run-3"):
        model = kept(source(), run=run)
        moment = datetime.now(UTC) - timedelta(days=20 if run == "run-3" else 0)
        here.put(model.facts.model_copy(update={"published_at": moment}), model.parameters)
    folder = tmp_path / "models"
    (folder / "run-1.about").write_bytes(b"damaged")
    (folder / "run-2.about").unlink()  # a crash came between the two files
    with pytest.raises(StoreError):
        here.listed(datetime.now(UTC) + timedelta(days=15))
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["run-1.about", "run-1.model", "run-2.model"]
    assert here.listed(datetime.now(UTC) + days) == ()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("ending", [".about", ".model"])
def test_an_altered_or_foreign_file_is_refused(tmp_path: Path, ending: str) -> None:
    here = shelf(tmp_path, days=3650)
    for run, seed in (("run-1", 1), ("run-2", 2)):
        model = kept(source(), run=run, seed=seed)
        here.put(model.facts, model.parameters)
    first, second = (tmp_path / "models" / f"run-{one}{ending}" for one in (1, 2))
    whole = first.read_bytes()
    first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreError):
        here.get("run-1")
    first.write_bytes(second.read_bytes())
    with pytest.raises(StoreError):
        here.get("run-1")
    first.write_bytes(whole)
    here.get("run-1")
    with pytest.raises(StoreError, match="another secret"):
        shelf(tmp_path, secret=b"t" * 32).get("run-1")


def test_a_model_that_is_not_the_one_of_its_digest_is_refused(tmp_path: Path) -> None:
    model, here = kept(source()), shelf(tmp_path, days=3650)
    here.put(model.facts, model.parameters + 1e-9)
    with pytest.raises(StoreError, match="not the one that was published"):
        here.get("run-1")


@pytest.mark.parametrize("run", ["../run-1", "", "RUN", "run-9", "a" * 70])
def test_a_run_that_has_no_model_is_not_found(tmp_path: Path, run: str) -> None:
    model, here = kept(source()), shelf(tmp_path, days=3650)
    here.put(model.facts, model.parameters)
    with pytest.raises(NotFound):
        here.get(run)


# Commands ----------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> PartySettings:
    initialise(tmp_path / "bank", "bank", 6000)
    return load_settings(tmp_path / "bank")


def run_command(settings: PartySettings, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["--home", str(settings.home), "model", *arguments])
    if isinstance(result.exception, ConfigError | NotFound):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


def test_models_are_listed_and_exported_and_the_access_log_says_so(
    settings: PartySettings, tmp_path: Path
) -> None:
    assert "no model is kept" in run_command(settings, "list")[1]
    model = kept(source())
    facts = model.facts.model_copy(update={"published_at": datetime.now(UTC)})
    open_shelf(settings).put(facts, model.parameters)
    code, text = run_command(settings, "list")
    assert code == 0
    assert "run-1  churn-180" in text
    assert "not unlearned" in text
    _, listed = run_command(settings, "list", "--format", "json")
    assert json.loads(listed) == [card_of(facts)]

    output = tmp_path / "churn.onnx"
    code, text = run_command(
        settings, "export", "run-1", "--format", "onnx", "--output", str(output)
    )
    assert code == 0, text
    assert output.exists()
    assert "not unlearned" in text
    newest = read_page(settings.access_log, 1, 10)[0][0]
    assert (newest.what, newest.detail) == ("export a model", "run-1 as onnx")

    assert run_command(settings, "export", "run-2", "--output", str(output))[0] == 31
    assert run_command(settings, "export", "run-1", "--output", str(output))[0] == 10
