"""The part of the desk that is about people: who there is, what they did, and who may ask."""

from __future__ import annotations

import re
import threading
import time

from coordinator import cursors
from coordinator.desk_views import PAGE_SIZE, AuditPage, ChainView, NewToken, PersonRemoved
from coordinator.roles import Permission, Role, may, parse_role
from coordinator.settings import CoordinatorSettings
from privacy.errors import AccessDenied, LedgerError
from privacy.hosting.access import DEFAULT_TOKEN_DAYS, Access, Person, Principal, Token
from privacy.hosting.access_log import AccessLog, AccessRecord, read_page, verify_log
from privacy.identity import PARTY_PATTERN, RUN_ID_PATTERN

CHAIN_FOR_S = 60.0


class PeopleDesk:
    """People, tokens and the audit log. The desk adds the rest."""

    def __init__(self, settings: CoordinatorSettings, access: Access, log: AccessLog) -> None:
        self._settings, self._access, self._log = settings, access, log
        self._chain_lock = threading.Lock()
        self._chain: tuple[float, ChainView] | None = None

    def people(self, who: Principal) -> list[Person]:
        """Everyone with a role, those who were removed included."""
        self._permit(who, Permission.SEE_PEOPLE)
        return self._access.people()

    def add_person(self, who: Principal, name: str, role: str, password: str | None) -> Person:
        """Add a person, or bring a removed one back. Without a password: no signing in by one."""
        self._permit(who, Permission.MANAGE_PEOPLE, detail=f"add {name} as {role}", person=True)
        return self._access.add_person(name, parse_role(role), password)

    def set_role(self, who: Principal, name: str, role: str) -> Person:
        """Change a person's role. Somebody stays admin."""
        self._permit(who, Permission.MANAGE_PEOPLE, detail=f"{name} becomes {role}", person=True)
        return self._access.set_role(name, parse_role(role), keep=Role.ADMIN)

    def set_password(self, who: Principal, name: str, password: str) -> None:
        """Give a person a new password, which ends that person's sessions."""
        self._permit(who, Permission.MANAGE_PEOPLE, detail=f"new password for {name}", person=True)
        self._access.set_password(name, password)

    def remove_person(self, who: Principal, name: str) -> PersonRemoved:
        """Remove a person. Somebody stays admin."""
        self._permit(who, Permission.MANAGE_PEOPLE, detail=f"remove {name}")
        removed = self._access.remove_person(name, keep=Role.ADMIN)
        return PersonRemoved(name=name, tokens=removed)

    def tokens(self, who: Principal) -> list[Token]:
        """Every API token, without its secret."""
        self._permit(who, Permission.SEE_PEOPLE)
        return self._access.tokens()

    def create_token(
        self, who: Principal, name: str, role: str, days: int = DEFAULT_TOKEN_DAYS
    ) -> NewToken:
        """A new API token; its secret is in this answer and nowhere else."""
        self._permit(
            who, Permission.MANAGE_PEOPLE, detail=f"create token {name} as {role}", person=True
        )
        token, secret = self._access.create_token(
            name, parse_role(role), created_by=who.name, days=days
        )
        return NewToken(token=token, secret=secret)

    def revoke_token(self, who: Principal, name: str) -> Token:
        """Make an API token useless."""
        self._permit(who, Permission.MANAGE_PEOPLE, detail=f"revoke token {name}")
        return self._access.revoke_token(name)

    def audit(
        self, who: Principal, *, cursor: str | None = None, limit: int = PAGE_SIZE
    ) -> AuditPage:
        """Who asked for what, newest first."""
        self._permit(who, Permission.SEE_AUDIT)
        before = cursors.number_of(cursor)
        self._log.flush()
        lines = self._lines(before, limit + 1)
        shown = lines[:limit]
        more = cursors.of_number(shown[-1].number) if len(lines) > limit else None
        return AuditPage(lines=tuple(shown), next=more)

    def audit_chain(self, who: Principal) -> ChainView:
        """Verify every byte of the audit log; the answer may be a minute old."""
        self._permit(who, Permission.SEE_AUDIT, detail="verify")
        self._log.flush()
        with self._chain_lock:
            if self._chain is None or time.monotonic() - self._chain[0] > CHAIN_FOR_S:
                self._chain = (time.monotonic(), self._verified())
            return self._chain[1]

    @property
    def access(self) -> Access:
        """People and tokens, for signing in."""
        return self._access

    def working(self) -> str | None:
        """None if anything can be answered; what is wrong otherwise."""
        if not self._log.working:
            return "the audit log cannot be written"
        self._access.tokens()
        return None

    def close(self) -> None:
        """Write what the audit log holds and give up connections."""
        self._log.close()
        self._access.close()

    def _lines(self, before: int | None, count: int) -> list[AccessRecord]:
        """`count` lines with numbers below `before`, newest first."""
        path = self._settings.audit_log
        newest, _ = read_page(path, 1, count)
        if before is None or not newest:
            return newest
        # New lines push older ones on to later pages, so a page number is no place.
        page = max(1, (newest[0].number + 1 - before) // count + 1)
        found: list[AccessRecord] = []
        while len(found) < count:
            lines, pages = read_page(path, page, count)
            found += [line for line in lines if line.number < before]
            page += 1
            if page > pages:
                break
        return found[:count]

    def _verified(self) -> ChainView:
        try:
            entries, head = verify_log(self._settings.audit_log)
        except LedgerError as error:
            return ChainView(name="audit", whole=False, entries=0, head="", fault=str(error))
        return ChainView(
            name="audit", whole=True, entries=entries, head=f"{head.sequence}:{head.hash}"
        )

    def _permit(
        self, who: Principal, permission: Permission, *, detail: str = "", person: bool = False
    ) -> None:
        """Note in the audit log that `who` asks, and raise AccessDenied if the role may not.

        `person`: what an API token cannot do, whatever its role.
        """
        allowed = may(who.role, permission) and not (person and who.kind == "token")
        self._log.record(who, permission.value, allowed=allowed, detail=detail)
        if not may(who.role, permission):
            raise AccessDenied(f"role {who.role} may not {permission.value}")
        if not allowed:
            raise AccessDenied(
                "new people, new tokens and roles are a person's to decide: sign in, or use the "
                "commands on the coordinator's machine; an API token cannot"
            )


def named_run(run_id: str) -> str:
    """A run's id for the audit log; anything else somebody put in its place is left out."""
    return run_id if re.fullmatch(RUN_ID_PATTERN, run_id) else "unknown"


def named_party(name: str) -> str:
    """A party's name for the audit log; anything else is left out."""
    return name if re.fullmatch(PARTY_PATTERN, name) else "unknown"
