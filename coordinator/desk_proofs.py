"""The part of the desk that is about evidence packs and alerts."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from coordinator import cursors
from coordinator.desk_people import PeopleDesk, named_run
from coordinator.desk_store import DeskStore
from coordinator.desk_views import PAGE_SIZE, AlertPage, AlertView, EvidenceView
from coordinator.roles import Permission, party_of
from coordinator.settings import CoordinatorSettings
from privacy.hosting.access import Access, Principal
from privacy.hosting.access_log import AccessLog

if TYPE_CHECKING:
    from coordinator.evidence import Evidence

_ALERTS_AT_ONCE = 200


class AlertRow(Protocol):
    """An alert as it is stored. `subject`: a party's name, a run's id or what else it is about."""

    @property
    def number(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def raised_at(self) -> datetime: ...
    @property
    def resolved_at(self) -> datetime | None: ...


class AlertReader(Protocol):
    """Stored alerts."""

    def close(self) -> None:
        """Give back the connections."""
        ...

    def open(self) -> Sequence[AlertRow]:
        """Those that last."""
        ...

    def page(self, before: int | None, limit: int) -> Sequence[AlertRow]:
        """Newest first; with `before`, those with a smaller number."""
        ...


class PackRow(Protocol):
    """An evidence pack that was made."""

    @property
    def run_id(self) -> str: ...
    @property
    def made_at(self) -> datetime: ...
    @property
    def sha256(self) -> str: ...
    @property
    def bytes(self) -> int: ...


class PackReader(Protocol):
    """Evidence packs."""

    def close(self) -> None:
        """Give back the connections."""
        ...

    def view(self, run_id: str) -> PackRow | None:
        """The pack of a run, if one was made."""
        ...

    def list(self) -> Sequence[PackRow]:
        """The newest that were made, newest first."""
        ...

    def export(self, run_id: str) -> PackRow:
        """Make a run's pack, once. Raises RunError while the run is active."""
        ...

    def read(self, run_id: str) -> bytes:
        """A pack that was made."""
        ...

    def keys(self) -> bytes:
        """What a pack is verified with: public keys, as JSON."""
        ...

    def faults(self) -> Mapping[str, str]:
        """By run, what is wrong with a pack that was made."""
        ...


class LazyPacks:
    """The packs of a home, opened when they are first asked for: what makes and prints a pack
    takes seconds and memory to import."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: Evidence | None = None

    def close(self) -> None:
        """Give back the connections."""
        if self._opened is not None:
            self._opened.close()

    def view(self, run_id: str) -> PackRow | None:
        """The pack of a run, if one was made."""
        return self._evidence().view(run_id)

    def list(self) -> Sequence[PackRow]:
        """The newest that were made, newest first."""
        return self._evidence().list()

    def export(self, run_id: str) -> PackRow:
        """Make a run's pack, once and one at a time; others can be read meanwhile."""
        return self._evidence().export(run_id)

    def read(self, run_id: str) -> bytes:
        """A pack that was made."""
        return self._evidence().read(run_id)

    def keys(self) -> bytes:
        """What a pack is verified with: public keys, as JSON."""
        return self._evidence().keys().to_json()

    def faults(self) -> Mapping[str, str]:
        """By run, what is wrong with a pack that was made."""
        return self._evidence().faults()

    def _evidence(self) -> Evidence:
        with self._lock:
            if self._opened is None:
                from coordinator.evidence import Evidence

                self._opened = Evidence(self._settings)
            return self._opened


class ProofDesk(PeopleDesk):
    """Evidence packs and alerts. The desk adds the rest."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        access: Access,
        log: AccessLog,
        runs: DeskStore,
        alerts: AlertReader,
        packs: PackReader,
    ) -> None:
        super().__init__(settings, access, log)
        self._runs, self._alerts, self._packs = runs, alerts, packs

    def evidence(self, who: Principal, run_id: str) -> EvidenceView:
        """Whether there is an evidence pack of a run."""
        self._permit(who, Permission.SEE_EVIDENCE, detail=f"of {named_run(run_id)}")
        state = self._runs.one(run_id, party_of(who.role))["state"]
        return _view(run_id, state, self._packs.view(run_id))

    def evidence_packs(self, who: Principal) -> list[EvidenceView]:
        """Every pack that was made, newest first; for a party operator those of its runs."""
        self._permit(who, Permission.SEE_EVIDENCE)
        only = party_of(who.role)
        packs = self._packs.list()
        states = self._runs.states_of([one.run_id for one in packs], only)
        return [_view(one.run_id, states[one.run_id], one) for one in packs if one.run_id in states]

    def take_evidence(self, who: Principal, run_id: str) -> tuple[str, bytes]:
        """A run's signed evidence pack, made if it was not yet: the file's name and its bytes."""
        self._permit(who, Permission.TAKE_EVIDENCE, detail=f"of {named_run(run_id)}")
        self._runs.one(run_id, party_of(who.role))
        self._packs.export(run_id)
        return f"{run_id}.evidence.zip", self._packs.read(run_id)

    def evidence_keys(self, who: Principal) -> bytes:
        """The public keys that a pack is verified with, as JSON. Compare them with the
        coordinator's fingerprint before you rely on them."""
        self._permit(who, Permission.SEE_EVIDENCE, detail="keys")
        return self._packs.keys()

    def alerts(
        self, who: Principal, *, cursor: str | None = None, limit: int = PAGE_SIZE
    ) -> AlertPage:
        """Alerts, newest first; for a party operator those about the own party."""
        self._permit(who, Permission.SEE_ALERTS)
        only, before = party_of(who.role), cursors.number_of(cursor)
        found: list[AlertRow] = []
        while len(found) <= limit:
            rows = self._alerts.page(before, _ALERTS_AT_ONCE)
            found += [row for row in rows if only in (None, row.subject)]
            if len(rows) < _ALERTS_AT_ONCE:
                break
            before = rows[-1].number
        shown = found[:limit]
        more = cursors.of_number(shown[-1].number) if len(found) > limit else None
        return AlertPage(alerts=tuple(map(_alert, shown)), next=more)

    def evidence_faults(self) -> Mapping[str, str]:
        """By run, what is wrong with a pack that was made: for alerts, which nobody asks for."""
        return self._packs.faults()

    def _open_alerts(self, only: str | None) -> tuple[AlertView, ...]:
        rows = self._alerts.open()
        return tuple(_alert(row) for row in rows if only in (None, row.subject))


def _view(run_id: str, state: str, pack: PackRow | None) -> EvidenceView:
    return EvidenceView(
        run_id=run_id,
        state=state,
        sha256=None if pack is None else pack.sha256,
        bytes=None if pack is None else pack.bytes,
        made_at=None if pack is None else pack.made_at,
    )


def _alert(row: AlertRow) -> AlertView:
    return AlertView(
        id=str(row.number),
        kind=row.kind,
        subject=row.subject,
        text=row.message,
        raised_at=row.raised_at,
        resolved_at=row.resolved_at,
    )
