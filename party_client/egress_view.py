"""The egress log as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from party_client.egress import EgressEntry


def egress_table(entries: Sequence[EgressEntry]) -> Table:
    """One row a message."""
    table = Table(title="what left this party, newest first", title_justify="left")
    for name in ("time (UTC)", "message", "run", "round", "bytes", "epsilon", "shape", "SHA-256"):
        table.add_column(name, overflow="fold")
    for one in entries:
        again = " (again)" if one.resent else ""
        table.add_row(
            f"{one.time:%F %T}",
            f"{one.kind}{again}",
            one.run or "",
            "" if one.round is None else f"{one.round}.{one.attempt}",
            f"{one.bytes}",
            f"{one.epsilon:.3g}",
            f"{one.shape} [{one.treatment}]".replace("[", r"\["),
            one.sha256,
        )
    return table
