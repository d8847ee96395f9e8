"""What every page has: the party's desk and gate, the reader's language, templates as answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from party_client.console.kept import Kept
from party_client.console.languages import COOKIE, LANGUAGES, choose_language, translations
from party_client.console.menu import menu_for
from party_client.console.notices import NOTICES
from party_client.console.words import Words
from party_client.desk import Desk
from party_client.roles import Permission, may
from privacy.errors import AccessDenied
from privacy.hosting.access import Principal
from privacy.hosting.gate import Gate
from privacy.hosting.sessions import Session

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Site:
    """The console of one party."""

    party: str
    desk: Desk
    gate: Gate
    kept: Kept = field(default_factory=Kept)
    environments: Mapping[str, Environment] = field(
        default_factory=lambda: MappingProxyType({name: _environment(name) for name in LANGUAGES})
    )


@dataclass(frozen=True)
class Visit:
    """One request. `session` is None before signing in; `form` is a POST's, already checked."""

    site: Site
    request: Request
    session: Session | None
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def who(self) -> Principal:
        """The signed-in person; only pages that ask for a session have one."""
        assert self.session is not None
        return self.session.principal

    @property
    def desk(self) -> Desk:
        """The party's desk."""
        return self.site.desk

    @property
    def words(self) -> Words:
        """The reader's language."""
        cookie = self.request.cookies.get(COOKIE)
        lang = choose_language(cookie, self.request.headers.get("accept-language"))
        return Words(lang, translations(lang))

    @property
    def page(self) -> int:
        """The wished page of a long list, from 1; anything else is the first."""
        wished = self.request.query_params.get("page", "1")
        return int(wished) if wished.isascii() and wished.isdigit() and len(wished) < 8 else 1

    def may(self, permission: Permission) -> bool:
        """Whether the person may; False before signing in."""
        return self.session is not None and may(self.session.principal.role, permission)

    def keep(self, value: object) -> str:
        """Keep a value for a later page of this session."""
        assert self.session is not None
        return self.site.kept.keep(self.session.csrf, value)

    def kept(self, handle: str) -> object | None:
        """What `keep` kept, for this session alone."""
        assert self.session is not None
        return self.site.kept.find(self.session.csrf, handle)

    def take(self, handle: str) -> object | None:
        """As `kept`, and never again."""
        assert self.session is not None
        return self.site.kept.take(self.session.csrf, handle)

    def show(
        self,
        template: str,
        *,
        section: str = "",
        status: int = 200,
        wrong: Mapping[str, str] | None = None,
        **values: Any,
    ) -> Response:
        """A page. `wrong`: what to correct, text by field name ("" for the whole form)."""
        words = self.words
        notice = NOTICES.get(self.request.query_params.get("done", ""), "")
        said = {name: words.say(text) for name, text in (wrong or {}).items()}
        text = (
            self.site.environments[words.lang]
            .get_template(template)
            .render(
                lang=LANGUAGES[words.lang],
                words=words,
                party=self.site.party,
                who=None if self.session is None else self.session.principal,
                csrf="" if self.session is None else self.session.csrf,
                may=self.may,
                P=Permission,
                menu=menu_for(self.may, words.say),
                section=section,
                status=status,
                here=_here(self.request),
                done=words.say(notice) if status == 200 and not said else "",
                wrong=said,
                **values,
            )
        )
        # A form with an error is an answer to a bad request, and stays readable.
        return HTMLResponse(text, status_code=422 if said and status == 200 else status)


def require(visit: Visit, permission: Permission) -> None:
    """For a page that shows an empty form, where the desk is not asked yet. Raises AccessDenied."""
    if not visit.may(permission):
        raise AccessDenied(f"your role may not {permission.value}")


def go(path: str) -> Response:
    """After a POST: the page to read next, by GET."""
    return RedirectResponse(path, status_code=303)


def _here(request: Request) -> str:
    if request.method != "GET":
        return "/"
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _environment(language: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.install_gettext_translations(  # type: ignore[attr-defined]
        translations(language), newstyle=True
    )
    return environment
