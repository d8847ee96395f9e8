"""A round's opened sum, at the party that opened it."""

import numpy as np
import pytest

from models.plan import Plan
from party_client.learned import Learned
from privacy.errors import IntegrityError
from privacy.masking import SumLabel
from privacy.packing import FIELD_BITS, pack_fields
from tests.unit.test_training import plan

MEMBERS = ("bank", "ecommerce", "retailer")
LABEL = SumLabel(1, 1, "update", MEMBERS)


@pytest.fixture
def learned() -> Learned:
    found: Plan = plan()
    one = Learned(found, bytes(32), "bank")
    one.enter(dict.fromkeys(MEMBERS, 700), one.parameters, 0)
    return one


def test_the_largest_sum_of_clamped_updates_moves_the_model_by_the_bound(learned: Learned) -> None:
    start, most = learned.parameters.copy(), learned.code.levels
    one = pack_fields(np.full(start.size, most, dtype=np.int64))
    learned.add(LABEL, one * len(MEMBERS))
    np.testing.assert_allclose(learned.parameters - start, plan().aggregation.update_bound)
    assert learned.applied == 1


@pytest.mark.parametrize("field", [0, 1])
def test_a_sum_that_no_clamped_updates_can_make_ends_the_run(learned: Learned, field: int) -> None:
    """The MAC does not bind a member, who holds its key, to values of 20 bits."""
    start = learned.parameters.copy()
    opened = np.zeros_like(pack_fields(np.zeros(start.size, dtype=np.int64)))
    opened[0, 0] = (len(MEMBERS) * learned.code.levels + 1) << (field * FIELD_BITS)
    with pytest.raises(IntegrityError, match="larger than its members' clamped updates"):
        learned.add(LABEL, opened)
    np.testing.assert_array_equal(learned.parameters, start)
