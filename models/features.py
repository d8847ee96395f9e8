"""Features: public ranges, units and transforms, so that no statistic needs to be shared.

A training row depends on one customer's records and the public constants here, on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from privacy.errors import DataError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Transform = Literal["identity", "log1p"]


class FeatureColumn(BaseModel):
    """One column of a feature contract: every field is a public constant.

    A number is clamped to [low, high], transformed, and mapped linearly to [0, 1]; a missing
    number becomes `missing` (default: low). A category becomes one 0/1 column per entry of
    `categories`; a value outside the list, or none, is all zeros.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    kind: Literal["number", "category"] = "number"
    low: float = 0.0
    high: float = 1.0
    transform: Transform = "identity"
    missing: float | None = None
    categories: tuple[str, ...] = ()
    unit: str = ""
    group: str = "custom"
    description: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.missing is not None and not math.isfinite(self.missing):
            raise ValueError(f"column {self.name}: missing must be finite")
        if self.kind == "category":
            if not self.categories or len(set(self.categories)) != len(self.categories):
                raise ValueError(f"column {self.name}: categories must be given, each once")
            return self
        if self.categories:
            raise ValueError(f"column {self.name}: a number has no categories")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"column {self.name}: low must be below high, both finite")
        if self.transform == "log1p" and self.low < 0:
            raise ValueError(f"column {self.name}: log1p needs low >= 0")
        span = self.high - self.low
        if self.transform == "log1p":
            span = math.log1p(self.high) - math.log1p(self.low)
        if not (math.isfinite(span) and span > 0):  # it divides every value
            raise ValueError(f"column {self.name}: low and high are too far apart or too close")
        return self

    @property
    def width(self) -> int:
        """Number of model inputs this column becomes."""
        return len(self.categories) if self.kind == "category" else 1


def scale_number(values: NDArray[np.float64], column: FeatureColumn) -> NDArray[np.float32]:
    """Clamp, transform and map `values`, shape (n,), NaN = missing, to [0, 1] by constants."""
    fill = column.low if column.missing is None else column.missing
    clamped = np.clip(np.nan_to_num(values, nan=fill), column.low, column.high)
    low, high = column.low, column.high
    if column.transform == "log1p":
        clamped, low, high = np.log1p(clamped), math.log1p(low), math.log1p(high)
    return ((clamped - low) / (high - low)).astype(np.float32)


def scale(columns: Sequence[FeatureColumn], raw: Mapping[str, Any]) -> NDArray[np.float32]:
    """Turn raw columns into model inputs, shape (n, sum of widths), every value in [0, 1].

    `raw` maps each column's name to n values: numbers (NaN = missing) or category texts (None =
    missing); a pandas frame will do. A row of the result depends on that row of `raw` only.
    Raises DataError when a column is absent or the lengths differ.
    """
    blocks: list[NDArray[np.float32]] = []
    for column in columns:
        try:
            values = raw[column.name]
        except KeyError as error:
            raise DataError(
                f"feature column '{column.name}' is missing: map it in [source.columns]"
            ) from error
        if column.kind == "number":
            numbers = np.asarray(values, dtype=np.float64)
            blocks.append(scale_number(numbers, column)[:, np.newaxis])
        else:
            texts = np.asarray(values, dtype=object)
            blocks.append(
                np.stack([texts == category for category in column.categories], axis=1).astype(
                    np.float32
                )
            )
    if len({block.shape[0] for block in blocks}) != 1:
        raise DataError("feature columns differ in length: give one value a customer in each")
    return np.concatenate(blocks, axis=1)


def outside_ranges(columns: Sequence[FeatureColumn], raw: Mapping[str, Any]) -> dict[str, int]:
    """How many values of each number column lie outside its public range, where any do.

    `scale` clamps them, infinite ones too. A missing value (NaN) becomes a constant and does not
    count. The counts are exact: they are for the party's own eyes, and no message has a field.
    """
    counted: dict[str, int] = {}
    for column in columns:
        if column.kind == "number":
            values = np.asarray(raw[column.name], dtype=np.float64)
            number = int(np.count_nonzero((values < column.low) | (values > column.high)))
            if number:
                counted[column.name] = number
    return counted


def width_of(columns: Sequence[FeatureColumn]) -> int:
    """Number of model inputs that `columns` become: a public constant."""
    return sum(column.width for column in columns)
