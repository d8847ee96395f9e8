"""What a page says at its top after something was done: constant texts by a word in ?done=."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from privacy.hosting.pages import notices as shared
from privacy.hosting.pages.languages import N_

NOTICES: Mapping[str, str] = MappingProxyType(
    {
        **shared.NOTICES,
        "approved": N_("You approved the plan. The decision is signed in the ledger."),
        "refused": N_("You refused the plan. The decision is signed in the ledger."),
        "withdrawn": N_(
            "You withdrew the approval. The decision is signed in the ledger. A run under way is "
            "not stopped by it."
        ),
        "approved-already": N_("The plan was approved already; nothing was changed."),
        "refused-already": N_("The plan was refused already; nothing was changed."),
        "opted-out": N_("The opt-out is honoured: the tags and their history are gone."),
        "consents": N_("Consents were read anew from the source."),
    }
)
