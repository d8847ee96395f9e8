"""The words for codes: roles, how plans stand, kinds of message and why their fields may leave."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from privacy.hosting.pages.languages import N_

ROLES: Mapping[str, str] = MappingProxyType(
    {
        "admin": N_("administrator"),
        "operator": N_("operator"),
        "marketer": N_("marketer"),
        "reviewer": N_("reviewer"),
    }
)
ROLE_MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "admin": N_("all that an operator may; and people, tokens and the access log"),
        "operator": N_("runs the node: decisions, customers, opt-outs, exports"),
        "marketer": N_("counts segments and looks single customers up; ids are masked, no export"),
        "reviewer": N_("reads everything but single customers; changes nothing"),
    }
)
# `party_client.approvals.Stand` and `Cause`.
STANDS: Mapping[str, str] = MappingProxyType(
    {
        "waiting": N_("waits for a decision"),
        "approved": N_("approved"),
        "refused": N_("refused"),
        "used": N_("approval used up"),
        "expired": N_("approval expired"),
    }
)
CAUSES: Mapping[str, str] = MappingProxyType(
    {
        "new": N_("Nobody has decided about it yet."),
        "refused": N_("It was refused."),
        "used": N_("The runs that were approved are used up."),
        "expired": N_("The approval's time has passed."),
        "requester": N_("It was approved for another requester."),
        "source": N_("The form of this party's source has changed since it was approved."),
        "lost": N_("The ledger lost entries since it was approved."),
    }
)
# Every kind of message that a party sends, the head of all, and what the egress log adds.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "header": N_("head of every message"),
        "decision": N_("decision about a plan"),
        "key-seal": N_("key agreement"),
        "key-confirm": N_("key confirmation"),
        "weight-update": N_("noised size"),
        "update": N_("update of a round"),
        "evaluation-update": N_("noised evaluation counts"),
        "unmasked": N_("seed of a mask"),
        "evaluation-opened": N_("which evaluation was opened"),
        "receipt": N_("receipt"),
        "acknowledged": N_("acknowledgement"),
        "refusal": N_("refusal"),
        "enrolment": N_("enrolment"),
        "disclosure": N_("disclosure"),
    }
)
TREATMENTS: Mapping[str, str] = MappingProxyType(
    {
        "constant": N_("constant"),
        "charged": N_("noised and charged"),
        "encrypted": N_("encrypted"),
        "disclosed": N_("disclosed"),
    }
)
TREATMENT_MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "constant": N_("the same whatever the data are, or fixed before data were touched"),
        "charged": N_("differentially private noise was added, and its ε is in the ledger"),
        "encrypted": N_("only other parties can open it; what opens was noised and charged"),
        "disclosed": N_("a documented disclosure of something that is not customer data"),
    }
)
