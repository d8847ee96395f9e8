"""The node's HTTP API. Every decision is the desk's; here is how it is asked.

A program shows an API token, a person's browser a session. Failures are problem+json
(`privacy.hosting.problems`). A customer's id is never in a path or a query: those end in logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import TypeAdapter

from models.tag_catalogue import CatalogueTag
from party_client import metrics
from party_client.api_models import (
    DecisionRequest,
    Digest,
    ExportRequest,
    Health,
    LookupRequest,
    Me,
    Name,
    OptOutRequest,
    OwnPasswordRequest,
    PasswordRequest,
    PersonRequest,
    Problem,
    Purpose,
    RoleRequest,
    RunId,
    SignedIn,
    SignInRequest,
    TokenRequest,
    Word,
)
from party_client.approvals import Decided, WaitingPlan
from party_client.desk import Desk
from party_client.desk_views import (
    AccessPage,
    BudgetView,
    CustomerView,
    EgressPage,
    HistoryView,
    LedgerPage,
    NewToken,
    OptOutView,
    Overview,
    PersonRemoved,
    SegmentView,
)
from party_client.plan_review import PlanReview
from party_client.quality import QualityReport
from party_client.readiness import Readiness
from party_client.roles import MAY, Permission, Role, may
from party_client.segment_files import MEDIA_TYPES
from party_client.settings import LOOPBACK, PartySettings
from privacy.errors import AccessDenied, NotSignedIn
from privacy.hosting import web
from privacy.hosting.access import Person, Principal, Token
from privacy.hosting.gate import CSRF_HEADER, Gate, address_of
from privacy.hosting.problems import PROBLEM_TYPE
from privacy.hosting.sessions import Session

PageNumber = Annotated[int, Query(ge=1, le=10**9)]
_CUSTOMER = TypeAdapter(CustomerView)
_PROBLEMS: Mapping[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {PROBLEM_TYPE: {}}} for status in (401, 403, 413, 422)
}


def create_app(desk: Desk, gate: Gate, settings: PartySettings) -> FastAPI:
    """The API over `desk`; `gate` says who asks."""
    app = FastAPI(
        title=f"fedtags party {settings.party}",
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.desk, app.state.gate, app.state.settings = desk, gate, settings
    app.state.readiness = Readiness(settings)
    web.install(app)
    app.include_router(_open_routes)
    app.include_router(_session_routes)
    app.include_router(_guarded)
    return app


def _part(name: str) -> Callable[[Request], Any]:
    async def part(request: Request) -> Any:
        return getattr(request.app.state, name)

    return part


async def _principal(
    request: Request, _shown: Annotated[object, Depends(HTTPBearer(auto_error=False))]
) -> Principal:
    gate = request.app.state.gate
    assert isinstance(gate, Gate)
    # A thread for this alone would double what a look-up waits for under load.
    known = gate.known_token(request)
    return await run_in_threadpool(gate.principal, request) if known is None else known


def _signed_in(request: Request) -> Session:
    gate = request.app.state.gate
    assert isinstance(gate, Gate)
    session = gate.session(request)
    if session is None:
        raise NotSignedIn("there is no session; sign in first")
    gate.check_form(request, session, request.headers.get(CSRF_HEADER, ""))
    return session


TheDesk = Annotated[Desk, Depends(_part("desk"))]
TheGate = Annotated[Gate, Depends(_part("gate"))]
TheReadiness = Annotated[Readiness, Depends(_part("readiness"))]
Settings = Annotated[PartySettings, Depends(_part("settings"))]
Who = Annotated[Principal, Depends(_principal)]
SignedInSession = Annotated[Session, Depends(_signed_in)]

_open_routes = APIRouter(tags=["operations"])
_session_routes = APIRouter(prefix="/v1", tags=["people"], responses=dict(_PROBLEMS))
# A route cannot forget to ask who it is: the router does.
_guarded = APIRouter(prefix="/v1", dependencies=[Depends(_principal)], responses=dict(_PROBLEMS))


# Open to everyone who reaches the port -----------------------------------------------------------


@_open_routes.get("/health")
def health() -> Health:
    """The process answers."""
    return Health(status="ok")


@_open_routes.get("/ready", responses={503: {"model": Health}})
def ready(desk: TheDesk, readiness: TheReadiness, response: Response) -> Health:
    """The node can do its work; 503 with what is missing otherwise. No counts are told."""
    fault = desk.working()
    missing = [*([fault] if fault else []), *readiness.missing()]
    response.status_code = 503 if missing else 200
    return Health(status="not ready" if missing else "ok", missing=tuple(missing))


@_open_routes.get("/metrics", response_class=PlainTextResponse)
def prometheus(request: Request, gate: TheGate, settings: Settings) -> Response:
    """Prometheus metrics, without a value of any row. From another machine than the node's own,
    with the token of somebody who may see the node."""
    if address_of(request) not in LOOPBACK and not may(
        gate.principal(request).role, Permission.SEE_NODE
    ):
        raise AccessDenied("this role may not see the node")
    return Response(metrics.render(settings), media_type=metrics.CONTENT_TYPE)


# Sessions ----------------------------------------------------------------------------------------


@_session_routes.post("/session")
def sign_in(body: SignInRequest, request: Request, response: Response, gate: TheGate) -> SignedIn:
    """Sign in with a password. The answer sets the session's cookie."""
    gate.check_origin(request)
    opened = gate.sign_in(body.name, body.password, address_of(request))
    gate.set_cookie(response, opened)
    principal = opened.session.principal
    return SignedIn(name=principal.name, role=principal.role, csrf=opened.session.csrf)


