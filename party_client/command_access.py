"""What a command on the node's own machine looks at is in the access log, like all other looks."""

from __future__ import annotations

import os
import pwd

from party_client.roles import Permission
from party_client.settings import PartySettings


def note_access(
    settings: PartySettings, what: Permission, *, customer: str | None = None, detail: str = ""
) -> None:
    """Write that this operating-system user does `what`, before it is done.

    `customer`: a normalised id; its keyed hash is written. Raises StoreError or LedgerError if it
    cannot be written.
    """
    from party_client.people import customer_hash, open_access
    from privacy.hosting.access import Principal
    from privacy.hosting.access_log import AccessLog

    hashed = None
    if customer is not None:
        access = open_access(settings)
        try:
            hashed = customer_hash(access, customer)
        finally:
            access.close()
    log = AccessLog(settings.access_log)
    try:
        who = Principal(command_user(), "admin", "command")
        log.record(who, what.value, allowed=True, customer=hashed, detail=detail)
        log.flush()
    finally:
        log.close()


def command_user() -> str:
    """The operating system's user, marked so that no person of the node has the name."""
    try:
        return f"os:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"os:{os.getuid()}"
