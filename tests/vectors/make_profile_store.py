"""Writes profile_store_r0001.db: a profile store as the first version left it.

Run once, at that version (`python tests/vectors/make_profile_store.py`); the file is checked in
and not written again, so that upgrades are tested against what was really on disk. All customers
are made up.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

from party_client.profile_store import ProfileStore, Publication

TARGET = Path(__file__).parent / "profile_store_r0001.db"


def main() -> None:
    """Make the file; it must not be there yet."""
    if TARGET.exists():
        raise SystemExit(f"{TARGET} is checked in and never written again")
    first = Publication(
        run_id="run-1",
        plan_digest="1" * 64,
        model_digest="a" * 64,
        parties=("bank", "retailer", "shop"),
        epsilon=1.75,
        delta=1e-5,
        published_at=datetime(2024, 5, 1, 9, 30, tzinfo=UTC),
        as_of=date(2024, 5, 1),
        valid_until=date(2024, 7, 30),
    )
    second = replace(
        first,
        run_id="run-2",
        model_digest="b" * 64,
        published_at=datetime(2024, 6, 1, 9, 30, tzinfo=UTC),
        as_of=date(2024, 6, 1),
        valid_until=date(2024, 8, 30),
    )
    store = ProfileStore(f"sqlite:///{TARGET}")
    store.publish(
        first,
        [
            ("customer-1", "churn_risk", "medium", 0.5),
            ("customer-2", "churn_risk", "low", 0.125),
            ("customer-2", "purchase_propensity", "medium", 0.4375),
        ],
    )
    store.publish(second, [("customer-2", "churn_risk", "high", 0.875)])
    store.close()
    with closing(sqlite3.connect(TARGET)) as connection:  # one file, without its -wal beside it
        connection.execute("pragma journal_mode = delete")


if __name__ == "__main__":
    main()
