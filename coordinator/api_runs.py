"""The routes about plans, runs and models."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from coordinator.api_access import REPEATABLE, TheDesk, Who, guarded
from coordinator.api_models import (
    Cursor,
    Limit,
    PlanDiffRequest,
    PlanName,
    PlanRequest,
    RunId,
    RunState,
    RunSubmission,
    StopRequest,
)
from coordinator.desk_views import (
    MOST_COMPARED,
    PAGE_SIZE,
    Comparison,
    DryRun,
    EvidenceView,
    ModelPage,
    PlanCheck,
    PlanDiff,
    RunDetail,
    RunPage,
    RunPlan,
    RunView,
)
from privacy.hosting.enrolment import PartyName

PACK_TYPE = "application/zip"

router = guarded("runs")
Run = Annotated[RunId, Path()]


@router.post("/plans/validate", tags=["plans"])
def validate_plan(body: PlanRequest, who: Who, desk: TheDesk) -> PlanCheck:
    """Check a plan, and that enough of the parties it names are enrolled."""
    return desk.check_plan(who, body.plan.encode())


@router.post("/plans/dry-run", tags=["plans"])
def dry_run(body: PlanRequest, who: Who, desk: TheDesk) -> DryRun:
    """What a run would cost each party, and which could take part. Nothing runs. A plan that was
    not judged before takes a second or two for each public size."""
    return desk.dry_run(who, body.plan.encode())


@router.post("/plans/diff", tags=["plans"])
def diff_plan(body: PlanDiffRequest, who: Who, desk: TheDesk) -> PlanDiff:
    """How a plan differs from a run's."""
    return desk.diff_plan(who, body.plan.encode(), body.run)


@router.post("/runs", status_code=201, dependencies=REPEATABLE)
def submit_run(body: RunSubmission, who: Who, desk: TheDesk) -> RunView:
    """Start a run; the same submission again answers with the run it made."""
    return desk.submit(
        who,
        body.run_id,
        body.plan.encode(),
        bytes.fromhex(body.requester_public_key),
        bytes.fromhex(body.requester_signature),
    )


@router.get("/runs")
def list_runs(
    who: Who,
    desk: TheDesk,
    state: RunState | None = None,
    plan: PlanName | None = None,
    party: PartyName | None = None,
    cursor: Cursor | None = None,
    limit: Limit = PAGE_SIZE,
) -> RunPage:
    """Runs, newest first."""
    return desk.runs(who, state=state, plan=plan, party=party, cursor=cursor, limit=limit)


@router.get("/compare")
def compare_runs(
    who: Who,
    desk: TheDesk,
    run: Annotated[list[RunId], Query(min_length=2, max_length=MOST_COMPARED)],
) -> Comparison:
    """Runs side by side, in the order given."""
    return desk.compare(who, run)


@router.get("/runs/{run_id}")
def get_run(run_id: Run, who: Who, desk: TheDesk) -> RunDetail:
    """One run with its rounds, parties and released figures."""
    return desk.run(who, run_id)


@router.get("/runs/{run_id}/plan")
def plan_of(run_id: Run, who: Who, desk: TheDesk) -> RunPlan:
    """The plan that a run follows, as it was signed."""
    return desk.plan_of(who, run_id)


@router.get("/runs/{run_id}/cost")
def cost_of(run_id: Run, who: Who, desk: TheDesk) -> DryRun:
    """What the run's plan costs each party, at the sizes that they tell now."""
    return desk.cost_of(who, run_id)


@router.post("/runs/{run_id}/stop", dependencies=REPEATABLE)
def stop_run(run_id: Run, body: StopRequest, who: Who, desk: TheDesk) -> RunView:
    """Stop a run."""
    return desk.stop(who, run_id, body.force)


@router.post("/runs/{run_id}/resume", dependencies=REPEATABLE)
def resume_run(run_id: Run, who: Who, desk: TheDesk) -> RunView:
    """Let a paused run ask its absent parties now."""
    return desk.resume(who, run_id)


@router.get("/models", tags=["models"])
def models(
    who: Who,
    desk: TheDesk,
    plan: PlanName | None = None,
    cursor: Cursor | None = None,
    limit: Limit = PAGE_SIZE,
) -> ModelPage:
    """What finished runs made, newest first: versions, digests, lineage."""
    return desk.models(who, plan=plan, cursor=cursor, limit=limit)


@router.get("/evidence", tags=["evidence"])
def evidence_packs(who: Who, desk: TheDesk) -> list[EvidenceView]:
    """Every evidence pack that was made, newest first."""
    return desk.evidence_packs(who)


@router.get(
    "/evidence/keys",
    tags=["evidence"],
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}},
)
def evidence_keys(who: Who, desk: TheDesk) -> Response:
    """The public keys that a pack is verified with."""
    return Response(desk.evidence_keys(who), media_type="application/json")


@router.get("/runs/{run_id}/evidence", tags=["evidence"])
def evidence(run_id: Run, who: Who, desk: TheDesk) -> EvidenceView:
    """Whether there is an evidence pack of a run."""
    return desk.evidence(who, run_id)


@router.get(
    "/runs/{run_id}/evidence/pack",
    tags=["evidence"],
    response_class=Response,
    responses={200: {"content": {PACK_TYPE: {}}}},
)
def take_evidence(run_id: Run, who: Who, desk: TheDesk) -> Response:
    """A run's signed evidence pack; it is made if it was not yet, which takes some seconds."""
    name, content = desk.take_evidence(who, run_id)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=PACK_TYPE, headers=headers)
