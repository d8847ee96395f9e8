"""The model of one run as this party holds it: what the opened sums have made of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.catalogue import input_width
from models.charges import NOISED_SIZE
from models.families import start_parameters
from models.plan import Plan
from models.training import (
    delta_code,
    noised_weight,
    opened_model_delta,
    public_weights,
)
from privacy.errors import IntegrityError, ProtocolError
from privacy.masking import SumLabel
from privacy.packing import DeltaCode, unpack_counts, unpack_fields


class Learned:
    """Invariant: `parameters`, shape (d,), hold the sums of the first `applied` rounds; of one that
    can never be opened they hold nothing. `contributors`: whose updates this party has opened.

    Code and weight belong to an epoch: they follow from its members.
    """

    def __init__(self, plan: Plan, plan_hash: bytes, party: str) -> None:
        self._plan, self._party = plan, party
        self.parameters = start_parameters(plan.model, input_width(plan), plan_hash)
        self.applied = 0
        self.contributors: frozenset[str] = frozenset()
        self.weight: float | None = None
        self._sizes: Mapping[str, int] = {}

    @property
    def noised_weights(self) -> bool:
        """Whether weights are summed first, and no public constants."""
        return self._plan.aggregation.weights == NOISED_SIZE

    @property
    def code(self) -> DeltaCode:
        """How this epoch's members turn model deltas into integers."""
        return delta_code(self._plan, self._sizes)

    def enter(
        self, public_sizes: Mapping[str, int], parameters: NDArray[np.float64], applied: int
    ) -> None:
        """Begin an epoch of these members on the model that all of them have confirmed."""
        self._sizes = dict(public_sizes)
        self.parameters, self.applied = parameters, applied
        self.weight = None
        if not self.noised_weights:
            self.weight = public_weights(self._plan, self._sizes)[self._party]

    def weigh(self, own: int, opened: NDArray[np.int64]) -> None:
        """Take the opened sum of all noised sizes; `own` is this party's."""
        self.weight = noised_weight(own, int(unpack_counts(opened, 1)[0]))

    def known_weight(self) -> float:
        """This party's weight. Raises ProtocolError before it is known."""
        if self.weight is None:
            raise ProtocolError("the weights of this epoch are not summed yet")
        return self.weight

    def add(self, label: SumLabel, opened: NDArray[np.int64]) -> None:
        """Add a round's average model delta.

        Raises IntegrityError if it is larger than clamped updates of these members can sum to.
        """
        values = unpack_fields(opened, self.parameters.size)
        if values.max() > len(label.members) * self.code.levels:
            raise IntegrityError(
                "a round's sum is larger than its members' clamped updates can make it: one of "
                "them sent something else; the keys are erased and the run ends here"
            )
        change = opened_model_delta(self._plan, self.code, values, label.members, self._sizes)
        self.parameters = self.parameters + change
        self.applied = label.round
        self.contributors |= set(label.members)

    def lose(self) -> None:
        """Count a round whose sum can never be opened."""
        self.applied += 1
