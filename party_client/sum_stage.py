"""The secure sums of one epoch at this party: protect, unmask, open, and agree on what was opened.

At most one sum is not opened at a time. What members say of it comes back relayed: it is checked
to be exactly the participants' before their sum is opened, and each says which sum it had opened
before (`opened`), so that nobody is shown another one than the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from party_client.head_exchange import HeadExchange
from party_client.relayed import Exchange
from privacy.errors import ProtocolError
from privacy.masking import SumLabel
from privacy.messages import (
    NOTHING_OPENED,
    Body,
    EvaluationUpdate,
    Unmasked,
    Update,
    WeightUpdate,
)
from privacy.randomness import Entropy
from privacy.shared_keys import SharedKeys

WEIGHTS, UPDATE, EVALUATION = "weights", "update", "evaluation"
UPLOADS: dict[str, type[Any]] = {
    WEIGHTS: WeightUpdate,
    UPDATE: Update,
    EVALUATION: EvaluationUpdate,
}


class SumStage:
    """The sums of one epoch. `pending`: the last sum that this party protected something for and
    has not opened. `opened`: the tag of the last one that it opened in this epoch.

    Invariant: a self-mask seed is revealed once at most for a pending sum, after the participants'
    statements were checked; from then on the sum is opened or lost, and never asked for again.
    """

    def __init__(self, keys: SharedKeys, heads: HeadExchange, single_opening: bool) -> None:
        self._keys, self._heads = keys, heads
        self.single_opening = single_opening
        self.pending: SumLabel | None = None
        self.opened = NOTHING_OPENED
        self.revealed = False
        self._chunks = 0
        self._seed: bytes | None = None
        self._asked: Exchange | None = None

    def protect(
        self, asked: Exchange, tensor: str, chunks: NDArray[np.int64], entropy: Entropy
    ) -> bytes:
        """This party's part (k, DATA_SLOTS) of the sum that `asked` asks for, for its participants
        alone; under a fresh self-mask where the plan wants one."""
        label = SumLabel(asked.round, asked.attempt, tensor, tuple(sorted(asked.participants)))
        self._seed = None
        if self.single_opening:
            self._seed = entropy(f"self-mask {tensor} {asked.round} {asked.epoch} {asked.attempt}")
        payload = self._keys.protect(chunks, label, self._seed)
        self.pending, self._asked, self._chunks = label, asked, len(chunks)
        self.revealed = False
        return payload

    def unmask(self, frames: Mapping[str, bytes], me: str, sent: bytes) -> bytes:
        """Reveal this party's seed, sealed to the members, against the participants' statements.

        Raises IntegrityError unless these are exactly what the pending sum was made of.
        """
        label, _ = self._waiting()
        if self._seed is None:
            raise ProtocolError("the plan's sums have no self-masks")
        self._check_uploads(frames, me, sent)
        self.revealed = True
        return self._keys.seal_seed(label, self._seed)

    def open(
        self, frames: Mapping[str, bytes], total: bytes, me: str, sent: bytes
    ) -> NDArray[np.int64]:
        """Check the participants' replies and open their sum: residues (k, DATA_SLOTS).

        Raises IntegrityError, with the keys erased by the caller at the latest, if a reply is not
        that of exactly the participants, names another sum before, or the sum is not theirs.
        """
        label, asked = self._waiting()
        seeds: dict[str, bytes] = {}
        if self.single_opening:
            unmasked = asked.replies(frames, Unmasked, me, sent)
            seeds = {
                party: self._keys.open_seed(label, party, one.seed)
                for party, one in unmasked.items()
            }
        else:
            self._check_uploads(frames, me, sent)
        opened = self._keys.open_total(total, self._chunks, label, seeds)
        self.opened = self._keys.opening_tag(label, opened)
        self.pending = None
        return opened

    def lose(self) -> None:
        """Give the pending sum up for good: a participant vanished without revealing its seed."""
        label, _ = self._waiting()
        self.opened = self._keys.lost_tag(label)
        self.pending = None

    def check_agreed(self, shown: Mapping[str, bytes], label: SumLabel) -> None:
        """Raise IntegrityError, with the keys erased, unless all of `label`'s members opened what
        this party opened last."""
        self._keys.check_openings(self.opened, shown, label)

    def _check_uploads(self, frames: Mapping[str, bytes], me: str, sent: bytes) -> None:
        label, asked = self._waiting()
        uploads: dict[str, Body] = asked.replies(frames, UPLOADS[label.tensor], me, sent)
        answers = {
            party: one
            for party, one in uploads.items()
            if isinstance(one, Update | EvaluationUpdate)
        }
        if answers:
            self.check_agreed({party: one.opened for party, one in answers.items()}, label)
            heads = {party: one.ledger_head for party, one in answers.items()}
            self._heads.follow(heads, asked.round)

    def _waiting(self) -> tuple[SumLabel, Exchange]:
        if self.pending is None or self._asked is None:
            raise ProtocolError("no sum is waiting to be opened here")
        return self.pending, self._asked
