"""The control plane's HTTP API. Every decision is `ControlPlane`'s; here is who may ask for it.

Data science and operation show an API token; a party signs its requests with its own key
(`privacy.hosting.signed_requests`). Failures are problem+json (`privacy.hosting.problems`).
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request

from coordinator.api_models import (
    ExchangeView,
    Health,
    InvitationRequest,
    MembershipView,
    PartyList,
    PartyView,
    PlanCheck,
    PlanCheckRequest,
    RunDetail,
    RunList,
    RunSubmission,
    RunView,
    StopRequest,
)
from coordinator.control import ControlPlane
from coordinator.run_store import RunRecord
from models.plan import parse_plan, plan_digest
from privacy.errors import FedtagsError, SignatureError
from privacy.hosting import web
from privacy.hosting.enrolment import EnrolmentRequest, Federation, Invite, NamedKey
from privacy.hosting.signed_requests import PARTY_HEADER, verify_request

RECONCILE_SECONDS = 2.0

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1")


def create_app(control: ControlPlane) -> FastAPI:
    """The API over `control`; while it runs, the active run is reconciled every two seconds."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with _reconciling(control):
            yield

    app = FastAPI(
        title="fedtags coordinator",
        version="1",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.control = control
    web.install(app)
    app.include_router(router)
    return app


def _control(request: Request) -> ControlPlane:
    control = request.app.state.control
    assert isinstance(control, ControlPlane)
    return control


Control = Annotated[ControlPlane, Depends(_control)]


def _admin(request: Request, control: Control) -> None:
    if not _has_admin_token(request, control):
        raise SignatureError(
            "the API token is missing or not valid; use the one in the coordinator's keys/api.token"
        )


def _has_admin_token(request: Request, control: ControlPlane) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and control.members.role_of_token(token.strip()) == "admin"


async def _admin_or_party(request: Request, control: Control) -> None:
    if _has_admin_token(request, control):
        return
    party = control.members.party(request.headers.get(PARTY_HEADER, ""))
    if party is None:
        raise SignatureError("the request is not from an enrolled party; join first")
    await _verify(request, party.public_key)


async def _verify(request: Request, public_key: bytes) -> None:
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    verify_request(public_key, request.method, path, request.headers, await request.body())


async def _signed_enrolment(request: Request, body: EnrolmentRequest) -> EnrolmentRequest:
    """The enrolling party proves that it holds the key it names."""
    await _verify(request, bytes.fromhex(body.public_key))
    return body


Admin = Depends(_admin)


@router.get("/health")
def health(control: Control) -> Health:
    """The control plane is up; open to everyone who reaches it."""
    return Health(status="ok", federation=control.identity.federation)


@router.post("/invitations", dependencies=[Admin])
def invite(body: InvitationRequest, control: Control) -> Invite:
    """A new one-time invite; its token is in this answer and nowhere else."""
    return control.invite(body.party)


@router.post("/enrolments")
def enrol(
    body: Annotated[EnrolmentRequest, Depends(_signed_enrolment)], control: Control
) -> Federation:
    """Enrol a party with its one-time token."""
    control.enrol(body)
    return _federation(control)


@router.get("/members", dependencies=[Depends(_admin_or_party)])
def members(control: Control) -> Federation:
    """Every member's name and public key."""
    return _federation(control)


@router.get("/parties", dependencies=[Admin])
def list_parties(control: Control) -> PartyList:
    """Every enrolled party."""
    return PartyList(
        parties=tuple(
            PartyView(
                name=party.name,
                public_key=party.public_key.hex(),
                fingerprint=party.fingerprint,
                enrolled_at=party.enrolled_at,
            )
            for party in control.members.parties()
        )
    )


@router.post("/plans/validate", dependencies=[Admin])
def validate_plan(body: PlanCheckRequest, control: Control) -> PlanCheck:
    """Check a plan, and that enough of the parties it names are enrolled."""
    source = body.plan.encode()
    plan = parse_plan(source)
    return PlanCheck(
        name=plan.name,
        digest=plan_digest(source),
        parties=tuple(control.cohort(plan)),
        minimum=plan.cohort.minimum,
    )


@router.post("/runs", dependencies=[Admin], status_code=201)
def submit_run(body: RunSubmission, control: Control) -> RunView:
    """Start a run; the same submission again answers with the run it made."""
    record = control.submit(
        body.run_id,
        body.plan.encode(),
        bytes.fromhex(body.requester_public_key),
        bytes.fromhex(body.requester_signature),
    )
    return _view(record, control)


@router.get("/runs", dependencies=[Admin])
def list_runs(control: Control, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> RunList:
    """The newest runs."""
    return RunList(runs=tuple(_view(record, control) for record in control.runs.list_runs(limit)))


@router.get("/runs/{run_id}", dependencies=[Admin])
def get_run(run_id: str, control: Control) -> RunDetail:
    """One run with its exchanges and released figures."""
    record = control.runs.get(run_id)
    return RunDetail(
        **_view(record, control).model_dump(),
        outcome=record.outcome,
        members=tuple(control.runs.members_of(run_id)),
        exchanges=tuple(
            ExchangeView(**dataclasses.asdict(exchange))
            for exchange in control.runs.exchanges_of(run_id)
        ),
        membership=tuple(
            MembershipView(**dataclasses.asdict(one)) for one in control.runs.membership_of(run_id)
        ),
        metrics=control.runs.metrics_of(run_id),
    )


@router.post("/runs/{run_id}/stop", dependencies=[Admin])
def stop_run(run_id: str, body: StopRequest, control: Control) -> RunView:
    """Stop a run."""
    return _view(control.stop(run_id, body.force), control)


@router.post("/runs/{run_id}/resume", dependencies=[Admin])
def resume_run(run_id: str, control: Control) -> RunView:
    """Let a paused run ask its absent parties now."""
    return _view(control.resume(run_id), control)


def _federation(control: ControlPlane) -> Federation:
    return Federation(
        federation=control.identity.federation,
        members=tuple(
            NamedKey(name=party.name, public_key=party.public_key.hex())
            for party in control.members.parties()
        ),
    )


def _view(record: RunRecord, control: ControlPlane) -> RunView:
    names = {known.public_key: known.name for known in control.members.requesters()}
    values = {name: getattr(record, name) for name in RunView.model_fields if name != "requester"}
    return RunView(requester=names.get(record.requester_public, "unknown"), **values)


@contextmanager
def _reconciling(control: ControlPlane) -> Iterator[None]:
    done = threading.Event()

    def loop() -> None:
        while not done.wait(RECONCILE_SECONDS):
            try:
                control.reconcile()
            except FedtagsError as error:
                # The SuperLink may be restarting; the next look decides.
                logger.warning("the active run could not be checked: %s", error)
            except Exception:
                logger.exception("the active run could not be checked")

    thread = threading.Thread(target=loop, name="reconcile", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
