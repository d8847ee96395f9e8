"""What a party draws from its rows in one run, each thing once: updates, counts, its noised size.

The ledger's `intent` is durable before rows are touched, and so is the profile store's note of
whose rows they are, for customers who ask in which models they took part. What was drawn is held
here, so that it is sent again, and never drawn again, as long as this service lives. If a crash
lost it, drawing again is a spend of its own: the reservation is extended first, or the run is over
for this party.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from models.training import (
    LocalUpdate,
    held_out,
    local_update,
    noised_evaluation,
    noised_size,
    recoded,
)
from party_client.admission import Admission
from party_client.node import Node
from party_client.provenance import evaluation_provenance, size_provenance, training_provenance
from privacy.accounting import epsilon
from privacy.errors import BudgetExceeded, ProtocolError
from privacy.ledger import Provenance
from privacy.ledger_state import EVALUATION_ROUND, WEIGHTS_ROUND
from privacy.mechanism import Mechanism
from privacy.packing import DeltaCode


class Draws:
    """One run's draws. Invariant: what is held here has an intent in the ledger.

    `saturated`: by round, the share of coordinates that were clamped; it never leaves the party.
    """

    def __init__(self, node: Node, run: str, admission: Admission) -> None:
        self._node, self._run, self._admission = node, run, admission
        self._plan_hash = bytes.fromhex(admission.digest)
        self._updates: dict[int, LocalUpdate] = {}
        self._counts: NDArray[np.int64] | None = None
        self._size: int | None = None
        self._noted = False
        self.saturated: dict[int, float] = {}

    def update(
        self,
        number: int,
        parameters: NDArray[np.float64],
        code: DeltaCode,
        weight: float,
        participants: Collection[str],
    ) -> NDArray[np.int64]:
        """The weighted, noised model delta of round `number` as integers, shape (d,).

        A held one is put into `code` and `weight` of this epoch, which draws nothing.
        """
        held = self._updates.get(number)
        if held is not None:
            held = recoded(held, code, weight)
        else:
            terms = self._admission.terms
            ran = training_provenance(self._admission, participants)
            self._intend(number, terms.round_mechanism, ran)
            held = local_update(
                self._admission.plan,
                self._plan_hash,
                terms,
                parameters,
                self._admission.training,
                code,
                weight,
                number,
                self._node.entropy,
            )
            self.saturated[number] = held.saturated / held.values.size
        self._updates[number] = held
        return held.values

    def evaluation(
        self, parameters: NDArray[np.float64], participants: Collection[str]
    ) -> NDArray[np.int64]:
        """The noised counts of this party's held-out rows, shape (2 * bins,)."""
        if self._counts is None:
            ran = evaluation_provenance(self._admission, participants)
            self._intend(EVALUATION_ROUND, self._admission.terms.evaluation, ran)
            self._counts = noised_evaluation(
                self._admission.plan,
                self._admission.terms,
                parameters,
                self._admission.held_out,
                self._node.entropy,
            )
        return self._counts

    def size(self, participants: Collection[str]) -> int:
        """This party's noised number of training rows. ProtocolError if the plan has none."""
        terms = self._admission.terms
        if terms.weights is None:
            raise ProtocolError("the plan's weights are public constants")
        if self._size is None:
            ran = size_provenance(self._admission, participants)
            self._intend(WEIGHTS_ROUND, terms.weights, ran)
            self._size = noised_size(terms, self._admission.training, self._node.entropy)
        return self._size

    def forget(self, applied: int) -> None:
        """Drop the updates of rounds that the model holds, or has lost for good."""
        self._updates = {one: held for one, held in self._updates.items() if one > applied}

    def _intend(self, round_number: int, mechanism: Mechanism, ran: Provenance) -> None:
        self._note_participants()
        ledger = self._node.ledger
        reserved = ledger.state().runs[self._run]
        if round_number in {one.round for one in reserved.intents}:
            self._check_run([*reserved.mechanisms, mechanism])
            ledger.extend(self._run, [mechanism], self._node.policy.budget.limits)
        ledger.intent(self._run, round_number, mechanism, ran)

    def _note_participants(self) -> None:
        """Once: whose rows this run trains on, and whose it is evaluated on."""
        if self._noted:
            return
        admission, plan = self._admission, self._admission.plan
        ids = np.array(admission.examples.customer_ids, dtype=object)
        aside = held_out(ids.tolist(), self._node.local_key, plan.evaluation.held_out)
        self._node.store.record_participation(
            self._run,
            plan.name,
            admission.digest,
            trained=ids[~aside].tolist(),
            evaluated=ids[aside].tolist(),
        )
        self._noted = True

    def _check_run(self, mechanisms: Sequence[Mechanism]) -> None:
        """A run that draws again may cost no more than policy allows a run."""
        most = self._node.policy.max_epsilon_per_run
        if epsilon(mechanisms, self._admission.terms.delta) > most:
            raise BudgetExceeded(
                "drawing again what a crash lost would pass policy.toml: max_epsilon_per_run of "
                f"{most:g}; this party leaves the run, submit the plan again"
            )
