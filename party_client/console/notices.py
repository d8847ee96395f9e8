"""What a page says at its top after something was done: constant texts by a word in ?done=."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from party_client.console.languages import N_

NOTICES: Mapping[str, str] = MappingProxyType(
    {
        "approved": N_("You approved the plan. The decision is signed in the ledger."),
        "refused": N_("You refused the plan. The decision is signed in the ledger."),
        "withdrawn": N_(
            "You withdrew the approval. The decision is signed in the ledger. A run under way is "
            "not stopped by it."
        ),
        "approved-already": N_("The plan was approved already; nothing was changed."),
        "refused-already": N_("The plan was refused already; nothing was changed."),
        "opted-out": N_("The opt-out is honoured: the tags and their history are gone."),
        "added": N_("The person was added."),
        "role": N_("The role was changed; it holds from the next page on."),
        "password": N_("The password was set; all sessions of this person have ended."),
        "removed": N_("The person was removed; all sessions of this person have ended."),
        "revoked": N_("The token was revoked; it opens nothing from now on."),
        "consents": N_("Consents were read anew from the source."),
        "own-password": N_("Your password was changed. Sign in with the new one."),
        "signed-out": N_("You are signed out."),
    }
)
