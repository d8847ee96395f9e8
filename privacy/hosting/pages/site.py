"""What every page has: a service's desk and gate, the reader's language, templates as answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from privacy.errors import AccessDenied
from privacy.hosting.access import Principal
from privacy.hosting.gate import Gate
from privacy.hosting.pages.kept import Kept
from privacy.hosting.pages.languages import COOKIE, LANGUAGES, choose_language, translations
from privacy.hosting.pages.menu import Group, menu_for
from privacy.hosting.pages.words import Words
from privacy.hosting.sessions import Session

TEMPLATES = Path(__file__).parent / "templates"
DeskT = TypeVar("DeskT")
WordsT = TypeVar("WordsT", bound=Words)


@dataclass(frozen=True)
class Identity:
    """What the pages say of their service. `name`: a party's or a federation's; the others are
    texts marked for translation: what kind of service it is, what stands below each page, and what
    a person should know before signing in."""

    name: str
    kind: str
    footer: str
    before_signing_in: str


@dataclass(frozen=True)
class Site(Generic[DeskT, WordsT]):
    """The pages of one service. `folder` holds its templates and translations. `speak`: its words
    in a language; `may`: whether a role has a permission; `permissions`: their enumeration, with
    MANAGE_PEOPLE among them; `roles`: those that a person may be given, the least power first;
    `provider`: the path that leads to signing in elsewhere, "" if there is none."""

    identity: Identity
    desk: DeskT
    gate: Gate
    folder: Path
    speak: Callable[[str], WordsT]
    menu: Sequence[Group]
    notices: Mapping[str, str]
    permissions: Any
    may: Callable[[str, Any], bool]
    roles: Callable[[DeskT], Sequence[str]]
    provider: str = ""
    kept: Kept = field(default_factory=Kept)

    @cached_property
    def environments(self) -> Mapping[str, Environment]:
        """The templates by language."""
        return MappingProxyType({name: _environment(self.folder, name) for name in LANGUAGES})


@dataclass(frozen=True)
class Visit(Generic[DeskT, WordsT]):
    """One request. `session` is None before signing in; `form` is a POST's, already checked."""

    site: Site[DeskT, WordsT]
    request: Request
    session: Session | None
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def who(self) -> Principal:
        """The signed-in person; only pages that ask for a session have one."""
        assert self.session is not None
        return self.session.principal

    @property
    def desk(self) -> DeskT:
        """The service's desk."""
        return self.site.desk

    @cached_property
    def words(self) -> WordsT:
        """The reader's language."""
        cookie = self.request.cookies.get(COOKIE)
        return self.site.speak(choose_language(cookie, self.request.headers.get("accept-language")))

    @property
    def page(self) -> int:
        """The wished page of a long list, from 1; anything else is the first."""
        wished = self.request.query_params.get("page", "1")
        return int(wished) if wished.isascii() and wished.isdigit() and len(wished) < 8 else 1

    def may(self, permission: StrEnum) -> bool:
        """Whether the person may; False before signing in."""
        return self.session is not None and self.site.may(self.session.principal.role, permission)

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
        words, site = self.words, self.site
        notice = site.notices.get(self.request.query_params.get("done", ""), "")
        said = {name: words.say(text) for name, text in (wrong or {}).items()}
        text = (
            site.environments[words.lang]
            .get_template(template)
            .render(
                lang=LANGUAGES[words.lang],
                words=words,
                service=site.identity,
                who=None if self.session is None else self.session.principal,
                csrf="" if self.session is None else self.session.csrf,
                may=self.may,
                P=site.permissions,
                menu=menu_for(site.menu, self.may, words.say),
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


def require(visit: Visit[Any, Any], permission: StrEnum) -> None:
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


def _environment(folder: Path, language: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder / "templates", TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.install_gettext_translations(  # type: ignore[attr-defined]
        translations(language, folder / "translations"), newstyle=True
    )
    return environment
