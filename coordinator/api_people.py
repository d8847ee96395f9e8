"""The routes about people, tokens and the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from coordinator.api_access import REPEATABLE, TheDesk, Who, guarded
from coordinator.api_models import (
    Cursor,
    Limit,
    Name,
    PasswordRequest,
    PersonRequest,
    RoleRequest,
    TokenRequest,
)
from coordinator.desk_views import PAGE_SIZE, AuditPage, ChainView, NewToken, PersonRemoved
from privacy.hosting.access import Person, Token

router = guarded("people")


@router.get("/people")
def people(who: Who, desk: TheDesk) -> list[Person]:
    """Everyone with a role."""
    return desk.people(who)


@router.post("/people", status_code=201, dependencies=REPEATABLE)
def add_person(body: PersonRequest, who: Who, desk: TheDesk) -> Person:
    """Add a person. A person's, in a session: an API token cannot."""
    return desk.add_person(who, body.name, body.role, body.password)


@router.put("/people/{name}/role")
def set_role(name: Annotated[Name, Path()], body: RoleRequest, who: Who, desk: TheDesk) -> Person:
    """Change a person's role. A person's, in a session."""
    return desk.set_role(who, name, body.role)


@router.put("/people/{name}/password", status_code=204)
def set_password(
    name: Annotated[Name, Path()], body: PasswordRequest, who: Who, desk: TheDesk
) -> None:
    """Give a person a new password; it ends that person's sessions. A person's, in a session."""
    desk.set_password(who, name, body.password)


@router.delete("/people/{name}")
def remove_person(name: Annotated[Name, Path()], who: Who, desk: TheDesk) -> PersonRemoved:
    """Remove a person."""
    return desk.remove_person(who, name)


@router.get("/tokens")
def tokens(who: Who, desk: TheDesk) -> list[Token]:
    """Every API token, without its secret."""
    return desk.tokens(who)


@router.post("/tokens", status_code=201, dependencies=REPEATABLE)
def create_token(body: TokenRequest, who: Who, desk: TheDesk) -> NewToken:
    """Make an API token. A person's, in a session. Its secret is in this answer alone."""
    return desk.create_token(who, body.name, body.role, body.days)


@router.delete("/tokens/{name}")
def revoke_token(name: Annotated[Name, Path()], who: Who, desk: TheDesk) -> Token:
    """Make an API token useless from the next request on."""
    return desk.revoke_token(who, name)


@router.get("/audit", tags=["audit"])
def audit(
    who: Who, desk: TheDesk, cursor: Cursor | None = None, limit: Limit = PAGE_SIZE
) -> AuditPage:
    """Who asked for what, newest first."""
    return desk.audit(who, cursor=cursor, limit=limit)


@router.get("/audit/chain", tags=["audit"])
def audit_chain(who: Who, desk: TheDesk) -> ChainView:
    """Verify every byte of the audit log."""
    return desk.audit_chain(who)
