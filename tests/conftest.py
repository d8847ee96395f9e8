"""What tests share: the public data sets, which may or may not lie beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.servers import chromium, mariadb_url, postgresql_url

__all__ = ["chromium", "mariadb_url", "postgresql_url", "public_data"]

ROOT = Path(__file__).resolve().parents[1]
# Minutes each: two workers begin with them, so that neither waits for the other at the end.
LONGEST = ("test_demo.py", "test_tutorial.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; all others keep their order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def find_public_data() -> Path | None:
    """The folder of public data sets: FEDTAGS_DATA, or ../shared/data beside the checkout.

    None where there is none; where FEDTAGS_REQUIRE lists 'data', the test fails instead.
    """
    named = os.environ.get("FEDTAGS_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if (folder / "cdnow" / "CDNOW_master.txt").is_file():
        return folder
    if "data" in os.environ.get("FEDTAGS_REQUIRE", "").split(","):
        pytest.fail("FEDTAGS_REQUIRE demands data, but the public data sets were not found")
    return None


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of public data sets; without it the test is skipped and says so."""
    folder = find_public_data()
    if folder is None:
        pytest.skip(
            "no public data sets found: set FEDTAGS_DATA to the folder that holds "
            "complete_journey/, cdnow/ and online_retail/"
        )
    return folder