@_session_routes.delete("/session", status_code=204)
def sign_out(
    _session: SignedInSession, request: Request, response: Response, gate: TheGate
) -> None:
    """End the session."""
    gate.sign_out(request)
    gate.clear_cookie(response)


@_session_routes.put("/session/password", status_code=204)
def change_password(
    session: SignedInSession, body: OwnPasswordRequest, response: Response, gate: TheGate
) -> None:
    """Change the signed-in person's own password; it ends that person's sessions."""
    gate.change_password(session, body.current, body.new)
    gate.clear_cookie(response)


@_guarded.get("/me", tags=["people"])
def me(who: Who) -> Me:
    """Who asks, and what that role may do."""
    allowed = MAY.get(Role(who.role), frozenset())
    return Me(name=who.name, role=who.role, kind=who.kind, may=tuple(sorted(allowed)))


# Customers ---------------------------------------------------------------------------------------


@_guarded.post("/customers/lookup", tags=["customers"], response_model=CustomerView)
def lookup(body: LookupRequest, who: Who, desk: TheDesk) -> Response:
    """What may be read about one customer for a purpose now."""
    found = desk.customer(who, body.customer, body.purpose)
    # Written here: FastAPI would hand the answer to another thread to look it through.
    return Response(_CUSTOMER.dump_json(found), media_type="application/json")


@_guarded.post("/customers/history", tags=["customers"])
def history(body: LookupRequest, who: Who, desk: TheDesk) -> list[HistoryView]:
    """Earlier values of what may be read about one customer."""
    return desk.history(who, body.customer, body.purpose)


@_guarded.post("/customers/opt-out", tags=["customers"])
def opt_out(body: OptOutRequest, who: Who, desk: TheDesk) -> OptOutView:
    """Honour an opt-out: tags and history go and stay gone. Models are not unlearned."""
    return desk.opt_out(who, body.customer, body.reason)


@_guarded.post("/consents/refresh", tags=["customers"], status_code=204)
def refresh_consents(who: Who, desk: TheDesk) -> None:
    """Read the source's consents anew; customers without any lose their tags."""
    desk.refresh_consents(who)


@_guarded.get("/segments", tags=["customers"])
def segments(purpose: Purpose, who: Who, desk: TheDesk) -> list[SegmentView]:
    """Every tag's values with how many customers have them; small counts are null."""
    return desk.segments(who, purpose)


@_guarded.post("/segments/export", tags=["customers"], response_class=StreamingResponse)
def export(body: ExportRequest, who: Who, desk: TheDesk) -> StreamingResponse:
    """A file of the customers in a segment, as CSV or Parquet."""
    pieces = desk.export_segment(
        who, body.tag, body.value, body.purpose, body.format, since=body.since
    )
    name = f'attachment; filename="segment.{body.format}"'
    return StreamingResponse(
        pieces, media_type=MEDIA_TYPES[body.format], headers={"content-disposition": name}
    )


@_guarded.get("/catalogue", tags=["customers"])
def catalogue(who: Who, desk: TheDesk) -> list[CatalogueTag]:
    """Every entry of the tag catalogue."""
    return desk.catalogue(who)


@_guarded.get("/purposes", tags=["customers"])
def purposes(who: Who, desk: TheDesk) -> list[str]:
    """Every purpose that a tag may be read for."""
    return desk.purposes(who)


