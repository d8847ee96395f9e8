"""One customer: look up, what may be read, and honouring an opt-out.

The id goes from page to page by a handle (`kept`), so that no address holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from starlette.responses import Response

from models.tag_catalogue import DIMENSIONS
from party_client.console.site import Visit
from party_client.desk_views import OptOutView
from party_client.roles import Permission
from privacy.errors import ConfigError, DataError, NotFound
from privacy.hosting.pages.forms import Fields
from privacy.hosting.pages.languages import N_
from privacy.hosting.pages.site import go, require

SECTION = "/customer"
_ID = N_("Type the customer's id.")
_GONE = "what was looked up is kept for half an hour only; look the customer up again"


@dataclass(frozen=True)
class Search:
    """What was looked up."""

    customer: str
    purpose: str


def search_page(visit: Visit) -> Response:
    """The empty form."""
    require(visit, Permission.READ_CUSTOMER)
    return _search(visit, "", "")


def search(visit: Visit) -> Response:
    """Look up, and go on to the page of what was found."""
    require(visit, Permission.READ_CUSTOMER)
    fields = Fields(visit.form)
    customer = fields.line("customer", needed=_ID)
    purpose = fields.one_of("purpose", visit.desk.purposes(visit.who))
    if fields.wrong:
        return _search(visit, customer, purpose, fields.wrong)
    return go(f"/customer/found/{visit.keep(Search(customer, purpose))}")


def found(visit: Visit) -> Response:
    """What may be read about the customer now."""
    handle, asked = _asked(visit)
    try:
        view = visit.desk.customer(visit.who, asked.customer, asked.purpose)
    except (ConfigError, DataError):  # an id that cannot be one of this party's form
        wrong = {"customer": N_("This is no customer id of this party's form.")}
        return _search(visit, asked.customer, asked.purpose, wrong)
    order: list[str] = list(DIMENSIONS)
    local = [tag for tag in view.tags if tag.kind != "joint"]
    local.sort(key=lambda tag: order.index(tag.dimension), reverse=True)
    return visit.show(
        "customer_found.html",
        section=SECTION,
        view=view,
        joint=[tag for tag in view.tags if tag.kind == "joint"],
        groups=[(name, list(some)) for name, some in groupby(local, lambda tag: tag.dimension)],
        history=visit.desk.history(visit.who, asked.customer, asked.purpose) if view.tags else [],
        handle=handle,
    )


def opt_out_page(visit: Visit) -> Response:
    """What an opt-out does and does not do, before it is done."""
    return _opt_out(visit)


def opt_out(visit: Visit) -> Response:
    """Honour it; doing it again changes nothing."""
    _, asked = _asked(visit)
    fields = Fields(visit.form)
    reason = fields.line("reason")
    if fields.wrong:
        return _opt_out(visit, reason, fields.wrong)
    view = visit.desk.opt_out(visit.who, asked.customer, reason)
    return go(f"/customer/opted-out/{visit.keep(view)}?done=opted-out")


def opted_out(visit: Visit) -> Response:
    """Which model versions the customer had taken part in."""
    view = visit.kept(visit.request.path_params["handle"])
    if not isinstance(view, OptOutView):
        raise NotFound(_GONE)
    return visit.show("opted_out.html", section=SECTION, view=view)


def _search(
    visit: Visit, customer: str, purpose: str, wrong: dict[str, str] | None = None
) -> Response:
    purposes = [(one, visit.words.say(one)) for one in visit.desk.purposes(visit.who)]
    return visit.show(
        "customer.html",
        section=SECTION,
        customer=customer,
        purpose=purpose,
        purposes=purposes,
        wrong=wrong,
    )


def _opt_out(visit: Visit, reason: str = "", wrong: dict[str, str] | None = None) -> Response:
    require(visit, Permission.OPT_OUT)
    handle, asked = _asked(visit)
    return visit.show(
        "opt_out.html",
        section=SECTION,
        handle=handle,
        customer=asked.customer,
        reason=reason,
        wrong=wrong,
    )


def _asked(visit: Visit) -> tuple[str, Search]:
    handle = visit.request.path_params["handle"]
    kept = visit.kept(handle)
    if not isinstance(kept, Search):
        raise NotFound(_GONE)
    return handle, kept
