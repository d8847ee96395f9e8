"""What whoever operates a coordinator asks of it: metrics, and that it warns in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from coordinator import metrics
from coordinator.alert_watch import AlertWatch
from coordinator.alerts import Alert, AlertStore
from coordinator.control import ConnectedNode, ControlPlane
from coordinator.disclosures import DisclosureStore
from coordinator.member_store import Party
from coordinator.run_figures import RunFigures
from coordinator.settings import CoordinatorSettings
from privacy.errors import FedtagsError
from privacy.hosting.certificates import check_certificate

LOOK_SECONDS: Final = 60.0
# A scrape and a readiness check shortly after another need not ask the SuperLink again.
_NODES_SECONDS = 5.0

T = TypeVar("T")


class Operations:
    """Over one control plane and its home's settings; `close` it. Safe between threads.

    `missing`: what keeps the coordinator from its work, in words. `evidence_faults`: by run, what
    does not verify of the packs that are kept.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        control: ControlPlane,
        *,
        missing: Callable[[], Sequence[str]],
        evidence_faults: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        url = settings.database_url
        self._settings = settings
        self._control = control
        self._missing = missing
        self.alerts = AlertStore(url)
        self._told = DisclosureStore(url)
        self._figures = RunFigures(url)
        self._watch = AlertWatch(
            settings,
            self.alerts,
            control.runs,
            control.members,
            self._told,
            self._figures,
            control.nodes,
            evidence_faults,
        )
        self._lock = threading.Lock()
        self._nodes: tuple[float, Sequence[ConnectedNode]] | None = None

    def close(self) -> None:
        """Give back the connections."""
        for store in (self.alerts, self._told, self._figures):
            store.close()

    def look(self) -> Sequence[Alert]:
        """Look for what people should be warned of, and warn; every LOOK_SECONDS is enough.

        Raises StoreError if the database cannot be used, ConfigError for a webhook that cannot be.
        """
        return self._watch.look()

    def metrics(self) -> bytes:
        """Everything in Prometheus' text format (`coordinator.metrics.CONTENT_TYPE`)."""
        told = _or_none(self._told.newest) or {}
        enrolled = _or_none(self._control.members.parties) or ()
        names = [party.name for party in enrolled]
        budgets = {name: told[name].disclosure.budget for name in names if name in told}
        active = _or_none(self._control.runs.active_run)
        facts = metrics.Facts(
            now=datetime.now(UTC),
            runs=_or_none(self._figures.by_state),
            exchanges=_or_none(self._figures.exchanges),
            online=_or_none(lambda: self._online(enrolled)),
            budget_left={
                party: max(0.0, 1 - budget.used)
                for party, budget in budgets.items()
                if budget is not None
            },
            told_at={party: told[party].received_at for party in budgets},
            alerts=_or_none(self.alerts.counts),
            progress_at=None
            if active is None
            else _or_none(lambda: self._figures.last_progress(active.run_id)),
            certificate_expires=_or_none(self._expires),
            ready=_or_none(self._missing) == [],
        )
        return metrics.render(facts)

    def _online(self, enrolled: Sequence[Party]) -> Mapping[str, bool]:
        up = {node.public_key for node in self._connected() if node.online}
        return {party.name: party.supernode_public_key in up for party in enrolled}

    def _connected(self) -> Sequence[ConnectedNode]:
        with self._lock:
            if self._nodes is None or time.monotonic() - self._nodes[0] > _NODES_SECONDS:
                self._nodes = None
                self._nodes = (time.monotonic(), self._control.nodes())
            return self._nodes[1]

    def _expires(self) -> datetime:
        settings = self._settings
        return check_certificate(
            settings.server_certificate, settings.host, settings.ca_certificate
        )


def _or_none(read: Callable[[], T]) -> T | None:
    """What `read` returns; None if it cannot be read now."""
    try:
        return read()
    except FedtagsError:
        return None
