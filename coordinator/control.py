"""The control plane's decisions, without HTTP: who may join, which run may start, when one is dead.

It signs nothing and holds no key: plans are signed by requesters, messages by the ServerApp.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from coordinator.member_store import MemberStore, Party
from coordinator.run_store import RunRecord, RunStore
from models.plan import Plan, parse_plan
from privacy.errors import CohortError, FedtagsError, RunError, RunStopped, SignatureError
from privacy.hosting.enrolment import EnrolmentRequest, Invite, NamedKey
from privacy.identity import fingerprint, verify_plan

logger = logging.getLogger(__name__)


class Executor(Protocol):
    """What executes runs: Flower's SuperLink, behind `coordinator/superlink.py`."""

    def register_node(self, public_key: str, name: str) -> None:
        """Let the SuperNode with this public key connect; registering it again is no error."""
        ...

    def start_run(self, run_id: str) -> str:
        """Start executing a stored run; returns the Flower run's id."""
        ...

    def stop_run(self, flower_run_id: str) -> None:
        """End a Flower run at once."""
        ...

    def has_ended(self, flower_run_id: str) -> bool:
        """True once the Flower run has ended, however it did."""
        ...


@dataclass(frozen=True)
class Identity:
    """The public facts that an invite tells a partner about this coordinator."""

    federation: str
    control_url: str
    superlink: str
    ca_certificate: str
    public_key: bytes


class ControlPlane:
    """One federation's control plane over its stores and its executor."""

    def __init__(
        self,
        identity: Identity,
        members: MemberStore,
        runs: RunStore,
        executor: Executor,
        invitation_valid: timedelta,
    ) -> None:
        self.identity = identity
        self.members = members
        self.runs = runs
        self._executor = executor
        self._invitation_valid = invitation_valid

    def invite(self, party: str) -> Invite:
        """A new invite file's content for `party`, with its one-time token."""
        invitation = self.members.invite(party, self._invitation_valid)
        return Invite(
            federation=self.identity.federation,
            party=party,
            control_url=self.identity.control_url,
            superlink=self.identity.superlink,
            ca_certificate=self.identity.ca_certificate,
            token=invitation.token,
            coordinator_public_key=self.identity.public_key.hex(),
            coordinator_fingerprint=fingerprint(self.identity.public_key),
            requesters=tuple(
                NamedKey(name=requester.name, public_key=requester.public_key.hex())
                for requester in self.members.requesters()
            ),
            expires_at=invitation.expires_at,
        )

    def enrol(self, request: EnrolmentRequest) -> Party:
        """Enrol a party whose request's signature was verified; registers its SuperNode."""
        # Without its comment, so that one key is one text.
        node_key = " ".join(request.supernode_public_key.split()[:2])
        return self.members.enrol(
            request.token,
            request.party,
            bytes.fromhex(request.public_key),
            node_key,
            lambda: self._executor.register_node(node_key, request.party),
        )

    def cohort(self, plan: Plan) -> Sequence[str]:
        """The enrolled parties that `plan` can draw on.

        Raises CohortError when it names a party that is not enrolled or there are too few.
        """
        enrolled = [party.name for party in self.members.parties()]
        missing = [name for name in plan.cohort.parties if name not in enrolled]
        if missing:
            raise CohortError(
                f"cohort.parties: not enrolled in this federation: {', '.join(missing)}; invite "
                "them, or correct the plan"
            )
        cohort = [
            name for name in enrolled if not plan.cohort.parties or name in plan.cohort.parties
        ]
        if len(cohort) < plan.cohort.minimum:
            raise CohortError(
                f"the plan needs at least {plan.cohort.minimum} parties (cohort.minimum); "
                f"{len(cohort)} can take part: invite more with `fedtags-coordinator party invite`"
            )
        return cohort

    def submit(
        self, run_id: str, plan_source: bytes, requester: bytes, signature: bytes
    ) -> RunRecord:
        """Store and start a run of a plan that a known requester signed for this run id."""
        self.cohort(parse_plan(plan_source))
        if requester not in {known.public_key for known in self.members.requesters()}:
            raise SignatureError("the plan is signed by a key that is no requester's here")
        verify_plan(requester, signature, run_id, plan_source)
        self.reconcile()
        record = self.runs.create_run(run_id, plan_source, requester, signature)
        if record.flower_run_id is not None or not record.active:
            return record
        try:
            flower_run_id = self._executor.start_run(run_id)
        except FedtagsError as error:
            self.runs.fail(run_id, error)
            raise
        except BaseException:
            self.runs.fail(run_id, RunError("the run could not be handed to Flower; see the log"))
            raise
        self.runs.attach_flower_run(run_id, flower_run_id)
        return self.runs.get(run_id)

    def stop(self, run_id: str, force: bool) -> RunRecord:
        """Ask a run to stop before its next exchange; with `force` end it at once.

        A forced stop frees the federation for the next run even if the SuperLink, told
        afterwards, refuses: a ServerApp that is still there finds its run ended.
        """
        record = self.runs.request_stop(run_id)
        if force:
            self.runs.fail(run_id, RunStopped(f"run {run_id} was stopped by an operator"))
            if record.flower_run_id is not None:
                self._executor.stop_run(record.flower_run_id)
        return self.runs.get(run_id)

    def resume(self, run_id: str) -> RunRecord:
        """Ask a paused run to try its absent parties at once. Raises RunError if it is not."""
        return self.runs.request_resume(run_id)

    def reconcile(self) -> None:
        """Mark the active run as ended if what executed it has died without saying so.

        The ServerApp writes a run's end before it ends itself, so a run that is still active
        after its Flower run was seen to have ended was cut short.
        """
        record = self.runs.active_run()
        if record is None or record.flower_run_id is None:
            return
        if not self._executor.has_ended(record.flower_run_id):
            return
        error = (
            RunStopped(f"run {record.run_id} was stopped by an operator")
            if record.stop_requested
            else RunError(
                f"run {record.run_id} was cut short: its ServerApp ended without a result. Rounds "
                "that had begun stay spent at the parties; see logs/serverapp.log, then submit "
                "the plan again"
            )
        )
        if self.runs.fail(record.run_id, error):
            logger.warning("run %s: marked as ended, its ServerApp is gone", record.run_id)

    def recover(self) -> None:
        """At start: end a run that an earlier control plane stored but never handed to Flower."""
        record = self.runs.active_run()
        if record is not None and record.flower_run_id is None and record.state == "created":
            self.runs.fail(
                record.run_id,
                RunError(
                    f"run {record.run_id} never started: the control plane was stopped while it "
                    "was submitted; submit the plan again"
                ),
            )
        self.reconcile()
