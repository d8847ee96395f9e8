"""Key agreements of three members for tests: whole ones, and ones that someone bends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from privacy.ciphertexts import MODULUS
from privacy.encryption import Adder
from privacy.key_agreement import ExchangeKeys, KeyAgreement, SealedKeys, agreement_hash
from privacy.masking import SumLabel
from privacy.packing import DATA_SLOTS
from privacy.shared_keys import SharedKeys

MEMBERS = ("bank", "ecommerce", "retailer")
LEAD = "bank"
EXCHANGE = {me: ExchangeKeys.generate() for me in MEMBERS}
OFFERS = {me: EXCHANGE[me].offer for me in MEMBERS}
ALL = SumLabel(1, 1, "update", MEMBERS)
DIGEST = b"d" * 32
Offers = Mapping[str, bytes]
Seals = dict[str, SealedKeys]
Agree = Callable[..., dict[str, SharedKeys]]


def sides(views: Mapping[str, Offers] | None = None, lead: str = LEAD) -> dict[str, KeyAgreement]:
    """Each member's side; `views`: the offers that a member was shown, where they are others."""
    seen = {me: (views or {}).get(me, OFFERS) for me in MEMBERS}
    return {
        me: KeyAgreement(
            me,
            EXCHANGE[me],
            lead,
            seen[me],
            agreement_hash(bytes(32), bytes(32), "run", 1, seen[me]),
        )
        for me in MEMBERS
    }


def _unbent(seals: Seals) -> None:
    pass


@contextmanager
def agreements() -> Iterator[Agree]:
    """A function that completes an agreement; what it made is erased at the end."""
    made: list[SharedKeys | KeyAgreement] = []

    def agree(
        bend: Callable[[Seals], None] = _unbent,
        views: Mapping[str, Offers] | None = None,
        lead: str = LEAD,
    ) -> dict[str, SharedKeys]:
        ours = sides(views, lead)
        made.extend(ours.values())
        seals = {me: one.seal() for me, one in ours.items()}
        bend(seals)
        keys = {}
        for me, one in ours.items():
            keys[me] = one.complete(seals)
            made.append(keys[me])
        return keys

    try:
        yield agree
    finally:
        for one in made:
            one.erase()


def payload(seed: int, chunks: int = 1) -> NDArray[np.int64]:
    """A member's chunks."""
    return np.random.default_rng(seed).integers(0, 2**40, (chunks, DATA_SLOTS))


def uploads(
    keys: Mapping[str, SharedKeys], label: SumLabel = ALL, chunks: int = 1
) -> dict[str, bytes]:
    """What each participant uploads for its own payload, numbered in the label's order."""
    return {me: keys[me].protect(payload(at, chunks), label) for at, me in enumerate(label.members)}


def added(*contributions: bytes) -> bytes:
    """The coordinator's sum."""
    with Adder() as coordinator:
        return coordinator.add(contributions)


def uniform(words: NDArray[np.int64]) -> bool:
    """Whether words look uniform modulo t: chi-square over 16 cells, within six deviations."""
    cells = np.bincount(words.reshape(-1) * 16 // MODULUS, minlength=16)
    expected = words.size / 16
    return bool(((cells - expected) ** 2 / expected).sum() < 15 + 6 * np.sqrt(30))
