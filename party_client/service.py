"""The resident party service: data, policy, training, keys and ledger behind one socket.

It treats its socket as a hostile coordinator. `answer` takes any bytes: a message that the pinned
coordinator signed, bound to a plan that a pinned requester signed, in its one place in the run,
gets its reply; the same bytes again get the same reply; all else gets one constant refusal.
Whatever leaves, a refusal too, is in the egress log first; while that cannot be written, nothing
leaves.

A run that a restart interrupted stays open in the ledger until its reservation expires, so that the
party can come back to it; a fresh preflight, for another run, ends it.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from party_client import logs
from party_client.disclosure import Teller
from party_client.egress import EgressLog
from party_client.node import Node, open_node
from party_client.proposals import begin
from party_client.session import Session
from party_client.settings import load_settings
from party_client.socket_server import peer_of, serve
from privacy.accounting import epsilon
from privacy.errors import FedtagsError, LedgerError, ProtocolError
from privacy.framing import Received, read
from privacy.ledger import Ledger
from privacy.mechanism import mechanism_from_data
from privacy.messages import REFUSAL, Abort, Acknowledged, Preflight, Regroup
from privacy.randomness import Entropy, system_entropy

LOG = logging.getLogger(__name__)
# What `answer` gives where nothing may leave.
SILENCE = b""


@dataclass(frozen=True)
class _Reply:
    """The reply to the frame of this SHA-256. `epsilon`: what the ledger charged for it."""

    asked: bytes
    frame: bytes
    epsilon: float
    left: bool = False


class PartyService:
    """Answers frames, one at a time; at most one run is active."""

    def __init__(self, home: Path, entropy: Entropy = system_entropy) -> None:
        self.node: Node = open_node(home, entropy)
        self._egress = EgressLog(load_settings(home).egress)
        self._session: Session | None = None
        self._last: _Reply | None = None
        self._lock = threading.Lock()
        settle(self.node.ledger, lost_only=True)

    def answer(self, frame: bytes) -> bytes:
        """The reply to `frame`, in the egress log by now; SILENCE if it could not be logged. Never
        raises, whatever the bytes."""
        with self._lock:
            digest = hashlib.sha256(frame).digest()
            reply = self._last
            if reply is None or reply.asked != digest:
                reply = self._fresh(digest, frame)
            try:
                self._egress.record_frame(
                    reply.frame, self.node.key.public, epsilon=reply.epsilon, resent=reply.left
                )
            except FedtagsError as error:
                LOG.error("nothing leaves, not even a refusal: %s", str(error))
                return SILENCE
            except Exception:
                LOG.exception("nothing leaves, by an error of this software")
                return SILENCE
            if reply is self._last:
                self._last = replace(reply, left=True)
            return reply.frame

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._session is not None

    def close(self) -> None:
        """Erase an active run's keys and give up what is open. The ledger is left as it stands, so
        that the party can come back to the run."""
        with self._lock:
            self._drop()
            self.node.source.close()
            self.node.store.close()

    def _fresh(self, digest: bytes, frame: bytes) -> _Reply:
        """The reply to a frame that is not the last one again."""
        refusal = _Reply(digest, REFUSAL, 0.0)
        before = self._progress()
        try:
            known = len(self.node.ledger.entries())
            answered = self._answer(frame)
            reply = _Reply(digest, answered, self._charged_since(known))
        except ProtocolError as error:
            # A forged or misplaced message changes nothing and must not end a run; one that was
            # accepted into the run and then failed a check does.
            LOG.warning("refused a message: %s", str(error))
            if self._progress() != before:
                self._end()
            return refusal
        except FedtagsError as error:
            # Its text only: a kept record must not keep the run's keys and rows alive with it.
            LOG.error("the run ended here (%s): %s", type(error).__name__, str(error))
            self._end()
            return refusal
        except Exception:
            LOG.exception("the run ended here by an error of this software")
            self._end()
            return refusal
        self._last = reply
        return reply

    def _charged_since(self, known: int) -> float:
        """Epsilon, at the ledger's delta, of the intents after its first `known` entries."""
        ledger = self.node.ledger
        fresh = [one.body["mechanism"] for one in ledger.entries()[known:] if one.kind == "intent"]
        if not fresh:
            return 0.0
        return epsilon([mechanism_from_data(one) for one in fresh], ledger.state().cap_delta)

    def _answer(self, frame: bytes) -> bytes:
        session = self._session
        possible = () if session is None else session.expected
        public = self.node.coordinator_public
        received = read(frame, public, Preflight, Regroup, Abort, *possible)
        envelope = received.envelope
        if envelope.type == Regroup.kind and session is not None and envelope.run == session.run:
            return session.regroup(received)
        if envelope.type in (Preflight.kind, Regroup.kind):
            return self._begin(received)
        if session is None:
            raise ProtocolError("no run is active here")
        if envelope.type == Abort.kind:
            reason = session.talk.hear_abort(received)
            LOG.warning("the coordinator ended run %s: %s", session.run, reason)
            reply = session.talk.say(Acknowledged(), 0, begins=False)
            self._end()
            return reply
        reply = session.answer(received)
        if session.ended:
            LOG.info("run %s finished", session.run)
            self._drop()
        return reply

    def _begin(self, received: Received) -> bytes:
        """A preflight, or a regroup of a run without a session. One of a fresh run ends an earlier,
        unfinished one: the coordinator runs one at a time, and could have aborted it."""
        session, reply = begin(self.node, received, self._end)
        if session is not None:
            self._drop()
            self._session = session
            LOG.info("run %s accepted", session.run)
        return reply

    def _progress(self) -> tuple[str, int, int] | None:
        session = self._session
        if session is None:
            return None
        return session.run, session.talk.epoch, session.talk.sequence

    def _drop(self) -> None:
        """Forget the active run, and erase its keys."""
        if self._session is not None:
            self._session.erase()
        self._session = None

    def _end(self) -> None:
        """Drop the active run and its keys, and settle what the ledger still holds open.

        A ledger that cannot be written (a full disk, damage) leaves that for the next start. Until
        then every run counts as spent and none is accepted, because none can be reserved.
        """
        self._drop()
        try:
            settle(self.node.ledger)
        except LedgerError as error:
            LOG.error("the ledger could not be settled: %s", str(error))


def settle(ledger: Ledger, *, lost_only: bool = False) -> None:
    """End every open run: refund what never touched data, close the rest as failed.

    `lost_only`: leave alone what may still go on, as after a restart: neither expired nor in doubt.
    """
    state = ledger.state()
    for name, run in state.runs.items():
        if run.state == "reserved":
            if lost_only and run.open(state.now) and not run.doubtful:
                continue
            if run.touched:
                ledger.close(name, outcome="failed")
            else:
                ledger.refund(name)


def main(arguments: list[str] | None = None) -> int:
    """`python -m party_client.service --home DIR`: serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="party_client.service")
    parser.add_argument("--home", type=Path, required=True)
    home: Path = parser.parse_args(arguments).home
    os.umask(0o077)  # whatever this process or a library writes is this user's alone
    logs.set_up("text")
    try:
        settings = load_settings(home)
        logs.set_up(settings.log.format)
        peer = peer_of(settings.isolation.node_user)
        service = PartyService(home)
        with Teller(settings, lambda: service.busy).telling():
            serve(service.answer, settings.socket, service.close, peer)
    except FedtagsError as error:
        LOG.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
