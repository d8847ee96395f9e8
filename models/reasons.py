"""Why a joint tag has its value, in three plain-language reasons a customer.

A reason is a feature and whether it lies above or below a public reference point: an ordinary
customer (models/reason_texts.toml), or the middle of the public range for a column of a plan's own
contract. Its weight is what the logit loses when this one feature is put back to the reference,
all others left as they are:

- logistic model: w_i * (x_i - r_i). It is exact: these add up to logit(x) - logit(r), and they are
  the model's Shapley values against that reference (Lundberg and Lee 2017, "A Unified Approach to
  Interpreting Model Predictions", section 4.2, linear models).
- mlp, residual: f(x) - f(x with feature i at its reference), occlusion of single features (Zeiler
  and Fergus 2014, section 4.1; as leave-one-covariate-out in Lei et al. 2018). It misses what
  features do only together, and is no Shapley value.

It explains the model and not the world: no reason is a cause, correlated features share or hide
each other's weight, and another reference gives other reasons. It reads one customer's row and
public constants, inside that customer's own party, and is stored there only.

The models, and torch with them, are imported where reasons are computed, not where their texts are
read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.catalogue import EVENTS_1, columns_of
from models.features import FeatureColumn, scale_number
from models.plan import Plan
from privacy.errors import DataError

REASONS = 3
TEXTS_FILE = Path(__file__).with_name("reason_texts.toml")
Language = Literal["en", "zh"]
_ROWS = 50_000  # at a time, so that the contributions of all features fit in memory


def reason_codes(
    plan: Plan, parameters: NDArray[np.float64], features: NDArray[np.float32]
) -> list[str]:
    """ "code,code,code" for each row of `features` (n, k) under the model `parameters` (d,).

    A code is a column's name and + (above the reference) or - (below). The three that push hardest
    towards the tag's value come first: up for a score at or above the upper threshold, down for one
    below the lower, either way for one between. Fewer where fewer features push that way.
    """
    from models.training import model_logits

    columns = columns_of(plan)
    reference = reference_point(columns)
    codes: list[str] = []
    for start in range(0, len(features), _ROWS):
        rows = features[start : start + _ROWS]
        pushes = contributions(plan, parameters, rows, columns, reference)
        above = _above(rows, columns, reference)
        codes += _strongest(plan, pushes, above, model_logits(plan, parameters, rows), columns)
    return codes


def contributions(
    plan: Plan,
    parameters: NDArray[np.float64],
    rows: NDArray[np.float32],
    columns: Sequence[FeatureColumn],
    reference: NDArray[np.float32],
) -> NDArray[np.float64]:
    """What each column of `columns` adds to the logit of each row, shape (n, len(columns)).

    A category's 0/1 inputs are put back together, as one column.
    """
    if plan.model.family == "logistic":
        weights = parameters[: rows.shape[1]]
        single = (rows.astype(np.float64) - reference) * weights
        starts = [part.start for part in _parts(columns)]
        summed: NDArray[np.float64] = np.add.reduceat(single, starts, axis=1)
        return summed
    from models.training import model_logits

    full = model_logits(plan, parameters, rows)
    found = np.empty((len(rows), len(columns)))
    occluded = rows.copy()
    for place, part in enumerate(_parts(columns)):
        occluded[:, part] = reference[part]
        found[:, place] = full - model_logits(plan, parameters, occluded)
        occluded[:, part] = rows[:, part]
    return found


def reference_point(columns: Sequence[FeatureColumn]) -> NDArray[np.float32]:
    """The model inputs (k,) that features are compared with: public constants.

    A number of the event catalogue: an ordinary customer's. Of a plan's own contract: the middle of
    its range, after the transform. A category: none of its words.
    """
    ordinary = _table()["reference"]
    parts: list[NDArray[np.float32]] = []
    for column in columns:
        if column.kind == "category":
            parts.append(np.zeros(column.width, dtype=np.float32))
        elif column in EVENTS_1:
            parts.append(scale_number(np.array([float(ordinary[column.name])]), column))
        else:
            parts.append(np.array([0.5], dtype=np.float32))
    return np.concatenate(parts)


def reason_text(code: str, language: Language) -> str:
    """Plain words for one code. Raises DataError for what is no code.

    A column whose name the event catalogue doesn't have gets a general text with its name.
    """
    name, sign = code[:-1], code[-1:]
    if not name or sign not in ("+", "-"):
        raise DataError("a reason code is a column's name with + or - behind it")
    texts: Sequence[str] | None = _table()["texts"].get(name)
    if texts is not None:
        return texts[(0 if sign == "+" else 2) + (0 if language == "en" else 1)]
    if language == "en":
        return f"{name} is {'high' if sign == '+' else 'low'}"
    return f"“{name}”{'偏高' if sign == '+' else '偏低'}"


def _strongest(
    plan: Plan,
    pushes: NDArray[np.float64],
    above: NDArray[np.bool_],
    logits: NDArray[np.floating],
    columns: Sequence[FeatureColumn],
) -> list[str]:
    low, high = (np.log(one / (1 - one)) for one in plan.publication.thresholds)
    towards = np.abs(pushes)
    up, down = logits >= high, logits < low
    towards[up], towards[down] = pushes[up], -pushes[down]
    kept = min(REASONS, len(columns))
    order = np.argsort(-towards, axis=1, kind="stable")[:, :kept]
    pushing = np.take_along_axis(towards, order, axis=1) > 0
    # One number a reason, 0 for none; equal triples are written out once.
    numbers = np.where(pushing, 1 + 2 * order + np.take_along_axis(above, order, axis=1), 0)
    triples, places = np.unique(numbers, axis=0, return_inverse=True)
    signs = "-+"
    words = [
        ",".join(
            columns[(one - 1) // 2].name + signs[(one - 1) % 2] for one in triple.tolist() if one
        )
        for triple in triples
    ]
    chosen: list[str] = np.array(words, dtype=object)[places.reshape(-1)].tolist()
    return chosen


def _above(
    rows: NDArray[np.float32], columns: Sequence[FeatureColumn], reference: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Whether each column lies above its reference; a category's word is always above none."""
    return np.stack(
        [np.any(rows[:, part] > reference[part], axis=1) for part in _parts(columns)], axis=1
    )


def _parts(columns: Sequence[FeatureColumn]) -> Iterator[slice]:
    """Where each column's model inputs are."""
    start = 0
    for column in columns:
        yield slice(start, start + column.width)
        start += column.width


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Mapping[str, Any]]:
    return MappingProxyType(tomllib.loads(TEXTS_FILE.read_text(encoding="utf-8")))
