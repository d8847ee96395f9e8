"""Launch: a form that writes a plan, what it would cost each party, then a signed run of it.

A plan is signed by a requester's key. Where that key lies in the coordinator's folder, as after
`init`, the page signs for those who may start runs, and the audit log says who it was. Where it
was moved to a data scientist's own machine, the page gives the file and the command for there.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.responses import PlainTextResponse, Response

from coordinator.dashboard import plan_form
from coordinator.dashboard.site import Visit
from coordinator.desk_views import DryRun
from coordinator.roles import Permission
from models.plan import MAX_PLAN_BYTES, parse_plan
from privacy.errors import CohortError, PlanError, RateLimited, RunActiveError
from privacy.hosting.pages.forms import Fields
from privacy.hosting.pages.site import go, require
from privacy.identity import SigningKey, sign_plan

SECTION = "/launch"


@dataclass(frozen=True)
class Launch:
    """The pages of Launch. `requester_key`: where the requester's key lies, if it is here."""

    requester_key: Path

    def page(self, visit: Visit) -> Response:
        """The form, empty or filled in from an earlier run's plan."""
        require(visit, Permission.START_RUN)
        form, wrong = plan_form.empty_form(datetime.now(UTC).date()), None
        if run := visit.request.query_params.get("like", "")[:80]:
            source = visit.desk.plan_of(visit.who, run).text
            try:
                form = plan_form.form_of(source)
            except PlanError:
                return self._checked(visit, source)
        return self._form(visit, form, wrong)

    def write(self, visit: Visit) -> Response:
        """From the form to the plan's text, with what it would cost."""
        require(visit, Permission.START_RUN)
        fields = Fields(visit.form)
        source = plan_form.written(fields)
        if fields.wrong:
            return self._form(visit, dict(visit.form), fields.wrong)
        return self._checked(visit, source)

    def check(self, visit: Visit) -> Response:
        """Another look at a text that somebody edited."""
        require(visit, Permission.START_RUN)
        return self._checked(visit, _text(visit))

    def save(self, visit: Visit) -> Response:
        """The text as a file, to be signed elsewhere."""
        require(visit, Permission.START_RUN)
        name = parse_plan(_text(visit).encode()).name
        headers = {"content-disposition": f'attachment; filename="{name}.toml"'}
        return PlainTextResponse(_text(visit), headers=headers, media_type="application/toml")

    def submit(self, visit: Visit) -> Response:
        """Sign the text as it stands and start the run. The same form again finds its run."""
        require(visit, Permission.START_RUN)
        source = _text(visit)
        run_id = visit.form.get("run", "")
        try:
            plan = parse_plan(source.encode())
            if not run_id.startswith(f"{plan.name[:32]}-"):
                return self._checked(visit, source)
            key = SigningKey.load(self.requester_key)
            signature = sign_plan(key, run_id, source.encode())
            visit.desk.submit(visit.who, run_id, source.encode(), key.public, signature)
        except (PlanError, CohortError, RunActiveError) as error:
            return self._checked(visit, source, str(error))
        return go(f"/runs/{run_id}?done=started")

    def _form(
        self, visit: Visit, form: dict[str, str], wrong: dict[str, str] | None = None
    ) -> Response:
        empty = plan_form.empty_form(datetime.now(UTC).date())
        names = [one.name for one in visit.desk.parties(visit.who, limit=100).parties]
        return visit.show(
            "launch.html",
            section=SECTION,
            form={**empty, **{name: form[name] for name in empty if name in form}},
            numbers=plan_form.NUMBERS,
            tasks=plan_form.TASKS,
            families=plan_form.FAMILIES,
            parties=names,
            wrong=wrong,
        )

    def _checked(self, visit: Visit, source: str, fault: str = "") -> Response:
        cost: DryRun | None = None
        name = ""
        if not fault:
            try:
                name = parse_plan(source.encode()).name
                cost = visit.desk.dry_run(visit.who, source.encode())
            except (PlanError, CohortError, RateLimited) as error:
                fault = str(error)
        return visit.show(
            "launch_check.html",
            section=SECTION,
            source=source,
            cost=cost,
            signs_here=self.requester_key.is_file(),
            run=f"{name[:32]}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
            wrong={"plan": fault} if fault else None,
        )


def _text(visit: Visit) -> str:
    """The plan's text as the form brings it: browsers send every line's end as CR LF."""
    text = visit.form.get("plan", "").replace("\r\n", "\n")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PLAN_BYTES:
        raise PlanError("a plan is at most 64 KiB")
    return text
