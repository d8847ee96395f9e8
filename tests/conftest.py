"""What tests share: the public data sets, which may or may not lie beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of public data sets: FEDTAGS_DATA, or ../shared/data beside the checkout.

    Without it the test is skipped and says so; where FEDTAGS_REQUIRE lists 'data' it fails.
    """
    named = os.environ.get("FEDTAGS_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if (folder / "cdnow" / "CDNOW_master.txt").is_file():
        return folder
    reason = (
        f"no public data sets in {folder}: set FEDTAGS_DATA to the folder that holds "
        "complete_journey/, cdnow/ and online_retail/"
    )
    if "data" in os.environ.get("FEDTAGS_REQUIRE", "").split(","):
        pytest.fail(f"FEDTAGS_REQUIRE demands data, but there are {reason}")
    pytest.skip(reason)
