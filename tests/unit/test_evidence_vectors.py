"""A pack that was made once verifies in every later version; its generator is beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.evidence_verify import verify
from privacy.errors import EvidenceError
from privacy.evidence import KeyFile

VECTORS = Path(__file__).parents[1] / "vectors"
PACK = (VECTORS / "evidence.zip").read_bytes()
DESCRIBED = json.loads((VECTORS / "evidence.json").read_text())
KEYS = KeyFile.read(json.dumps(DESCRIBED["keys"]).encode())


def test_a_pack_of_format_1_verifies() -> None:
    found = verify(PACK, KEYS)
    assert (found.state, found.statements) == ("finished", 21)
    assert set(found.epsilon) == {"bank", "ecommerce", "retailer"}


@pytest.mark.parametrize("one", DESCRIBED["broken"], ids=lambda one: f"{one['part']} {one['at']}")
def test_a_changed_byte_of_it_is_found_by_name(one: dict[str, Any]) -> None:
    changed = bytearray(PACK)
    changed[one["at"]] ^= 1
    with pytest.raises(EvidenceError) as caught:
        verify(bytes(changed), KEYS)
    assert caught.value.part == one["part"]
