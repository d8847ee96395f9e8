"""People and API tokens. A token's secret is shown once, on the page after it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from privacy.errors import ConfigError, NotFound
from privacy.hosting.access import DEFAULT_TOKEN_DAYS
from privacy.hosting.pages.forms import Fields
from privacy.hosting.pages.languages import N_
from privacy.hosting.pages.site import Visit, go, require

SECTION = "/people"


@dataclass(frozen=True)
class _Made:
    """Kept for the next page: the desk's answer to a new token."""

    token: Any


@dataclass(frozen=True)
class _Removed:
    """Kept for the next page: the desk's answer to a removal."""

    person: Any


_SURE = N_("Tick the box if you mean it.")
_DAYS = N_("Use a whole number from 1 to 3,650.")
_SHOWN = "the secret was shown already; revoke the token and make another if it was not copied"
_EMPTY = {"name": "", "role": "", "token": "", "token_role": "", "days": str(DEFAULT_TOKEN_DAYS)}


def people_page(visit: Visit[Any, Any]) -> Response:
    """Everyone, every token, and for an administrator the forms."""
    return _people(visit)


def add_person(visit: Visit[Any, Any]) -> Response:
    """A new person."""
    require(visit, visit.site.permissions.MANAGE_PEOPLE)
    fields = Fields(visit.form)
    name = fields.line("name", most=63)
    role = fields.one_of("role", _allowed(visit))
    password = fields.secret("password")
    if not fields.wrong:
        try:
            visit.desk.add_person(visit.who, name, role, password)
            return go("/people?done=added")
        except ConfigError as error:
            fields.wrong[_field(error, "password", "name")] = str(error)
    return _people(visit, fields.wrong)


def add_token(visit: Visit[Any, Any]) -> Response:
    """A new token; its secret goes to the next page alone."""
    require(visit, visit.site.permissions.MANAGE_PEOPLE)
    fields = Fields(visit.form)
    name = fields.line("token", most=63)
    role = fields.one_of("token_role", _allowed(visit))
    days = visit.form.get("days", "").strip()
    if not (days.isascii() and days.isdigit() and len(days) < 6):
        fields.wrong["days"] = _DAYS
    if not fields.wrong:
        try:
            made = visit.desk.create_token(visit.who, name, role, int(days))
            return go(f"/people/tokens/made/{visit.keep(_Made(made))}")
        except ConfigError as error:
            fields.wrong[_field(error, "days", "token")] = str(error)
    return _people(visit, fields.wrong)


def token_made(visit: Visit[Any, Any]) -> Response:
    """The secret, once: a second look finds nothing."""
    made = visit.take(visit.request.path_params["handle"])
    if not isinstance(made, _Made):
        raise NotFound(_SHOWN)
    return visit.show("token_made.html", section=SECTION, view=made.token)


def token_page(visit: Visit[Any, Any]) -> Response:
    """Ask before a token is revoked."""
    require(visit, visit.site.permissions.MANAGE_PEOPLE)
    name = visit.request.path_params["name"]
    if name not in {one.name for one in visit.desk.tokens(visit.who)}:
        raise NotFound("no token has this name")
    return visit.show("token_revoke.html", section=SECTION, name=name)


def revoke_token(visit: Visit[Any, Any]) -> Response:
    """From the next request on it opens nothing."""
    visit.desk.revoke_token(visit.who, visit.request.path_params["name"])
    return go("/people?done=revoked")


def person_page(visit: Visit[Any, Any]) -> Response:
    """Role, password and removal of one person."""
    return _person(visit)


def set_role(visit: Visit[Any, Any]) -> Response:
    """Another role."""
    require(visit, visit.site.permissions.MANAGE_PEOPLE)
    fields = Fields(visit.form)
    role = fields.one_of("role", _allowed(visit))
    if not fields.wrong:
        try:
            visit.desk.set_role(visit.who, visit.request.path_params["name"], role)
            return go("/people?done=role")
        except ConfigError as error:
            fields.wrong["role"] = str(error)
    return _person(visit, fields.wrong)


def set_password(visit: Visit[Any, Any]) -> Response:
    """Another password."""
    require(visit, visit.site.permissions.MANAGE_PEOPLE)
    fields = Fields(visit.form)
    password = fields.secret("password")
    if not fields.wrong:
        try:
            visit.desk.set_password(visit.who, visit.request.path_params["name"], password)
            return go("/people?done=password")
        except ConfigError as error:
            fields.wrong["password"] = str(error)
    return _person(visit, fields.wrong)


def remove_person(visit: Visit[Any, Any]) -> Response:
    """The person goes; tokens that the person made are listed."""
    require(visit, visit.site.permissions.MANAGE_PEOPLE)
    fields = Fields(visit.form)
    if visit.form.get("sure") != "yes":
        fields.wrong["sure"] = _SURE
    if not fields.wrong:
        try:
            removed = visit.desk.remove_person(visit.who, visit.request.path_params["name"])
            return go(f"/people/removed/{visit.keep(_Removed(removed))}?done=removed")
        except ConfigError as error:
            fields.wrong["sure"] = str(error)
    return _person(visit, fields.wrong)


def person_removed(visit: Visit[Any, Any]) -> Response:
    """Which tokens the removed person leaves behind."""
    found = visit.kept(visit.request.path_params["handle"])
    if not isinstance(found, _Removed):
        return go("/people")
    return visit.show("person_removed.html", section=SECTION, view=found.person)


def _people(visit: Visit[Any, Any], wrong: dict[str, str] | None = None) -> Response:
    return visit.show(
        "people.html",
        section=SECTION,
        people=visit.desk.people(visit.who),
        tokens=visit.desk.tokens(visit.who),
        roles=_roles(visit),
        form=_EMPTY | {name: visit.form[name] for name in _EMPTY if name in visit.form},
        now=datetime.now(UTC),
        wrong=wrong,
    )


def _person(visit: Visit[Any, Any], wrong: dict[str, str] | None = None) -> Response:
    require(visit, visit.site.permissions.MANAGE_PEOPLE)
    name = visit.request.path_params["name"]
    found = [one for one in visit.desk.people(visit.who) if one.name == name]
    if not found or found[0].state != "active":
        raise NotFound("no person has this name")
    return visit.show(
        "person.html", section=SECTION, person=found[0], roles=_roles(visit), wrong=wrong
    )


def _roles(visit: Visit[Any, Any]) -> list[tuple[str, str]]:
    # Least power first, so that a hurried choice gives away little.
    return [(role, visit.words.role(role)) for role in _allowed(visit)]


def _allowed(visit: Visit[Any, Any]) -> Sequence[str]:
    roles: Sequence[str] = visit.site.roles(visit.desk)
    return roles


def _field(error: ConfigError, word: str, otherwise: str) -> str:
    """Which field an error speaks of."""
    return word if word in str(error).split(":")[0] else otherwise