# Plans, budget, what left ------------------------------------------------------------------------


@_guarded.get("/plans", tags=["plans"])
def plans(who: Who, desk: TheDesk, waiting: bool = False) -> list[WaitingPlan]:
    """Plans that were kept for a person; with `waiting`, those that wait for a decision."""
    return desk.waiting(who) if waiting else desk.plans(who)


@_guarded.get("/plans/{digest}", tags=["plans"])
def plan(digest: Annotated[Digest, Path()], who: Who, desk: TheDesk) -> PlanReview:
    """One plan with everything that a person decides on."""
    return desk.plan(who, digest)


@_guarded.post("/plans/{digest}/decision", tags=["plans"])
def decide(
    digest: Annotated[Digest, Path()], body: DecisionRequest, who: Who, desk: TheDesk
) -> Decided:
    """Approve or refuse a plan. A person's, in a session: an API token cannot decide."""
    return desk.decide(who, digest, body.approve, body.reason, body.seen)


@_guarded.get("/budget", tags=["budget"])
def budget(who: Who, desk: TheDesk) -> BudgetView:
    """The lifetime budget and the policy's sub-limits."""
    return desk.budget(who)


@_guarded.get("/ledger", tags=["budget"])
def ledger(who: Who, desk: TheDesk, page: PageNumber = 1) -> LedgerPage:
    """The privacy ledger in words, newest first."""
    return desk.ledger(who, page)


@_guarded.get("/egress", tags=["budget"])
def egress(
    who: Who,
    desk: TheDesk,
    page: PageNumber = 1,
    kind: Annotated[Word | None, Query()] = None,
    run: Annotated[RunId | None, Query()] = None,
) -> EgressPage:
    """Every message that left, newest first."""
    return desk.egress(who, page, kind, run)


@_guarded.get("/overview", tags=["operations"])
def overview(who: Who, desk: TheDesk) -> Overview:
    """How the node stands."""
    return desk.overview(who)


@_guarded.get("/quality", tags=["operations"])
def quality(who: Who, desk: TheDesk) -> QualityReport | None:
    """The newest data-quality check; null before the first."""
    return desk.quality(who)


# People and tokens -------------------------------------------------------------------------------


@_guarded.get("/people", tags=["people"])
def people(who: Who, desk: TheDesk) -> list[Person]:
    """Everyone with a role."""
    return desk.people(who)


@_guarded.post("/people", tags=["people"], status_code=201)
def add_person(body: PersonRequest, who: Who, desk: TheDesk) -> Person:
    """Add a person."""
    return desk.add_person(who, body.name, body.role, body.password)


@_guarded.put("/people/{name}/role", tags=["people"])
def set_role(name: Annotated[Name, Path()], body: RoleRequest, who: Who, desk: TheDesk) -> Person:
    """Change a person's role."""
    return desk.set_role(who, name, body.role)


@_guarded.put("/people/{name}/password", tags=["people"], status_code=204)
def set_password(
    name: Annotated[Name, Path()], body: PasswordRequest, who: Who, desk: TheDesk
) -> None:
    """Give a person a new password; it ends that person's sessions."""
    desk.set_password(who, name, body.password)


@_guarded.delete("/people/{name}", tags=["people"])
def remove_person(name: Annotated[Name, Path()], who: Who, desk: TheDesk) -> PersonRemoved:
    """Remove a person."""
    return desk.remove_person(who, name)


@_guarded.get("/tokens", tags=["people"])
def tokens(who: Who, desk: TheDesk) -> list[Token]:
    """Every API token, without its secret."""
    return desk.tokens(who)


@_guarded.post("/tokens", tags=["people"], status_code=201)
def create_token(body: TokenRequest, who: Who, desk: TheDesk) -> NewToken:
    """Make an API token. Its secret is in this answer and nowhere else."""
    return desk.create_token(who, body.name, body.role, body.days)


@_guarded.delete("/tokens/{name}", tags=["people"])
def revoke_token(name: Annotated[Name, Path()], who: Who, desk: TheDesk) -> Token:
    """Make an API token useless from the next request on."""
    return desk.revoke_token(who, name)


@_guarded.get("/access-log", tags=["people"])
def access_log(who: Who, desk: TheDesk, page: PageNumber = 1) -> AccessPage:
    """Who looked at what, and did what, newest first."""
    return desk.access_log(who, page)
