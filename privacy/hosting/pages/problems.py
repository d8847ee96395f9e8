"""Pages for what went wrong: what it is, and what to do next, in words and without inner detail."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from privacy.errors import FedtagsError
from privacy.hosting.pages.languages import N_
from privacy.hosting.pages.site import Visit
from privacy.hosting.problems import problem_of

# By status: title, what happened, what to do next.
_TEXTS: dict[int, tuple[str, str, str]] = {
    400: (
        N_("This request is not valid"),
        N_("The address or the form is not one that these pages make."),
        N_("Go back and use the page's own form."),
    ),
    403: (
        N_("Not allowed"),
        N_("Your role does not allow this. Nothing was shown or changed."),
        N_("If your work needs it, ask an administrator for another role."),
    ),
    404: (
        N_("Not found"),
        N_("There is nothing at this address, or it is there no longer."),
        N_("Check the address, or choose a page from the menu."),
    ),
    405: (
        N_("Not possible here"),
        N_("This page can be read only."),
        N_("Choose a page from the menu."),
    ),
    409: (
        N_("Somebody was faster"),
        N_("What you looked at has changed meanwhile. Nothing was changed by you."),
        N_("Open the page again, look at what stands now, and decide then."),
    ),
    413: (
        N_("Too much text"),
        N_("The form held more than is read here."),
        N_("Go back and shorten it."),
    ),
    422: (
        N_("This cannot be done as asked"),
        N_("One of the values is not one that fedtags accepts. Nothing was changed."),
        N_("Go back and correct it."),
    ),
    429: (
        N_("Too many attempts"),
        N_("There were too many attempts in a short time."),
        N_("Wait a quarter of an hour, then try again."),
    ),
    500: (
        N_("Something failed"),
        N_("The service could not do this. Nothing was half done."),
        N_("Try again. If it stays, the operator finds the cause in the log."),
    ),
    503: (
        N_("Not available now"),
        N_("A part of the service does not answer, or its file cannot be used."),
        N_("Try again in a minute. If it stays, the operator finds the cause in the log."),
    ),
}
_STALE = (
    N_("This form is out of date"),
    N_("It does not belong to your present session. Nothing was changed."),
    N_("Open the page again and repeat what you wanted to do."),
)


def problem_page(visit: Visit[Any, Any], error: Exception) -> Response:
    """What `error` means for the reader. A FedtagsError's own text holds no customer's data."""
    detail = ""
    if isinstance(error, FedtagsError):
        status, _ = problem_of(error)
        detail = str(error)
    else:
        status = error.status_code if isinstance(error, HTTPException) else 500
    known = status if status in _TEXTS else 400 if status < 500 else 500
    return _page(visit, status, _TEXTS[known], detail if known != 403 else "")


def stale_form(visit: Visit[Any, Any]) -> Response:
    """A form without this session's token, or from another origin."""
    return _page(visit, 403, _STALE)


def _page(
    visit: Visit[Any, Any], status: int, texts: tuple[str, str, str], detail: str = ""
) -> Response:
    title, what, then = (visit.words.say(one) for one in texts)
    return visit.show(
        "problem.html",
        status=status,
        title=title,
        what=what,
        detail=visit.words.say(detail),
        next=then,
    )
