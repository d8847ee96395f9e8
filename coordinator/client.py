"""A typed client of the control plane. It raises the very errors that the service names."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from coordinator.api_models import (
    Health,
    PartyList,
    PartyView,
    PlanCheck,
    RunDetail,
    RunList,
    RunView,
)
from coordinator.settings import CoordinatorSettings
from privacy.errors import ConfigError, ProtocolError
from privacy.hosting.api_client import ApiClient, BearerAuth
from privacy.hosting.enrolment import Federation, Invite
from privacy.identity import SigningKey, sign_plan

T = TypeVar("T", bound=BaseModel)


class CoordinatorClient:
    """Calls the control plane at `url` with an API token; trusts `ca_pem` only."""

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

    def health(self) -> Health:
        """Raises NotRunningError if the control plane is not up."""
        return self._call(Health, "GET", "/v1/health")

    def invite(self, party: str) -> Invite:
        """A new one-time invite."""
        return self._call(Invite, "POST", "/v1/invitations", {"party": party})

    def members(self) -> Federation:
        """Every member's public key."""
        return self._call(Federation, "GET", "/v1/members")

    def parties(self) -> tuple[PartyView, ...]:
        """Every enrolled party."""
        return self._call(PartyList, "GET", "/v1/parties").parties

    def validate_plan(self, source: bytes) -> PlanCheck:
        """Check a plan against the enrolled parties."""
        return self._call(PlanCheck, "POST", "/v1/plans/validate", {"plan": source.decode()})

    def submit(self, run_id: str, source: bytes, requester: SigningKey) -> RunView:
        """Sign `source` for `run_id` and start the run. Safe to repeat after a lost answer."""
        body = {
            "run_id": run_id,
            "plan": source.decode(),
            "requester_public_key": requester.public.hex(),
            "requester_signature": sign_plan(requester, run_id, source).hex(),
        }
        return self._call(RunView, "POST", "/v1/runs", body)

    def runs(self, limit: int = 50) -> tuple[RunView, ...]:
        """The newest runs, newest first."""
        return self._call(RunList, "GET", f"/v1/runs?limit={limit}").runs

    def run(self, run_id: str) -> RunDetail:
        """One run."""
        return self._call(RunDetail, "GET", f"/v1/runs/{run_id}")

    def stop(self, run_id: str, force: bool = False) -> RunView:
        """Stop a run before its next exchange, or with `force` at once."""
        return self._call(RunView, "POST", f"/v1/runs/{run_id}/stop", {"force": force})

    def resume(self, run_id: str) -> RunView:
        """Let a paused run ask its absent parties now."""
        return self._call(RunView, "POST", f"/v1/runs/{run_id}/resume")

    def _call(self, kind: type[T], method: str, path: str, body: object = None) -> T:
        try:
            return kind.model_validate(self._api.call(method, path, body))
        except ValidationError as error:
            raise ProtocolError(
                "the control plane answered with something unexpected; is it the same version?"
            ) from error
