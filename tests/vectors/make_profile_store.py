"""Writes profile_store_r0001.db and _r0002.db: profile stores as those versions left them.

Each was written once, at its version; the files are checked in and not written again, so that
upgrades are tested against what was really on disk. All customers are made up. The first one's
tables are those of its revision, run alone.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from party_client.profile_database import MIGRATIONS
from privacy.hosting.database import open_engine
from privacy.hosting.migrations import upgrade_engine

FOLDER = Path(__file__).parent
FIRST, SECOND = (FOLDER / f"profile_store_r000{number}.db" for number in (1, 2))
PARTIES = json.dumps(["bank", "retailer", "shop"])
OLD_PUBLICATIONS = [
    ("run-1", "1" * 64, "a" * 64, "2024-05-01", "2024-07-30"),
    ("run-2", "1" * 64, "b" * 64, "2024-06-01", "2024-08-30"),
]
OLD_VALUES = [
    ("customer-1", "churn_risk", "medium", 0.5, "run-1", "2024-07-30"),
    ("customer-2", "purchase_propensity", "medium", 0.4375, "run-1", "2024-07-30"),
    ("customer-2", "churn_risk", "high", 0.875, "run-2", "2024-08-30"),
]
OLD_HISTORY = [(1, "customer-2", "churn_risk", "low", 0.125, "run-1", "2024-07-30", "run-2")]


def upgrade_to_first(url: str) -> None:
    """Run the first revision, and only that one, on an empty database."""
    engine = open_engine(url)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MIGRATIONS / "r0001_profile_store.py", folder)
        upgrade_engine(engine, Path(folder))
    engine.dispose()


def write_first(target: Path) -> None:
    """A store of the first version: tags of two runs."""
    upgrade_to_first(f"sqlite:///{target}")
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.executemany(
            "insert into publications values (?, ?, ?, ?, 1.75, 1e-5, ?, ?, ?, 'published')",
            [
                (run, plan, model, PARTIES, f"{day} 09:30:00.000000", day, until)
                for run, plan, model, day, until in OLD_PUBLICATIONS
            ],
        )
        connection.executemany("insert into tag_values values (?, ?, ?, ?, ?, ?)", OLD_VALUES)
        connection.executemany(
            "insert into tag_history values (?, ?, ?, ?, ?, ?, ?, ?)", OLD_HISTORY
        )
    _one_file(target)


def write_second(target: Path) -> None:
    """A store of the second version: two runs, consents, an opt-out, who took part."""
    sys.path.insert(0, str(FOLDER.parents[1]))
    from tests.profile_stores import FIRST as RUN_1
    from tests.profile_stores import NOW, batch, opened, yes
    from tests.profile_stores import SECOND as RUN_2

    store = opened(f"sqlite:///{target}", events=True)
    store.set_consents(yes(["customer-1", "customer-2", "customer-3"]), now=NOW)
    rows = [("customer-1", "medium", 0.5), ("customer-2", "low", 0.125), ("customer-3", "low", 0.1)]
    store.publish(RUN_1, [batch(rows)])
    store.publish(RUN_2, [batch([("customer-2", "high", 0.875)])])
    store.record_participation("run-1", "churn", "a" * 64, trained=["customer-2"], evaluated=[])
    store.name_model("run-1", "b" * 64)
    store.opt_out("customer-3", person="os:made-up", reason="asked by letter", now=NOW)
    store.close()
    _one_file(target)


def _one_file(target: Path) -> None:
    with closing(sqlite3.connect(target)) as connection:  # one file, without its -wal beside it
        connection.execute("pragma journal_mode = delete")
        connection.execute("vacuum")


def main() -> None:
    """Make the file that is named; it must not be there yet."""
    wanted = {"r0001": (FIRST, write_first), "r0002": (SECOND, write_second)}
    target, write = wanted[sys.argv[1]]
    if target.exists():
        raise SystemExit(f"{target} is checked in and never written again")
    write(target)


if __name__ == "__main__":
    main()
