"""The control plane's decisions, without HTTP: who may join, which run may start, when one is dead.

It signs nothing and holds no key: plans are signed by requesters, messages by the ServerApp.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from coordinator import recovery
from coordinator.member_store import MemberStore, Party
from coordinator.run_store import RunRecord, RunStore
from models.plan import Plan, parse_plan
from privacy.errors import (
    CohortError,
    FedtagsError,
    NotRunningError,
    RunActiveError,
    RunError,
    RunStopped,
    SignatureError,
)
from privacy.hosting.database import utc_now
from privacy.hosting.enrolment import EnrolmentRequest, Invite, NamedKey
from privacy.identity import fingerprint, verify_plan

logger = logging.getLogger(__name__)

# A run is handed to Flower within seconds of being stored; its ServerApp waits a minute for that.
HAND_OVER = timedelta(minutes=2)


class ConnectedNode(Protocol):
    """A SuperNode as the SuperLink knows it. `last_seen`: when it was last known to be there."""

    @property
    def public_key(self) -> str: ...

    @property
    def online(self) -> bool: ...

    @property
    def last_seen(self) -> datetime | None: ...


class Executor(Protocol):
    """What executes runs: Flower's SuperLink, behind `coordinator/superlink.py`."""

    def register_node(self, public_key: str, name: str) -> None:
        """Let the SuperNode with this public key connect; registering it again is no error."""
        ...

    def unregister_node(self, public_key: str) -> None:
        """Let the SuperNode with this public key connect no more; an unknown one is no error."""
        ...

    def nodes(self) -> Sequence[ConnectedNode]:
        """Every registered SuperNode."""
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
    """One federation's control plane over its stores and its executor. Threads may share it.

    `most_restarts`: how often in a row a run is taken up again without getting any further.
    """

    def __init__(
        self,
        identity: Identity,
        members: MemberStore,
        runs: RunStore,
        executor: Executor,
        invitation_valid: timedelta,
        most_restarts: int = 5,
    ) -> None:
        self.identity = identity
        self.members = members
        self.runs = runs
        self._executor = executor
        self._invitation_valid = invitation_valid
        self._most_restarts = most_restarts
        # A run that is being started is not taken up meanwhile.
        self._lock = threading.RLock()

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

    def remove_party(self, name: str) -> Party:
        """No new run with this party, and its SuperNode connects no more; what it did stays.

        Raises NotFound if it is not enrolled, RunActiveError while it is in the active run.
        """
        active = self.runs.active_run()
        if active is not None and name in self.runs.members_of(active.run_id):
            raise RunActiveError(
                f"run {active.run_id} is active and {name} is one of its members; wait for its "
                "end, or stop it first"
            )
        return self.members.remove(
            name, lambda party: self._executor.unregister_node(party.supernode_public_key)
        )

    def nodes(self) -> Sequence[ConnectedNode]:
        """Every registered SuperNode. Raises NotRunningError if the SuperLink does not answer."""
        return self._executor.nodes()

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
        with self._lock:
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
                failed = RunError("the run could not be handed to Flower; see the log")
                self.runs.fail(run_id, failed)
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
        """Have the active run taken up again if what executed it has died without saying so.

        The ServerApp writes a run's end before it ends itself, so a run that is still active after
        its process was seen to have ended was cut short. One that an operator wishes to stop is
        taken up, too, so that the parties are told, unless none was asked yet. It is over once it
        was taken up in vain as often in a row as the settings say. Raises NotRunningError while
        the SuperLink does not answer: the run waits for it.
        """
        with self._lock:
            record = self.runs.active_run()
            if record is None:
                return
            if record.flower_run_id is None:
                if record.state == "created" and utc_now() - record.created_at > HAND_OVER:
                    self._never_started(record)
                return
            gone = recovery.is_gone(record.process)
            ended = self._executor.has_ended(record.flower_run_id)
            if not gone and not ended:
                return
            hopeless = not record.attempt or record.stalled >= self._most_restarts
            nobody_asked = record.stop_requested and record.started_at is None
            if hopeless or nobody_asked:
                if self.runs.fail(record.run_id, recovery.final_error(record)):
                    logger.warning("run %s: marked as ended, its ServerApp is gone", record.run_id)
                return
            self.runs.interrupted(record.run_id, record.attempt, None)
            if record.stop_requested or recovery.due(record, utc_now()):
                self._take_up(record, None if ended else record.flower_run_id)

    def _take_up(self, record: RunRecord, left_over: str | None) -> None:
        """Start another attempt; `left_over`: the Flower run of a process that is gone, which
        Flower has not noticed yet."""
        run_id = record.run_id
        try:
            flower_run_id = self._executor.start_run(run_id)
        except NotRunningError:
            raise
        except FedtagsError as error:
            logger.warning("run %s: it could not be taken up: %s", run_id, error)
            if self.runs.begin_attempt(run_id, record.attempt, None):
                self.runs.interrupted(run_id, record.attempt + 1, str(error))
            return
        if not self.runs.begin_attempt(run_id, record.attempt, flower_run_id):
            left_over = flower_run_id
        else:
            logger.warning("run %s: taken up again, attempt %d", run_id, record.attempt + 1)
        if left_over is not None:
            with contextlib.suppress(FedtagsError):
                self._executor.stop_run(left_over)

    def recover(self) -> None:
        """At start: end a run that an earlier control plane stored but never handed to Flower."""
        record = self.runs.active_run()
        if record is not None and record.flower_run_id is None and record.state == "created":
            self._never_started(record)
        self.reconcile()

    def _never_started(self, record: RunRecord) -> None:
        self.runs.fail(
            record.run_id,
            RunError(
                f"run {record.run_id} never started: the control plane was stopped, or could not "
                "write, while it was submitted; submit the plan again"
            ),
        )
