"""How a party's node looks on its operator's terminal. Exact counts stay there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.table import Table

from party_client.federation import PinnedFederation

if TYPE_CHECKING:
    from party_client.sources import SourceReport
    from party_client.status import Status


def federation_table(pinned: PinnedFederation) -> Table:
    """Every pinned key of a federation with its fingerprint."""
    table = Table("who", "name", "fingerprint", "confirmed", box=None)
    table.title = f"federation {pinned.federation}"
    table.add_row("coordinator", "", pinned.coordinator.fingerprint, "by the invite")
    for requester in pinned.requesters:
        table.add_row("requester", requester.name, requester.fingerprint, "by the invite")
    for name, member in sorted(pinned.members.items()):
        table.add_row("member", name, member.fingerprint, "yes" if member.confirmed else "no")
    return table


def source_table(report: SourceReport) -> Table:
    """What `check` found."""
    table = Table(box=None, show_header=False)
    table.add_row("rows read", f"{report.rows_read:,}")
    for reason, count in sorted(report.rejected.items()):
        table.add_row(f"  rejected: {reason}", f"{count:,}")
    if report.rejected_file is not None:
        table.add_row("  rejected rows lie in", str(report.rejected_file))
    table.add_row("columns", ", ".join(f"{k} = {v}" for k, v in report.columns_found.items()))
    if report.columns_missing:
        table.add_row("columns not mapped", ", ".join(report.columns_missing))
    if report.first_day is not None and report.last_day is not None:
        table.add_row("days", f"{report.first_day} to {report.last_day}")
    table.add_row("customers", f"{report.customers:,}")
    consent = "you assert that all have" if report.consent_asserted else "by the consent file"
    table.add_row("consented", f"{report.consented:,} ({consent})")
    if report.clamped is None or report.eligible is None:
        table.add_row("clamped values", "give --plan: a feature table's ranges are the plan's")
    else:
        table.add_row("eligible", f"{report.eligible:,}")
        clamped = (f"{name} {count:,}" for name, count in report.clamped.items())
        table.add_row("clamped values", ", ".join(clamped) or "none")
    return table


def source_json(report: SourceReport) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "rows_read": report.rows_read,
        "rejected": dict(report.rejected),
        "rejected_file": str(report.rejected_file) if report.rejected_file else None,
        "columns_found": dict(report.columns_found),
        "columns_missing": list(report.columns_missing),
        "customers": report.customers,
        "consented": report.consented,
        "consent_asserted": report.consent_asserted,
        "first_day": report.first_day.isoformat() if report.first_day else None,
        "last_day": report.last_day.isoformat() if report.last_day else None,
        "eligible": report.eligible,
        "clamped": None if report.clamped is None else dict(report.clamped),
    }


def status_table(status: Status) -> Table:
    """What `status` says."""
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("party", status.party)
    table.add_row("service", "up" if status.service_up else "down")
    table.add_row("SuperNode", "up" if status.supernode_up else "down")
    if status.federation is None:
        table.add_row("federation", "none; join one with fedtags-party join INVITE")
    else:
        table.add_row("federation", status.federation)
        table.add_row("members", f"{status.members_confirmed} of {status.members} confirmed")
        signed = ", ".join(status.manifest)
        table.add_row("manifest", f"signed by {signed}" if signed else "none yet: a run writes it")
    table.add_row(
        "budget used",
        f"{share_in_words(status.budget_used)} of epsilon {status.epsilon_budget:g} at delta "
        f"{status.delta:.1e} (one customer at this party, added or removed, all runs)",
    )
    if status.last_run is None:
        table.add_row("last run", "none")
    else:
        table.add_row("last run", f"{status.last_run} ({status.last_run_state})")
    if status.last_run_two_party is not None:
        table.add_row("", status.last_run_two_party)
    table.add_row("Flower bundle", status.bundle)
    return table


def share_in_words(share: float) -> str:
    """A share of a budget that is used, rounded up."""
    return f"{math.ceil(share * 1000 - 1e-9) / 10:.1f} %"
