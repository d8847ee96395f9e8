"""The control plane's HTTP API. Every decision is the desk's; here is how it is asked.

A program shows an API token, a person's browser a session; a party signs its requests with its own
key (`privacy.hosting.signed_requests`). Failures are problem+json (`privacy.hosting.problems`).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from coordinator import api_events, api_federation, api_people, api_runs, sign_in
from coordinator.api_access import PROBLEMS, TheDesk, TheGate, Who, part, principal_of
from coordinator.api_models import Health, Told
from coordinator.control import ControlPlane
from coordinator.desk import Desk
from coordinator.idempotency import Answers
from coordinator.metrics import CONTENT_TYPE
from coordinator.operations import Operations
from coordinator.roles import Permission, may
from coordinator.settings import LOOPBACK, CoordinatorSettings
from privacy.disclosure import Disclosure
from privacy.errors import AccessDenied, SignatureError
from privacy.hosting import web
from privacy.hosting.enrolment import EnrolmentRequest, Federation, NamedKey
from privacy.hosting.gate import Gate, address_of
from privacy.hosting.signed_requests import PARTY_HEADER, verify_request

_open_routes = APIRouter(tags=["operations"])
_party_routes = APIRouter(prefix="/v1", tags=["parties' nodes"], responses=dict(PROBLEMS))
_document = APIRouter(prefix="/v1", include_in_schema=False)


def create_app(
    desk: Desk, gate: Gate, settings: CoordinatorSettings, operations: Operations
) -> FastAPI:
    """The API over `desk`; `gate` says who asks."""
    app = FastAPI(
        title=f"fedtags coordinator of {settings.federation}",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.desk, app.state.gate, app.state.settings = desk, gate, settings
    app.state.control, app.state.answers = desk.control, Answers(desk.access)
    app.state.operations = operations
    web.install(app)
    for router in (
        _open_routes,
        _party_routes,
        _document,
        sign_in.router(settings, gate),
        api_federation.router,
        api_runs.router,
        api_events.router,
        api_people.router,
    ):
        app.include_router(router)
    return app


Control = Annotated[ControlPlane, Depends(part("control"))]
Settings = Annotated[CoordinatorSettings, Depends(part("settings"))]


# Open to everyone who reaches the port -----------------------------------------------------------


@_open_routes.get("/health")
@_open_routes.get("/v1/health", include_in_schema=False)
def health(control: Control) -> Health:
    """The control plane is up."""
    return Health(status="ok", federation=control.identity.federation)


@_open_routes.get("/ready", responses={503: {"model": Health}})
def ready(desk: TheDesk, response: Response) -> Health:
    """The control plane can do its work; 503 with what is missing otherwise."""
    missing = desk.missing()
    response.status_code = 503 if missing else 200
    return Health(
        status="not ready" if missing else "ok",
        federation=desk.control.identity.federation,
        missing=tuple(missing),
    )


@_open_routes.get("/metrics", response_class=PlainTextResponse)
def prometheus(
    request: Request,
    gate: TheGate,
    operations: Annotated[Operations, Depends(part("operations"))],
) -> Response:
    """Prometheus metrics. From another machine than the coordinator's own, with the token of
    somebody who may see them."""
    if address_of(request) not in LOOPBACK and not may(
        gate.principal(request).role, Permission.SEE_METRICS
    ):
        raise AccessDenied("this role may not see metrics")
    return Response(operations.metrics(), media_type=CONTENT_TYPE)


# Signed by a party -------------------------------------------------------------------------------


async def _verify(request: Request, public_key: bytes) -> None:
    body = await request.body()
    verify_request(public_key, request.method, _path(request), request.headers, body)


def _path(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


async def _signed_enrolment(request: Request, body: EnrolmentRequest) -> EnrolmentRequest:
    """The enrolling party proves that it holds the key it names."""
    await _verify(request, bytes.fromhex(body.public_key))
    return body


async def _person_or_party(request: Request, control: Control) -> None:
    if request.headers.get(PARTY_HEADER) is None:
        await principal_of(request)
        return
    party = await run_in_threadpool(control.members.party, request.headers[PARTY_HEADER])
    if party is None:
        raise SignatureError("the request is not from an enrolled party; join first")
    await _verify(request, party.public_key)


@_party_routes.post("/enrolments")
def enrol(
    body: Annotated[EnrolmentRequest, Depends(_signed_enrolment)], request: Request, desk: TheDesk
) -> Federation:
    """Enrol a party with its one-time token."""
    desk.enrol(body, address_of(request))
    return _federation(desk.control)


@_party_routes.get("/members", dependencies=[Depends(_person_or_party)])
def members(control: Control) -> Federation:
    """Every member's name and public key, for a member or anybody who is signed in."""
    return _federation(control)


async def _raw(request: Request) -> bytes:
    return await request.body()


@_party_routes.post(
    "/disclosures",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "description": Disclosure.__doc__ or ""}
                }
            },
        }
    },
)
def disclose(request: Request, body: Annotated[bytes, Depends(_raw)], desk: TheDesk) -> Told:
    """What a party tells of itself; newer than all it told before."""
    told = desk.take_in(request.method, _path(request), request.headers, body)
    return Told(sequence=told.sequence)


# The document ------------------------------------------------------------------------------------


@_document.get("/openapi.json")
def openapi(_who: Who, request: Request) -> dict[str, Any]:
    """This API, as an OpenAPI 3.1 document."""
    app = request.app
    assert isinstance(app, FastAPI)
    return app.openapi()


def _federation(control: ControlPlane) -> Federation:
    return Federation(
        federation=control.identity.federation,
        members=tuple(
            NamedKey(name=party.name, public_key=party.public_key.hex())
            for party in control.members.parties()
        ),
    )
