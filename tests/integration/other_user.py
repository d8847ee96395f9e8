"""Becomes another OS user, then runs a party's service, or code that attacks one.

    python -m tests.integration.other_user UID GID[,GID...] service HOME
    python -m tests.integration.other_user UID GID[,GID...] hostile HOME PID SOCKET

Started as root. Everything is imported before, because the interpreter may lie where that user
cannot read (in root's home). The kernel then treats the process as after an exec by that user.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

PR_SET_DUMPABLE = 4


def become(uid: int, groups: list[int]) -> None:
    """Give up root for good."""
    os.setgroups(groups)
    os.setresgid(groups[0], groups[0], groups[0])
    os.setresuid(uid, uid, uid)
    # A process that changed its user is closed to that user, too, until it executes a program:
    # opened again, so that the attacks meet what they would meet in a deployment.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def main() -> None:
    """The command line above."""
    uid, groups = int(sys.argv[1]), [int(one) for one in sys.argv[2].split(",")]
    what, *rest = sys.argv[3:]
    if what == "hostile":
        from tests.integration import hostile

        become(uid, groups)
        hostile.main(*rest)
        return
    from party_client import service

    home = Path(rest[0])
    service.PartyService(home).close()  # imports all that it needs
    for path in [home, *home.rglob("*")]:
        os.chown(path, uid, uid)
    become(uid, groups)
    sys.exit(service.main(["--home", str(home)]))


if __name__ == "__main__":
    main()
