"""The answer to a proposed run: a session and an accepting decision, or a refusal with its code.

A preflight proposes a new run. A regroup that finds no session here proposes to come back to a run
that this service had accepted before it restarted, or to join one that had begun without it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from party_client.admission import PLAN_INVALID, Admission, admit, readmit
from party_client.key_stage import KeyStage
from party_client.node import Node
from party_client.report import RunRecord
from party_client.session import Session, conversation
from privacy.errors import PlanError, PolicyRefusal, ProtocolError
from privacy.framing import Received, body_of
from privacy.messages import Preflight, Regroup

LOG = logging.getLogger(__name__)
FIRST_EPOCH = 1


def begin(
    node: Node, received: Received, end_earlier: Callable[[], None]
) -> tuple[Session | None, bytes]:
    """Answer a preflight or regroup: a session and an accepting Decision, or None and a refusing
    one. `end_earlier` ends an unfinished run; see `admit` for when.

    Raises ProtocolError or SignatureError for anything that is not a well-signed proposal of the
    pinned coordinator and requester for a run that may begin, or go on, here.
    """
    at = received.envelope
    kind = Regroup if at.type == Regroup.kind else Preflight
    request = body_of(received, kind)
    if (at.epoch > FIRST_EPOCH) != (kind is Regroup):
        raise ProtocolError("a preflight begins the first epoch of a run, a regroup a later one")
    if hashlib.sha256(request.plan).digest() != at.plan:
        raise ProtocolError("a proposal's header names another plan than it brings")
    talk = conversation(node, at, request.cohort)
    talk.hear(received, kind, 0, begins=True)
    stage = KeyStage(node, talk, request.cohort)
    try:
        admission = _admission(node, at.run, request, end_earlier)
    except PolicyRefusal as refusal:
        LOG.warning("run %s refused (%s): %s", at.run, refusal.reason, refusal)
        return None, stage.decide(received, 0, refusal.reason)
    except PlanError as error:
        LOG.warning("run %s refused (%s): %s", at.run, PLAN_INVALID, error)
        return None, stage.decide(received, 0, PLAN_INVALID)
    record = RunRecord(epochs=at.epoch, returned=kind is Regroup)
    return Session(node, admission, stage, record), stage.decide(received, 0)


def _admission(
    node: Node, run: str, request: Preflight, end_earlier: Callable[[], None]
) -> Admission:
    if isinstance(request, Regroup) and node.ledger.has_run(run):
        return readmit(node, run, request)
    return admit(node, run, request, end_earlier)
