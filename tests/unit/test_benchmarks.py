"""Benchmarks: goals say what they say, and every contender trains the model it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.families import build
from models.plan import Model
from privacy.dp_sgd import parameter_vector
from privacy.ledger import Ledger
from simulations.benchmarks import training
from simulations.benchmarks.documented_opacus import opacus_steps
from simulations.benchmarks.figures import as_text, at_least, at_most

MLP = Model(family="mlp", hidden=(4,))
COLUMNS = 5


def test_a_goal_is_met_on_its_own_side_only() -> None:
    assert at_most(1.0, 1.0)["met"]
    assert not at_most(1.01, 1.0)["met"]
    assert at_least(2.0, 2.0)["met"]
    assert not at_least(1.99, 2.0)["met"]
    assert at_least(1.23456, 2.0) == {"goal": 2.0, "value": 1.235, "met": False}


def test_the_text_names_every_figure_and_goal() -> None:
    result = {"figures": {"a": 1.0, "long": 2.5}, "goals": {"a": at_most(1.0, 0.5)}}
    assert as_text(result).splitlines() == ["a    1.000", "long 2.500", "goal a: 0.5 not met"]


@pytest.mark.parametrize("contender", ["plain", "opacus"])
def test_what_we_are_measured_against_trains_the_model_it_is_given(contender: str) -> None:
    x, y = (torch.from_numpy(one) for one in training._rows(200, COLUMNS))
    model = build(MLP, COLUMNS, training.START)
    before = parameter_vector(model)
    if contender == "plain":
        run = training._plain_steps(model, x, y, 64)
    else:
        run = opacus_steps(model, x, y, 64, training.RATE)
    run(5)  # more than an epoch
    assert not np.array_equal(parameter_vector(model), before)


def test_a_measurement_counts_examples_of_cpu_time() -> None:
    run = training._our_steps(MLP, *training._rows(200, COLUMNS), 64)
    seconds = training._cpu_seconds(run, 3)
    assert 0 < seconds < 5
    speeds = training._interleaved({"ours": run}, 64)
    assert len(speeds["ours"]) == training.REPEATS
    assert min(speeds["ours"]) > 0


def test_the_measured_ledger_is_a_ledger_of_500_entries_under_its_cap(tmp_path: Path) -> None:
    training._write_ledger(tmp_path / "ledger.jsonl")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert len(ledger.entries()) >= training.LEDGER_ENTRIES
    assert 0.8 < ledger.used() <= 1
