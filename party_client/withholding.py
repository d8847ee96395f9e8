"""What a desk does not show: small counts, and customers' ids to those who may not see them."""

from __future__ import annotations

from collections.abc import Mapping

from party_client.desk_views import SMALLEST_CELL

_DOTS = "••••"
_SHOWN = 2
_LONG_ENOUGH = 3 * _SHOWN  # a shorter id would be given away by the characters shown


def withheld(counts: Mapping[str, int]) -> dict[str, int | None]:
    """The counts of one tag's values, small ones as None.

    Where every customer has one of the values and their total is known, subtraction tells the sum
    of what is withheld: so the next smallest is withheld too, as long as one value alone is or the
    sum itself is small. A count of 0 is small: what is left out and what is rare must look alike.
    """
    shown: dict[str, int | None] = {
        value: None if count < SMALLEST_CELL else count for value, count in counts.items()
    }
    while None in shown.values():
        rest = [value for value, count in shown.items() if count is not None]
        hidden = [counts[value] for value, count in shown.items() if count is None]
        if not rest or (len(hidden) > 1 and sum(hidden) >= SMALLEST_CELL):
            break
        shown[min(rest, key=lambda value: counts[value])] = None
    return shown


def masked_id(customer: str) -> str:
    """An id of which only the last two characters can be read, enough to tell that it is the one
    that was typed. Its length does not show."""
    return _DOTS + (customer[-_SHOWN:] if len(customer) >= _LONG_ENOUGH else "")
