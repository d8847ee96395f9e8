"""What tests share: the public data sets, which may or may not lie beside the checkout."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import chromium, mariadb_url, postgresql_url

__all__ = ["chromium", "mariadb_url", "postgresql_url", "public_data"]

ROOT = Path(__file__).resolve().parents[1]
# Minutes each: two workers begin with them, so that neither waits for the other at the end.
LONGEST = ("test_demo.py", "test_tutorial.py")
# One thread for each process: as many processes as cores compute at a time already. Set before
# anything imports torch or NumPy, and passed on to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; all others keep their order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="module", autouse=True)
def no_running_loop_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A file that leaves an event loop running in this thread breaks later files, which start their
    own: it fails itself. What has one (Playwright) is of module scope, never of session scope."""
    yield
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    pytest.fail(f"{request.node.name} leaves an event loop running: no session-wide fixture may")


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
