"""What a page says at its top after something was done: constant texts by a word in ?done=."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from privacy.hosting.pages.languages import N_

NOTICES: Mapping[str, str] = MappingProxyType(
    {
        "added": N_("The person was added."),
        "role": N_("The role was changed; it holds from the next page on."),
        "password": N_("The password was set; all sessions of this person have ended."),
        "removed": N_("The person was removed; all sessions of this person have ended."),
        "revoked": N_("The token was revoked; it opens nothing from now on."),
        "own-password": N_("Your password was changed. Sign in with the new one."),
        "signed-out": N_("You are signed out."),
    }
)
