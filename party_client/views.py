"""How a party's node looks on its operator's terminal. Exact counts stay there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from party_client.federation import PinnedFederation

if TYPE_CHECKING:
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
