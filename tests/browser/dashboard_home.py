"""A coordinator with parties, runs and people, served over TLS, for the pages' tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privacy.errors import CohortError
from tests.integration.control_plane_server import PLAN, make_coordinator, served
from tests.integration.coordinator_asking import PASSWORD, Asked

PARTIES = ("bank", "retailer", "shop")
PEOPLE = {
    "ann": "admin",
    "dora": "data-scientist",
    "rita": "reviewer",
    "otto": "party-operator:bank",
}
# What somebody put into a plan in the hope that a page runs it.
SCRIPT = "<script>document.title = 'run'</script>"
HOSTILE = PLAN.replace(b'name = "churn"', f'name = "churn"\ndescription = "{SCRIPT}"'.encode())
LATER = PLAN.replace(b"epsilon = 1.0", b"epsilon = 0.5")


@contextmanager
def furnished(folder: Path) -> Iterator[Asked]:
    """Three parties that tell their budgets, two finished runs and a failed one."""
    coordinator = make_coordinator(folder / "coordinator", "winter-market")
    api = Asked(coordinator)
    try:
        api.enrol(*PARTIES)
        for party, used in zip(PARTIES, (0.34, 0.93, 0.12), strict=True):
            api.disclose(party, public_size=5000, used=used)
        api.finished("churn-1", HOSTILE, auc=0.71)
        api.finished("churn-2", LATER, auc=0.78)
        api.call("POST", "/v1/runs", api.submission("churn-3"))
        coordinator.control.runs.fail("churn-3", CohortError("2 of 3 parties accepted"))
        for name, role in PEOPLE.items():
            coordinator.service.desk.access.add_person(name, role, PASSWORD)
        with served(coordinator):
            yield api
    finally:
        coordinator.service.close()
