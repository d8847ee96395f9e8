"""The keys of one epoch at this party: from its decision to keys that all members have confirmed.

decision -> seal keys -> confirm keys -> confirmations checked. Every member's signed word is
checked here, end to end: the coordinator relays and is no root of trust. A member whose model lacks
rounds takes over the lead's; confirmations say that all hold one model.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from party_client.head_exchange import HeadExchange
from party_client.manifest_file import keep_manifest
from party_client.node import Node
from party_client.relayed import Exchange, exchange_of
from privacy.conversation import Conversation
from privacy.errors import IntegrityError, ProtocolError, SignatureError
from privacy.framing import Received, read_statement, statement_of
from privacy.key_agreement import (
    ExchangeKeys,
    KeyAgreement,
    SealedKeys,
    agreement_hash,
    lead_of,
)
from privacy.manifest import FederationManifest
from privacy.messages import (
    Body,
    ConfirmKeys,
    Decision,
    KeyConfirm,
    KeySeal,
    SealKeys,
    manifest_hash,
)
from privacy.shared_keys import SharedKeys

BodyT = TypeVar("BodyT", bound=Body)
Model = NDArray[np.float64]


class KeyStage:
    """One epoch's keys. Invariant: `members` are whom the next message of this stage concerns: the
    proposed cohort before `seal`, the final one from then on; `keys` are there once `confirm` was
    answered, and gone, with all that led to them, after `erase`.

    `sent`: the statement of this party's last reply, as the coordinator must relay it.
    """

    def __init__(self, node: Node, talk: Conversation, cohort: Mapping[str, bytes]) -> None:
        """`talk` has heard the proposal of `cohort` and nothing else."""
        self._node, self.talk = node, talk
        self.members = dict(cohort)
        self.heads = HeadExchange(node, talk.run, cohort)
        self.keys: SharedKeys | None = None
        self.sent = b""
        self._exchange: ExchangeKeys | None = ExchangeKeys.generate()
        self._agreement: KeyAgreement | None = None
        self._asked: Exchange | None = None  # the exchange that `sent` belongs to

    def decide(self, received: Received, applied: int, refusal: str = "") -> bytes:
        """This party's Decision: accepting, or refusing with a public reason code."""
        assert self._exchange is not None  # nothing was sealed yet
        accepted = not refusal
        decision = Decision(
            accepted=accepted,
            reason=refusal,
            public_size=self._node.public_size,
            offer=self._exchange.offer,
            applied=applied,
            ledger_head=self.heads.sign(0) if accepted else b"",
            known_heads=self.heads.known() if accepted else {},
        )
        self._asked = exchange_of(received.envelope, self.members)
        return self._say(decision)

    def seal(self, received: Received, final: Mapping[str, bytes], model: Model) -> bytes:
        """Answer SealKeys for the `final` members, whom the caller has found allowed.

        Raises IntegrityError or ProtocolError if their decisions are not what this party was told;
        LedgerError or ProtocolError if a ledger is not ahead of what anyone has seen of it.
        """
        proposed, agreed = self._asked, manifest_hash(final)
        assert proposed is not None  # the stage follows `decide`
        assert self._exchange is not None
        body = self.talk.hear(received, SealKeys, 0, begins=True, manifest=agreed)
        asked = replace(proposed, participants=dict(final))
        decisions = asked.replies(body.replies, Decision, self._node.party, self.sent)
        if not all(one.accepted for one in decisions.values()):
            raise ProtocolError("the final cohort holds a party that refused")
        self.members = dict(final)
        self.heads.meet(decisions, stands=self.talk.epoch > 1)
        self.sizes = {party: one.public_size for party, one in decisions.items()}
        self.applied = {party: one.applied for party, one in decisions.items()}
        self.lead = lead_of(self.applied)
        offers = {party: one.offer for party, one in decisions.items()}
        talk = self.talk
        agreement = agreement_hash(agreed, talk.plan, talk.run, talk.epoch, body.replies)
        me = self._node.party
        self._agreement = KeyAgreement(me, self._exchange, self.lead, offers, agreement)
        self._exchange = None
        shown = self._agreement.seal()
        sealed = b""
        if self.lead == me and min(self.applied.values()) < self.applied[me]:
            sealed = self._agreement.seal_model(model_bytes(model))
        self._asked = exchange_of(received.envelope, final)
        return self._say(
            KeySeal(sealed=shown.sealed, encapsulated=shown.encapsulated, model=sealed)
        )

    def confirm(self, received: Received, model: Model) -> tuple[bytes, Model]:
        """Answer ConfirmKeys. Returns the reply, and the model of this epoch: `model`, or the
        lead's if this party's lacks rounds that the lead's holds.

        Raises IntegrityError or ProtocolError if a seal or the model is not what its member sent.
        """
        assert self._asked is not None  # the stage follows `seal`
        assert self._agreement is not None
        body = self.talk.hear(received, ConfirmKeys, 0, begins=True)
        me = self._node.party
        seals = self._asked.replies(body.replies, KeySeal, me, self.sent)
        shown = {party: SealedKeys(one.sealed, one.encapsulated) for party, one in seals.items()}
        self.keys = self._agreement.complete(shown)
        self._agreement = None
        if self.applied[me] < self.applied[self.lead]:
            lead_says = read_statement(body.replies[self.lead], self.members[self.lead], KeySeal)
            digest = hashlib.sha256(body.model).digest()
            if not hmac.compare_digest(digest, lead_says.envelope.attached_sha256):
                raise IntegrityError(
                    f"the model is not the one that {self.lead} sealed; the keys are erased and "
                    "the run ends here"
                )
            model = _read_model(self.keys.open_model(body.model), model.size)
        self._digest = hashlib.sha256(model_bytes(model)).digest()
        confirm = KeyConfirm(
            tag=self.keys.confirmation(me, self._digest),
            manifest_signature=self._manifest().sign(self._node.key),
        )
        self._asked = exchange_of(received.envelope, self.members)
        return self._say(confirm), model

    def check_confirmations(self, replies: Mapping[str, bytes]) -> None:
        """Every member holds these keys and this model, and has signed the manifest, which is kept.

        Raises IntegrityError, with the keys erased by the caller at the latest, if not.
        """
        assert self._asked is not None  # the stage follows `confirm`
        assert self.keys is not None
        shown = self._asked.replies(replies, KeyConfirm, self._node.party, self.sent)
        tags = {party: one.tag for party, one in shown.items()}
        self.keys.check_confirmations(tags, self._digest)
        signatures = {party: one.manifest_signature for party, one in shown.items()}
        manifest = self._manifest()
        try:
            manifest.verify(signatures)
        except SignatureError as error:
            raise IntegrityError(f"{error}; the keys are erased and the run ends here") from error
        keep_manifest(self._node.manifest, manifest, signatures)

    def erase(self) -> None:
        """Drop every key of this epoch; idempotent."""
        if self._agreement is not None:
            self._agreement.erase()
        if self.keys is not None:
            self.keys.erase()
        self._exchange = self._agreement = None

    def _manifest(self) -> FederationManifest:
        return FederationManifest(self._node.federation.federation, self.members)

    def _say(self, body: Body) -> bytes:
        frame = self.talk.say(body, 0, begins=False)
        self.sent = statement_of(frame)
        return frame


def model_bytes(model: Model) -> bytes:
    """The model as members hand it over and confirm it: little-endian float64."""
    return model.astype("<f8").tobytes()


def _read_model(data: bytes, size: int) -> Model:
    if len(data) != 8 * size:
        raise ProtocolError("the lead's model does not have the plan's number of parameters")
    model = np.frombuffer(data, dtype="<f8").astype(np.float64)
    if not np.isfinite(model).all():
        raise ProtocolError("the lead's model holds a parameter that is no number")
    return model
