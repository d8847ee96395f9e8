"""A typed client of the control plane. It raises the very errors that the service names, and
answers with the desk's own views."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from coordinator import desk_views as views
from coordinator.api_headers import IDEMPOTENCY_KEY
from coordinator.api_models import Health
from coordinator.following import Happened, happened_of
from coordinator.settings import CoordinatorSettings
from privacy.errors import ConfigError, NotRunningError, ProtocolError
from privacy.hosting.access_values import DEFAULT_TOKEN_DAYS, Person, Token
from privacy.hosting.api_client import ApiClient, BearerAuth
from privacy.hosting.enrolment import Federation, Invite
from privacy.identity import SigningKey, sign_plan

T = TypeVar("T")
DRY_RUN_SECONDS = 600.0
# Somewhat above the service's heartbeat.
SILENT_SECONDS = 45.0
# A control plane that restarts is away for a few seconds; the run goes on meanwhile.
AWAY_SECONDS = 30.0
_RETRY_SECONDS = 0.5


class CoordinatorClient:
    """Calls the control plane at `url` with an API token; trusts `ca_pem` only.

    Requests that change something carry an Idempotency-Key, so one whose answer was lost is
    repeated once and still done once.
    """

    def __init__(
        self,
        url: str,
        ca_pem: str,
        token: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._api = ApiClient(url, ca_pem, BearerAuth(token), transport)

    @classmethod
    def of_home(cls, settings: CoordinatorSettings) -> Self:
        """A client with the admin token and the certificate authority in the home folder."""
        try:
            ca_pem = settings.ca_certificate.read_text(encoding="utf-8")
            token = settings.api_token.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"{error.filename} cannot be read ({error.strerror}); run "
                "`fedtags-coordinator init`, or as the user who did"
            ) from error
        return cls(settings.control_url, ca_pem, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    # The federation ------------------------------------------------------------------------------

    def health(self) -> Health:
        """Raises NotRunningError if the control plane is not up."""
        return self._get(Health, "/health")

    def federation(self) -> views.FederationView:
        """What this coordinator is."""
        return self._get(views.FederationView, "/v1/federation")

    def overview(self) -> views.Overview:
        """How the federation stands."""
        return self._get(views.Overview, "/v1/overview")

    def invite(self, party: str) -> Invite:
        """A new one-time invite."""
        return self._post(Invite, "/v1/invitations", {"party": party})

    def invitations(self) -> list[views.InvitationView]:
        """Invitations that can still be used."""
        return self._get(list[views.InvitationView], "/v1/invitations")

    def members(self) -> Federation:
        """Every member's public key."""
        return self._get(Federation, "/v1/members")

    def parties(self, *, removed: bool = False) -> tuple[views.PartyView, ...]:
        """Every party by name; with `removed`, those that were removed too."""
        found: list[views.PartyView] = []
        query: dict[str, Any] = {"removed": str(removed).lower(), "limit": views.MOST_ON_A_PAGE}
        while True:
            page = self._get(views.PartyPage, "/v1/parties", query)
            found += page.parties
            if page.next is None:
                return tuple(found)
            query["cursor"] = page.next

    def party(self, name: str) -> views.PartyDetail:
        """One party with all that it tells."""
        return self._get(views.PartyDetail, f"/v1/parties/{name}")

    def remove_party(self, name: str) -> views.PartyDetail:
        """No new run with it, and its node connects no more; its history stays."""
        return self._call(views.PartyDetail, "DELETE", f"/v1/parties/{name}")

    # Plans ---------------------------------------------------------------------------------------

    def validate_plan(self, source: bytes) -> views.PlanCheck:
        """Check a plan against the enrolled parties."""
        return self._call(views.PlanCheck, "POST", "/v1/plans/validate", {"plan": _text(source)})

    def dry_run(self, source: bytes) -> views.DryRun:
        """What a run would cost each party. Nothing runs; it may take a minute."""
        body = {"plan": _text(source)}
        return self._call(views.DryRun, "POST", "/v1/plans/dry-run", body, seconds=DRY_RUN_SECONDS)

    def diff_plan(self, source: bytes, run_id: str) -> views.PlanDiff:
        """How a plan differs from a run's."""
        body = {"plan": _text(source), "run": run_id}
        return self._call(views.PlanDiff, "POST", "/v1/plans/diff", body)

    # Runs ----------------------------------------------------------------------------------------

    def submit(self, run_id: str, source: bytes, requester: SigningKey) -> views.RunView:
        """Sign `source` for `run_id` and start the run. Safe to repeat after a lost answer."""
        body = {
            "run_id": run_id,
            "plan": _text(source),
            "requester_public_key": requester.public.hex(),
            "requester_signature": sign_plan(requester, run_id, source).hex(),
        }
        return self._post(views.RunView, "/v1/runs", body)

    def runs(
        self,
        limit: int = views.PAGE_SIZE,
        *,
        state: str | None = None,
        plan: str | None = None,
        party: str | None = None,
        cursor: str | None = None,
    ) -> views.RunPage:
        """A page of runs, newest first."""
        query = {"limit": limit, "state": state, "plan": plan, "party": party, "cursor": cursor}
        return self._get(views.RunPage, "/v1/runs", query)

    def run(self, run_id: str) -> views.RunDetail:
        """One run."""
        return self._get(views.RunDetail, f"/v1/runs/{run_id}")

    def plan_of(self, run_id: str) -> views.RunPlan:
        """The plan that a run follows, as it was signed."""
        return self._get(views.RunPlan, f"/v1/runs/{run_id}/plan")

    def cost_of(self, run_id: str) -> views.DryRun:
        """What a run's plan costs each party. It may take a minute."""
        path = f"/v1/runs/{run_id}/cost"
        return self._call(views.DryRun, "GET", path, seconds=DRY_RUN_SECONDS)

    def stop(self, run_id: str, force: bool = False) -> views.RunView:
        """Stop a run before its next exchange, or with `force` at once."""
        return self._post(views.RunView, f"/v1/runs/{run_id}/stop", {"force": force})

    def resume(self, run_id: str) -> views.RunView:
        """Let a paused run ask its absent parties now."""
        return self._post(views.RunView, f"/v1/runs/{run_id}/resume")

    def compare(self, run_ids: Sequence[str]) -> views.Comparison:
        """Runs side by side."""
        return self._get(views.Comparison, "/v1/compare", {"run": list(run_ids)})

    def follow(self, run_id: str, away_seconds: float = AWAY_SECONDS) -> Iterator[Happened]:
        """What happens in a run, from its beginning to its end, however often the connection
        breaks. Raises NotRunningError once the control plane was away for `away_seconds`."""
        path, position, heard = f"/v1/runs/{run_id}/events", "", time.monotonic()
        while True:
            headers = {"last-event-id": position} if position else {}
            try:
                with self._api.lines(path, headers=headers, seconds=SILENT_SECONDS) as answer:
                    status, lines = answer
                    if status == 204:
                        return
                    heard = time.monotonic()
                    for one in happened_of(lines):
                        position, heard = one.position, time.monotonic()
                        yield one
                        if one.kind == "end":
                            return
            except NotRunningError:
                if time.monotonic() - heard > away_seconds:
                    raise
            time.sleep(_RETRY_SECONDS)

    def models(
        self,
        limit: int = views.PAGE_SIZE,
        *,
        plan: str | None = None,
        cursor: str | None = None,
    ) -> views.ModelPage:
        """A page of model versions, newest first."""
        query = {"limit": limit, "plan": plan, "cursor": cursor}
        return self._get(views.ModelPage, "/v1/models", query)

    # What parties tell, evidence, alerts ---------------------------------------------------------

    def budgets(self) -> list[views.BudgetView]:
        """Budgets as parties tell them."""
        return self._get(list[views.BudgetView], "/v1/budgets")

    def tags(self) -> list[views.TagView]:
        """Joint tags as parties tell them."""
        return self._get(list[views.TagView], "/v1/tags")

    def evidence_packs(self) -> list[views.EvidenceView]:
        """Every evidence pack that was made."""
        return self._get(list[views.EvidenceView], "/v1/evidence")

    def evidence(self, run_id: str) -> views.EvidenceView:
        """Whether there is an evidence pack of a run."""
        return self._get(views.EvidenceView, f"/v1/runs/{run_id}/evidence")

    def take_evidence(self, run_id: str) -> bytes:
        """A run's signed evidence pack."""
        path = f"/v1/runs/{run_id}/evidence/pack"
        return self._api.fetch("GET", path, seconds=DRY_RUN_SECONDS)

    def evidence_keys(self) -> bytes:
        """The public keys that a pack is verified with, as JSON."""
        return self._api.fetch("GET", "/v1/evidence/keys")

    def alerts(self, limit: int = views.PAGE_SIZE, cursor: str | None = None) -> views.AlertPage:
        """A page of alerts, newest first."""
        return self._get(views.AlertPage, "/v1/alerts", {"limit": limit, "cursor": cursor})

    # People --------------------------------------------------------------------------------------

    def people(self) -> list[Person]:
        """Everyone with a role."""
        return self._get(list[Person], "/v1/people")

    def remove_person(self, name: str) -> views.PersonRemoved:
        """Remove a person."""
        return self._call(views.PersonRemoved, "DELETE", f"/v1/people/{name}")

    def tokens(self) -> list[Token]:
        """Every API token, without its secret."""
        return self._get(list[Token], "/v1/tokens")

    def create_token(self, name: str, role: str, days: int = DEFAULT_TOKEN_DAYS) -> views.NewToken:
        """A new API token. Raises AccessDenied: only a person in a session may make one."""
        body = {"name": name, "role": role, "days": days}
        return self._post(views.NewToken, "/v1/tokens", body)

    def revoke_token(self, name: str) -> Token:
        """Make an API token useless."""
        return self._call(Token, "DELETE", f"/v1/tokens/{name}")

    def audit(self, limit: int = views.PAGE_SIZE, cursor: str | None = None) -> views.AuditPage:
        """A page of the audit log, newest first."""
        return self._get(views.AuditPage, "/v1/audit", {"limit": limit, "cursor": cursor})

    def audit_chain(self) -> views.ChainView:
        """Verify every byte of the audit log."""
        return self._get(views.ChainView, "/v1/audit/chain")

    def _get(self, kind: type[T], path: str, query: Mapping[str, Any] | None = None) -> T:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return self._call(kind, "GET", path, query=given or None)

    def _post(self, kind: type[T], path: str, body: object = None) -> T:
        headers = {IDEMPOTENCY_KEY: secrets.token_urlsafe(24)}
        try:
            return self._call(kind, "POST", path, body, headers=headers)
        except NotRunningError:
            # The answer may have been lost on its way; the same key is not done twice.
            return self._call(kind, "POST", path, body, headers=headers)

    def _call(self, kind: type[T], method: str, path: str, body: object = None, **how: Any) -> T:
        try:
            return TypeAdapter(kind).validate_python(self._api.call(method, path, body, **how))
        except ValidationError as error:
            raise ProtocolError(
                "the control plane answered with something unexpected; is it the same version?"
            ) from error


def _text(source: bytes) -> str:
    try:
        return source.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("the plan is not UTF-8 text") from error
