"""Looking for what people should be warned of: four kinds of findings, each from public facts.

What cannot be read now (a SuperLink that is being restarted) is not looked at: it raises nothing
and resolves nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from coordinator.alerts import Alert, AlertStore, Kind
from coordinator.control import ConnectedNode
from coordinator.disclosures import DisclosureStore
from coordinator.member_store import MemberStore
from coordinator.run_figures import RunFigures
from coordinator.run_store import RunStore
from coordinator.settings import AlertSettings, CoordinatorSettings
from privacy.errors import FedtagsError, LedgerError
from privacy.hosting.access_log import verify_log
from privacy.hosting.database import utc_now

# A run that ended so did because something signed, chained or summed was not what it must be.
VERIFICATION_ERRORS = ("SignatureError", "IntegrityError", "LedgerError")
_RECENT_RUNS = 20

logger = logging.getLogger(__name__)


@dataclass
class AlertWatch:
    """Looks, raises, resolves and tells. `nodes`: the SuperLink's list, which may raise a
    FedtagsError; `evidence_faults`: by run, what does not verify of the packs that are kept."""

    settings: CoordinatorSettings
    alerts: AlertStore
    runs: RunStore
    members: MemberStore
    disclosures: DisclosureStore
    figures: RunFigures
    nodes: Callable[[], Sequence[ConnectedNode]]
    evidence_faults: Callable[[], Mapping[str, str]] = dict
    now: Callable[[], datetime] = utc_now
    _audited_at: datetime | None = None
    _audit: Mapping[str, str] = field(default_factory=dict)

    def look(self) -> Sequence[Alert]:
        """One look at everything; what was raised. Raises StoreError if the database cannot be
        used, ConfigError for a webhook that cannot be."""
        findings: dict[tuple[Kind, str], str] = {}
        looked_at = set()
        for kind, find in (
            (Kind.BUDGET_LOW, self._low_budgets),
            (Kind.PARTY_SILENT, self._silent_parties),
            (Kind.RUN_STALLED, self._stalled_runs),
            (Kind.VERIFICATION_FAILED, self._failed_verifications),
        ):
            try:
                found = find()
            except FedtagsError as error:
                logger.warning("alerts of kind %s could not be looked for: %s", kind, error)
                continue
            findings.update({(kind, subject): text for subject, text in found.items()})
            looked_at.add(kind)
        raised = self.alerts.observe(looked_at, findings)
        self.alerts.deliver(self.settings)
        return raised

    def _low_budgets(self) -> dict[str, str]:
        enrolled = {party.name for party in self.members.parties()}
        limit = self._thresholds.budget_below
        found = {}
        for name, told in self.disclosures.newest().items():
            budget = told.disclosure.budget
            if name in enrolled and budget is not None and 1 - budget.used < limit:
                left = max(0.0, 1 - budget.used)
                found[name] = (
                    f"{name} has {left:.0%} of its lifetime budget left, as it told on "
                    f"{told.received_at:%F}; runs with it may soon be refused"
                )
        return found

    def _silent_parties(self) -> dict[str, str]:
        nodes = {node.public_key: node for node in self.nodes()}
        told = self.disclosures.newest()
        now, limit = self.now(), timedelta(minutes=self._thresholds.silent_minutes)
        found = {}
        for party in self.members.parties():
            node = nodes.get(party.supernode_public_key)
            if node is not None and node.online:
                continue
            heard = [party.enrolled_at]
            heard += [node.last_seen] if node is not None and node.last_seen else []
            heard += [told[party.name].received_at] if party.name in told else []
            if now - max(heard) > limit:
                found[party.name] = (
                    f"{party.name} was last heard of on {max(heard):%F %R} UTC; ask its operator "
                    "whether its node runs and reaches this coordinator"
                )
        return found

    def _stalled_runs(self) -> dict[str, str]:
        run = self.runs.active_run()
        if run is None or run.state == "paused":  # a pause has an end of its own
            return {}
        last = self.figures.last_progress(run.run_id)
        if self.now() - last <= timedelta(minutes=self._thresholds.stalled_minutes):
            return {}
        return {
            run.run_id: f"run {run.run_id} has made no progress since {last:%F %R} UTC; see "
            "logs/serverapp.log, or stop it"
        }

    def _failed_verifications(self) -> dict[str, str]:
        found = dict(self._audit_faults())
        for one in self.disclosures.contradictions():
            if one.stands:
                found.setdefault(
                    one.party,
                    f"{one.party} told two things that cannot both be true: {one.what}; both are "
                    "kept with its signature. Ask its operator",
                )
        found.update(self._broken_runs())
        found.update(self.evidence_faults())
        return found

    def _broken_runs(self) -> dict[str, str]:
        """Runs that ended by a failed check, since the newest that finished well."""
        found = {}
        for run in self.runs.list_runs(_RECENT_RUNS):
            if run.state == "finished":
                break
            if run.error in VERIFICATION_ERRORS:
                found[run.run_id] = f"run {run.run_id} ended by a failed check: {run.message}"
        return found

    def _audit_faults(self) -> Mapping[str, str]:
        """Verifying reads the whole log, so it is done now and then; in between, what it said."""
        now, every = self.now(), timedelta(minutes=self._thresholds.audit_minutes)
        if self._audited_at is None or now - self._audited_at >= every:
            self._audit = _verify_audit(self.settings.audit_log)
            self._audited_at = now
        return self._audit

    @property
    def _thresholds(self) -> AlertSettings:
        return self.settings.alerts


def _verify_audit(path: Path) -> Mapping[str, str]:
    try:
        verify_log(path)
    except LedgerError as error:
        return {"audit log": f"the audit log is not what was written: {error}"}
    return {}
