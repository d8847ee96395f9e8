"""What the coordinator may know of a finished run; every figure is noised and charged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from coordinator.channel import Recorder
from models.evaluation import auc_standard_error, histogram_auc, histogram_calibration
from models.plan import Plan
from privacy.accounting import calibrate_release, run_delta
from privacy.errors import IntegrityError, ProtocolError


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. `parties`: those whose evaluations were summed.

    `refused`: reasons at preflight. `left` and `returned`: where a party was last lost, and where
    it last came back. `unpublished`: parties of the evaluation that sent no receipt. `two_party`:
    a sum was made of two parties, so each knows the other's noised part. `ledger_heads`: each
    party's newest signed head.
    """

    parties: tuple[str, ...]
    refused: Mapping[str, str]
    evaluation: tuple[int, ...]
    auc: float | None
    auc_standard_error: float | None
    calibration: float | None
    ledger_heads: Mapping[str, bytes] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    returned: Mapping[str, str] = field(default_factory=dict)
    unpublished: tuple[str, ...] = ()
    two_party: bool = False


@dataclass(frozen=True)
class Figures:
    """What the opened evaluation gives; None where noise has drowned it."""

    evaluation: tuple[int, ...]
    auc: float | None
    auc_standard_error: float | None
    calibration: float | None


def check_opened(shown: Mapping[str, bytes]) -> None:
    """Raise IntegrityError, naming them, unless all parties opened one evaluation: they show one
    value, which tells nobody else what they opened."""
    _check_equal(shown, "nothing is published")


def agreed_evaluation(plan: Plan, copies: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The evaluation that all parties tell. Raises IntegrityError, naming them, if they differ."""
    _check_equal(copies, "the parties have written their tags, the run has no evaluation")
    evaluation = next(iter(copies.values()))
    if len(evaluation) != 2 * plan.evaluation.bins:
        raise ProtocolError("the opened evaluation does not have the plan's number of bins")
    return evaluation


def _check_equal(shown: Mapping[str, object], so_far: str) -> None:
    by_value: dict[object, list[str]] = {}
    for party, value in sorted(shown.items()):
        by_value.setdefault(value, []).append(party)
    if len(by_value) != 1:
        groups = " than ".join(", ".join(parties) for parties in by_value.values())
        raise IntegrityError(
            f"{groups} opened another evaluation: a sum was altered on its way, or a party is not "
            f"honest; {so_far}"
        )


def figures_of(
    plan: Plan, evaluation: tuple[int, ...], public_sizes: Iterable[int], recorder: Recorder
) -> Figures:
    """AUC with its standard error, and calibration; recorded, too.

    `public_sizes`: those of the evaluation's parties; their noises add up in every cell.
    """
    counts = np.array(evaluation, dtype=np.int64)
    auc = histogram_auc(counts)
    error = auc_standard_error(counts, _noise_deviation(plan, public_sizes))
    calibration = histogram_calibration(counts, plan.evaluation.logit_bound)
    named = {"auc": auc, "auc_standard_error": error, "calibration": calibration}
    for name, value in named.items():
        if value is not None:
            recorder.metric(name, value)
    return Figures(evaluation, auc, error, calibration)


def _noise_deviation(plan: Plan, public_sizes: Iterable[int]) -> float:
    """Standard deviation of the noise in each cell: every party's, added."""
    asked = plan.privacy
    return math.sqrt(
        sum(
            calibrate_release(asked.evaluation_epsilon, run_delta(size, asked.delta)) ** 2
            for size in public_sizes
        )
    )
