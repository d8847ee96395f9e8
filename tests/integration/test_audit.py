"""The one-run audit over the real engines, and over engines with a planted defect.

Random in every run: the audit draws its coins, samples and noise from the operating system. With
confidence 1 - 1e-7 a sound engine is flagged at most once in ten million audits, whatever its
noise does, by the theorem itself. delta is so small because a bound at such a confidence must also
rule out that (epsilon, delta)-DP failed altogether, which it may with probability delta a canary.
"""

from __future__ import annotations

import hashlib
import json
import sys
from functools import lru_cache
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
    GradSampleModuleFastGradientClipping,
)
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn

from models.families import network
from models.plan import Model
from privacy.accounting import calibrate_training
from privacy.dp_sgd import load_parameters
from privacy.engine import Engine
from privacy.errors import AuditFailed
from privacy.mechanism import SampledGaussian
from simulations import cli
from simulations.audit import (
    ENGINES,
    FAMILIES,
    Audited,
    MakeEngine,
    audit,
    refuse_violations,
)

CANARIES = 600
DELTA = 1e-10
SURE = 1 - 1e-7
CLAIM = 1.0


@lru_cache
def claimed_mechanism() -> SampledGaussian:
    return SampledGaussian(0.25, calibrate_training(CLAIM, DELTA, 0.25, 20), 20)


def quick(engine: str, family: str, make_engine: MakeEngine | None = None) -> Audited:
    return audit(
        engine,
        family,
        claimed_mechanism(),
        canaries=CANARIES,
        delta=DELTA,
        confidence=SURE,
        make_engine=make_engine,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_real_engine_is_consistent_with_its_claim(engine: str, family: str) -> None:
    found = quick(engine, family)
    assert 0.9 * CLAIM < found.claimed_epsilon <= CLAIM
    assert not found.violated
    refuse_violations([found])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_audit_sees_what_a_sound_engine_does_leak(engine: str, family: str) -> None:
    """An audit that could find nothing would pass anything. One step on all rows with noise 0.5
    gives away most canaries: 128 right of 150 guesses already refute epsilon 1, and some 148 are
    (fewer than 140 in none of 2,000 simulations of that one Gaussian step)."""
    leaky = SampledGaussian(1.0, 0.5, 1)
    found = audit(engine, family, leaky, canaries=CANARIES, delta=DELTA, confidence=0.999)
    assert 1 < found.lower_bound < found.claimed_epsilon


class WithoutClip:
    """The planted defect: an engine that sums gradients as they are."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def rows(self) -> int:
        return self._engine.rows

    def clipped_sum(
        self, parameters: NDArray[np.float64], chosen: NDArray[np.int64], clipping_norm: float
    ) -> NDArray[np.float64]:
        return self._engine.clipped_sum(parameters, chosen, 1e12)


def without_clip(engine: str) -> MakeEngine:
    real = ENGINES[engine]
    return lambda model, features, labels: WithoutClip(real(model, features, labels))


class GhostEngine:
    """Opacus' ghost clipping, as its documentation shows it, over logits of the shape asked for.

    With logits and so losses (b, 1), Opacus multiplies losses (b, 1) by coefficients (b,): every
    row's loss is scaled by the sum of all coefficients.
    """

    def __init__(
        self,
        model: Model,
        features: NDArray[np.float32],
        labels: NDArray[np.float32],
        shape: tuple[int, ...],
    ) -> None:
        self._features, self._labels = features, labels
        logits = nn.Sequential(network(model, features.shape[1]).module(), nn.Unflatten(0, shape))
        self._module = GradSampleModuleFastGradientClipping(
            logits, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
        )
        optimiser = torch.optim.SGD(self._module.parameters())
        optimiser.loss_reduction = "sum"
        self._loss = DPLossFastGradientClipping(
            self._module, optimiser, nn.BCEWithLogitsLoss(reduction="sum"), loss_reduction="sum"
        )

    @property
    def rows(self) -> int:
        return len(self._labels)

    def clipped_sum(
        self, parameters: NDArray[np.float64], chosen: NDArray[np.int64], clipping_norm: float
    ) -> NDArray[np.float64]:
        assert clipping_norm == 1.0
        load_parameters(self._module, parameters)
        self._module.zero_grad(set_to_none=True)
        logits = self._module(torch.from_numpy(self._features[chosen]))
        self._loss(logits, torch.from_numpy(self._labels[chosen]).reshape(logits.shape)).backward()
        gradients = [one.grad.numpy().reshape(-1) for one in self._module.parameters()]
        return np.concatenate(gradients).astype(np.float64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_misses_the_clip_is_caught(engine: str, family: str) -> None:
    found = quick(engine, family, without_clip(engine))
    assert found.lower_bound > 1.5 * found.claimed_epsilon
    with pytest.raises(AuditFailed, match=f"{engine}/{family}"):
        refuse_violations([found])


@pytest.mark.parametrize("family", FAMILIES)
def test_ghost_clipping_of_a_loss_with_a_second_dimension_is_caught(family: str) -> None:
    found = quick("ghost", family, lambda model, x, y: GhostEngine(model, x, y, (-1, 1)))
    assert found.lower_bound > 1.5 * found.claimed_epsilon
    with pytest.raises(AuditFailed, match=f"ghost/{family}"):
        refuse_violations([found])


def test_ghost_clipping_of_a_one_dimensional_loss_is_consistent() -> None:
    """So it is the second dimension, not the way the test drives Opacus, that is caught."""
    assert not quick("ghost", "mlp", lambda model, x, y: GhostEngine(model, x, y, (-1,))).violated


def test_the_same_entropy_repeats_an_audit() -> None:
    def entropy(label: str) -> bytes:
        return hashlib.sha256(label.encode()).digest()

    mechanism = SampledGaussian(0.25, 1.0, 4)
    first, again = (
        audit("factorised", "mlp", mechanism, canaries=100, delta=1e-6, entropy=entropy)
        for _ in range(2)
    )
    assert first == again


def run(*arguments: str) -> int:
    line = ["fedtags-sim", *arguments]
    with mock.patch.object(sys, "argv", line), pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


QUICK = ("audit", "--engine", "opacus", "--family", "logistic", "--canaries", "100")


def test_the_command_prints_claim_bound_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*QUICK) == 0
    text = capsys.readouterr().out
    assert "consistent: a lower bound certifies nothing" in text
    assert "delta 1e-06" in text
    assert "add" in text


def test_the_command_ends_with_its_own_code_when_a_claim_is_refuted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with mock.patch.dict(ENGINES, {"opacus": without_clip("opacus")}):
        assert run(*QUICK, "--format", "json") == AuditFailed.exit_code == 27
    written = capsys.readouterr()
    (only,) = json.loads(written.out)["audits"]
    assert only["violated"] is True
    assert only["verdict"] == "VIOLATED"
    assert only["lower_bound"] > only["claimed_epsilon"]
    assert "opacus/logistic" in written.err


def test_the_command_knows_every_engine_and_family() -> None:
    assert {one.value for one in cli.AuditedEngine} == {"all", *ENGINES}
    assert {one.value for one in cli.AuditedFamily} == {"all", *FAMILIES}
