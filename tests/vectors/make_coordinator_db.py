"""Writes coordinator-0001.db: a run store as revision 0001 leaves it, for later upgrade tests.

Run it from the repository root: python tests/vectors/make_coordinator_db.py. It refuses to replace
the file: a database of revision 0001 can only be made by the version that had no later revision.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from coordinator.member_store import MemberStore
from coordinator.run_store import RunStore
from privacy.errors import PartyTimeout

TARGET = Path(__file__).with_name("coordinator-0001.db")
TOKEN_KEY = bytes(range(32))
PLAN = b"""\
format = 1
name = "churn"
purpose = "retention"
[task]
kind = "churn"
cutoff = 2024-06-01
[privacy]
epsilon = 1.0
"""


def main() -> None:
    """Three parties, a finished run, a failed run and an active one."""
    if TARGET.exists():
        raise SystemExit(f"{TARGET.name} exists and is never replaced")
    url = f"sqlite:///{TARGET}"
    members = MemberStore(url, TOKEN_KEY)
    members.add_requester("data-science", b"r" * 32)
    members.add_api_token("admin", "admin")
    for name in ("bank", "retailer", "shop"):
        token = members.invite(name, timedelta(days=1)).token
        key = name.encode().ljust(32, b".")
        members.enrol(token, name, key, f"ecdsa-sha2-nistp384 {name}", lambda: None)
    members.invite("pending", timedelta(days=1))
    members.close()

    runs = RunStore(url)
    for run_id in ("run-1", "run-2", "run-3"):
        runs.create_run(run_id, PLAN, b"r" * 32, run_id.encode().ljust(64, b"."))
        runs.attach_flower_run(run_id, f"1{run_id[-1]}")
        recorder = runs.recorder(run_id)
        recorder.phase("preflight", None, 8)
        recorder.exchange("preflight", None, 0.25, {"bank": 1000}, {"bank": 2000, "shop": 2000})
        recorder.phase("round", 1, 8)
        recorder.exchange("round", 1, 1.5, {"bank": 3_000_000_000, "shop": 7}, {"bank": 11})
        if run_id == "run-1":
            recorder.metric("auc", 0.75)
            runs.finish(run_id, {"parties": ["bank", "shop"], "auc": 0.75})
        elif run_id == "run-2":
            runs.fail(run_id, PartyTimeout("shop did not answer in phase round 1"))
    runs.request_stop("run-3")
    runs.close()
    # One file: fold the write-ahead log back in.
    with closing(sqlite3.connect(TARGET)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


if __name__ == "__main__":
    main()
