"""What a page says at its top after something was done: constant texts by a word in ?done=."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from privacy.hosting.pages import notices as shared
from privacy.hosting.pages.languages import N_

NOTICES: Mapping[str, str] = MappingProxyType(
    {
        **shared.NOTICES,
        "started": N_("The run was started."),
        "stopping": N_("The run ends before its next exchange. What had begun stays spent."),
        "stopped": N_("The run was ended at once. What had begun stays spent."),
        "resumed": N_("The run asks its absent parties now."),
        "party-removed": N_("The party was removed: no new run asks it. Its history stays."),
    }
)
