"""What an operator wants to know of a party's node, read from its home folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from party_client.federation import FEDERATION_NAME, load_federation
from party_client.ledger_words import TWO_PARTY, run_status
from party_client.manifest_file import read_manifest
from party_client.processes import child_pid, service_answers, supervisor_pid
from party_client.settings import PartySettings
from privacy.accounting import epsilon
from privacy.hosting.bundle import bundle_hash
from privacy.ledger import Ledger


@dataclass(frozen=True)
class Status:
    """`epsilon_*` at the ledger's delta for one customer at this party, over all runs.

    `epsilon_spent` composes what is charged as if it had been fixed beforehand; `budget_used` is
    the share of the lifetime budget that its filter has counted. `manifest`: the members who have
    signed the federation's manifest that is kept here; none before a run. `last_run_two_party`:
    what it means that a sum of it had two participants. `bundle`: SHA-256 of the Flower bundle that
    this installation accepts.
    """

    party: str
    running: bool
    service_up: bool
    supernode_up: bool
    federation: str | None
    members: int
    members_confirmed: int
    manifest: tuple[str, ...]
    epsilon_budget: float
    epsilon_spent: float
    budget_used: float
    delta: float
    last_run: str | None
    last_run_state: str | None
    last_run_two_party: str | None
    last_report_at: str | None
    bundle: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def read_status(settings: PartySettings) -> Status:
    """Look; changes nothing. Raises LedgerError if the ledger is corrupt, and ConfigError if
    another file is, or the manifest's signatures do not verify."""
    federation = None
    if (settings.home / FEDERATION_NAME).exists():
        federation = load_federation(settings.home)
    ledger = Ledger(settings.ledger)
    state = ledger.state()
    last_run = next(reversed(state.runs), None)
    manifest = read_manifest(settings.manifest)
    return Status(
        party=settings.party,
        running=supervisor_pid(settings.home) is not None,
        service_up=service_answers(settings.socket),
        supernode_up=child_pid(settings.home, "supernode") is not None,
        federation=federation.federation if federation else None,
        members=len(federation.members) if federation else 0,
        members_confirmed=len(federation.confirmed) if federation else 0,
        manifest=tuple(sorted(manifest.members)) if manifest else (),
        epsilon_budget=state.cap_epsilon,
        epsilon_spent=epsilon(state.charged(), state.cap_delta),
        budget_used=state.cap.used(state.charged()),
        delta=state.cap_delta,
        last_run=last_run,
        last_run_state=run_status(state.runs[last_run], state.now) if last_run else None,
        last_run_two_party=TWO_PARTY if last_run and state.runs[last_run].two_party else None,
        last_report_at=_last_report(settings),
        bundle=bundle_hash(),
    )


def _last_report(settings: PartySettings) -> str | None:
    times = [path.stat().st_mtime for path in settings.reports.glob("*.json")]
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None
