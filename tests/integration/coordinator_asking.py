"""Asking a coordinator's real application over ASGI, as people and programs of every role."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from privacy import disclosure as told
from privacy.errors import FedtagsError
from privacy.hosting.signed_requests import SignedRequestAuth
from privacy.identity import SigningKey, sign_plan
from tests.integration.control_plane_server import (
    PLAN,
    Coordinator,
    make_coordinator,
    open_coordinator,
)

ORIGIN = "https://127.0.0.1"
PASSWORD = "a long enough password"
ROLES = ("admin", "data-scientist", "reviewer", "party-operator:bank", "party-operator:shop")


@dataclass
class Asked:
    """A coordinator and what its people ask of it."""

    coordinator: Coordinator
    keys: dict[str, SigningKey] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, role: str) -> str:
        """An API token of this role."""
        if role not in self.tokens:
            name = f"t-{role.replace(':', '-')}"
            made = self.coordinator.service.desk.access.create_token(name, role, created_by="test")
            self.tokens[role] = made[1]
        return self.tokens[role]

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        role: str | None = "admin",
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        auth: httpx.Auth | None = None,
    ) -> httpx.Response:
        """One request with a token of `role`; None: without."""
        sent = dict(headers or {})
        if role is not None:
            sent["authorization"] = f"Bearer {self.token(role)}"

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.coordinator.service.app)
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
                return await client.request(
                    method, path, json=body, content=content, headers=sent, auth=auth
                )

        return asyncio.run(ask())

    def get(self, path: str, role: str = "admin") -> Any:
        """The JSON of an answer that must be 200."""
        answer = self.call("GET", path, role=role)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def enrol(self, *names: str) -> None:
        """Enrol parties, each with a key of its own."""
        for name in names:
            key = self.keys.setdefault(name, SigningKey.generate())
            body = {
                "token": self.coordinator.control.invite(name).token,
                "party": name,
                "public_key": key.public.hex(),
                "supernode_public_key": f"ecdsa-sha2-nistp384 {name:a<40}",
            }
            auth = SignedRequestAuth(name, key)
            answer = self.call("POST", "/v1/enrolments", body, role=None, auth=auth)
            assert answer.status_code == 200, answer.text

    def disclose(self, party: str, *, public_size: int, used: float) -> None:
        """An enrolled party tells its size and a budget of epsilon 8 at delta 1e-6."""
        sent = told.Disclosure(
            format=1,
            federation=self.coordinator.settings.federation,
            party=party,
            sequence=time.time_ns() // 10**6,
            status=told.StatusTold(
                version="0.1.0",
                bundle="b" * 64,
                public_size=public_size,
                ledger_position=3,
                ledger_hash="c" * 64,
            ),
            budget=told.BudgetTold(
                epsilon=8.0, delta=1e-6, spent=8 * used, used=used, last_run=None, runs_left=5
            ),
            limits=None,
            approvals=told.ApprovalsTold(waiting=("d" * 64,), approved=()),
            tags=(told.TagTold(name="churn_risk", state="listed"),),
            models=None,
            egress=None,
        )
        auth = SignedRequestAuth(party, self.keys[party])
        answer = self.call(
            "POST", told.PATH, content=sent.model_dump_json().encode(), role=None, auth=auth
        )
        assert answer.status_code == 200, answer.text

    def submission(self, run_id: str, plan: bytes = PLAN) -> dict[str, str]:
        """The body that starts a run."""
        key = SigningKey.load(self.coordinator.settings.requester_key)
        return {
            "run_id": run_id,
            "plan": plan.decode(),
            "requester_public_key": key.public.hex(),
            "requester_signature": sign_plan(key, run_id, plan).hex(),
        }

    def finished(self, run_id: str, plan: bytes = PLAN, auc: float = 0.75) -> None:
        """A run that ended well, with two exchanges and its figures."""
        answer = self.call("POST", "/v1/runs", self.submission(run_id, plan))
        assert answer.status_code == 201, answer.text
        runs = self.coordinator.control.runs
        members = sorted(runs.members_of(run_id))
        recorder = runs.recorder(run_id)
        recorder.phase("preflight", None, 6)
        recorder.exchange(
            "preflight", None, 0.5, dict.fromkeys(members, 100), dict.fromkeys(members, 200)
        )
        recorder.phase("round", 1, 6)
        recorder.exchange("round", 1, 1.5, dict.fromkeys(members, 1000), dict.fromkeys(members, 50))
        recorder.metric("auc", auc)
        recorder.metric("auc_standard_error", 0.01)
        runs.finish(
            run_id,
            {
                "parties": members,
                "refused": {"gone": "budget"},
                "evaluation": [1, 2],
                "auc": auc,
                "ledger_heads": dict.fromkeys(members, b"head"),
            },
        )


def problem(answer: httpx.Response, status: int, error: type[FedtagsError]) -> str:
    """The detail of a failure, which must be this one."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["error"]) == (status, status, error.__name__)
    assert body["exit_code"] == error.exit_code
    return str(body["detail"])


def make_template(home: Path) -> Path:
    """A coordinator's home, to be copied: init's keys are made once."""
    make_coordinator(home).service.close()
    return home


@contextmanager
def asked(template: Path, home: Path) -> Iterator[Asked]:
    """A copy of the template, opened until the block ends."""
    shutil.copytree(template, home)
    opened = open_coordinator(home)
    try:
        yield Asked(opened)
    finally:
        opened.service.close()
