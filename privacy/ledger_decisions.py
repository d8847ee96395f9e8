"""A person's decision about a plan, signed by the party and bound to one place in one ledger.

An entry of kind `approve` or `refuse` holds what `PlanDecision` says. Its Ed25519 signature, by
the party's identity key, covers the kind, every field and the hash of the entry before it, so a
decision counts for this party, this plan and this place alone: edited, moved, or copied from
another ledger it is not one. Replay checks the place and the fields' form; the signature is
checked wherever the party's public key is known: by `ledger verify`, and by admission for the one
that it relies on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from privacy.errors import LedgerError, SignatureError
from privacy.identity import SigningKey, verify
from privacy.messages import canonical

APPROVE: Literal["approve"] = "approve"
REFUSE: Literal["refuse"] = "refuse"
KINDS = (APPROVE, REFUSE)
MAX_TEXT = 500  # characters of a person's name or reason
MAX_RUNS = 10_000

_DOMAIN = b"fedtags plan decision 1\0"
_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_FIELDS = frozenset(
    (
        "party",
        "plan_digest",
        "plan",
        "requester",
        "person",
        "reason",
        "schema_digest",
        "runs",
        "valid_until",
        "decided_at",
        "previous",
        "signature",
    )
)


@dataclass(frozen=True)
class DecisionTerms:
    """What a person decides. `requester`: fingerprint of the key that asked. `person`, `reason`:
    up to 500 characters each, not empty.

    `runs`: how many the approval admits; `valid_until`: from then on it admits none;
    `schema_digest`: of the source as it was, hexadecimal. A refusal has 0, None and "".
    """

    approved: bool
    plan_digest: str
    plan: str
    requester: str
    person: str
    reason: str
    schema_digest: str = ""
    runs: int = 0
    valid_until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class PlanDecision(DecisionTerms):
    """One decision as the ledger holds it. `position`: its place; only ever grows. `body`: its
    entry's."""

    decided_at: datetime
    position: int
    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind of its entry."""
        return APPROVE if self.approved else REFUSE

    def check_signature(self, public: bytes) -> None:
        """Raise LedgerError unless the party whose key `public` is signed exactly this."""
        body = dict(self.body)
        try:
            signature = bytes.fromhex(body.pop("signature"))
            verify(public, signature, _statement(self.kind, body))
        except (SignatureError, KeyError) as error:
            raise LedgerError(
                f"the decision '{self.kind}' of {self.decided_at:%F %T} UTC about plan "
                f"{self.plan} is not signed by this party's key: it is forged, or of another "
                "party; nothing is admitted by it. Restore the ledger from backup"
            ) from error


def signed_body(
    key: SigningKey, terms: DecisionTerms, *, party: str, moment: datetime, previous: str
) -> dict[str, Any]:
    """The body of the entry that `terms` become at `party`, after the entry of hash `previous`.

    `moment`: the time that the entry will have. Raises LedgerError for terms outside their bounds.
    """
    until = terms.valid_until
    body = {
        "party": party,
        "plan_digest": terms.plan_digest,
        "plan": terms.plan,
        "requester": terms.requester,
        "person": terms.person,
        "reason": terms.reason,
        "schema_digest": terms.schema_digest,
        "runs": terms.runs,
        "valid_until": "" if until is None else _written(until),
        "decided_at": _written(moment),
        "previous": previous,
    }
    kind = APPROVE if terms.approved else REFUSE
    signed = {**body, "signature": key.sign(_statement(kind, body)).hex()}
    read_decision(kind, signed, party=party, moment=moment, previous=previous, position=0)
    return signed


def read_decision(
    kind: str,
    body: Mapping[str, Any],
    *,
    party: str,
    moment: datetime,
    previous: str,
    position: int,
) -> PlanDecision:
    """The decision that an entry holds. LedgerError if it does not belong to this party and this
    place, or a field has not its form. The signature is not checked here."""
    if set(body) != _FIELDS:
        raise LedgerError(f"an entry of kind {kind} has other fields than a decision has")
    if body["party"] != party:
        raise LedgerError("a decision of another party")
    if body["previous"] != previous or body["decided_at"] != _written(moment):
        raise LedgerError("a decision that was made at another place in a ledger")
    texts = [body[name] for name in ("plan", "requester", "person", "reason")]
    if not all(_said(one) for one in texts):
        raise LedgerError(
            "a decision names plan, requester, person and reason: each one line of up to "
            f"{MAX_TEXT} printable characters"
        )
    if not (_HASH.fullmatch(body["plan_digest"]) and _SIGNATURE.fullmatch(body["signature"])):
        raise LedgerError("a decision names its plan by hash, and is signed")
    runs, until, schema = body["runs"], body["valid_until"], body["schema_digest"]
    if type(runs) is not int:
        raise LedgerError("a decision's runs are a number")
    if kind == APPROVE:
        if not (1 <= runs <= MAX_RUNS and until and _HASH.fullmatch(schema)):
            raise LedgerError(
                f"an approval admits 1 to {MAX_RUNS} runs, until a day, for one form of the source"
            )
    elif (runs, until, schema) != (0, "", ""):
        raise LedgerError("a refusal admits nothing")
    return PlanDecision(
        approved=kind == APPROVE,
        plan_digest=body["plan_digest"],
        plan=body["plan"],
        requester=body["requester"],
        person=body["person"],
        reason=body["reason"],
        schema_digest=schema,
        runs=runs,
        valid_until=_moment(until) if until else None,
        decided_at=moment,
        position=position,
        body=body,
    )


def _said(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text.strip()) <= MAX_TEXT and text.isprintable()


def check_signatures(public: bytes, decisions: Iterable[PlanDecision]) -> None:
    """Raise LedgerError unless every decision is signed by the party whose key `public` is."""
    for one in decisions:
        one.check_signature(public)


def _statement(kind: str, body: Mapping[str, Any]) -> bytes:
    return _DOMAIN + canonical([kind, dict(body)])


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a moment has its zone")
    return found
