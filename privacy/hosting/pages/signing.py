"""Signing in and out, the own password, and the language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from privacy.errors import ConfigError, NotSignedIn, RateLimited
from privacy.hosting.gate import address_of
from privacy.hosting.pages.forms import Fields, local_path
from privacy.hosting.pages.languages import COOKIE, LANGUAGES, N_
from privacy.hosting.pages.site import Visit, go

_YEAR_S = 365 * 24 * 3600
ENDED = {
    "page": N_("Please sign in to open this page. A session ends after 30 minutes without use."),
    "form": N_("Your session had ended, so nothing was changed. Sign in and repeat it."),
}
WRONG = N_("The name or the password is wrong.")
WRONG_CURRENT = N_("The present password is wrong.")
TOO_MANY = N_("There were too many attempts. Wait a quarter of an hour, then try again.")


def sign_in_page(visit: Visit[Any, Any]) -> Response:
    """The form; who is signed in goes home."""
    asked = visit.request.query_params
    if visit.session is not None:
        return go("/")
    ended = ENDED.get(asked.get("ended", ""), "")
    return _form(visit, back=asked.get("back", "/"), ended=ended)


def sign_in(visit: Visit[Any, Any]) -> Response:
    """Open a session, or say that it was wrong, without saying which of the two."""
    fields = Fields(visit.form)
    name, password = fields.line("name", most=128), fields.secret("password")
    back = local_path(visit.form.get("back", "/"))
    if not fields.wrong:
        try:
            opened = visit.site.gate.sign_in(name, password, address_of(visit.request))
            answer = go(back)
            visit.site.gate.set_cookie(answer, opened)
            return answer
        except NotSignedIn:
            fields.wrong["password"] = WRONG
        except RateLimited:
            fields.wrong[""] = TOO_MANY
    return _form(visit, back=back, name=name, wrong=fields.wrong)


def sign_out(visit: Visit[Any, Any]) -> Response:
    """End the session."""
    answer = go("/sign-in?done=signed-out")
    if visit.session is not None:
        visit.site.gate.sign_out(visit.request)
        visit.site.gate.clear_cookie(answer)
    return answer


def password_page(visit: Visit[Any, Any]) -> Response:
    """The form for one's own password."""
    return visit.show("password.html")


def change_password(visit: Visit[Any, Any]) -> Response:
    """One's own new password; every session ends with the old one."""
    assert visit.session is not None
    fields = Fields(visit.form)
    current, new = fields.secret("current"), fields.secret("password")
    if not fields.wrong:
        try:
            visit.site.gate.change_password(visit.session, current, new)
            answer = go("/sign-in?done=own-password")
            visit.site.gate.clear_cookie(answer)
            return answer
        except NotSignedIn:
            fields.wrong["current"] = WRONG_CURRENT
        except ConfigError as error:
            fields.wrong["password"] = str(error)
        except RateLimited:
            fields.wrong[""] = TOO_MANY
    return visit.show("password.html", wrong=fields.wrong)


def language(visit: Visit[Any, Any]) -> Response:
    """Keep the reader's choice in a cookie, and show the same page in it."""
    wished = visit.form.get("language", "")
    answer = go(local_path(visit.form.get("back", "/")))
    if wished in LANGUAGES:
        answer.set_cookie(
            COOKIE,
            wished,
            max_age=_YEAR_S,
            path="/",
            secure=visit.site.gate.secure,
            httponly=True,
            samesite="strict",
        )
    return answer


def _form(
    visit: Visit[Any, Any],
    back: str,
    *,
    name: str = "",
    ended: str = "",
    wrong: Mapping[str, str] | None = None,
) -> Response:
    return visit.show(
        "sign_in.html",
        back=back,
        name=name,
        ended=ended,
        provider=visit.site.provider,
        wrong=wrong,
    )
