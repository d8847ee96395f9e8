"""What the shared parts of a service say in English, as phrases for translation."""

from __future__ import annotations

from privacy.hosting.pages.languages import N_

PHRASES: tuple[str, ...] = (
    N_("active"),
    N_("removed"),
    N_("a person named %(name)s is there already; choose another name"),
    N_("a token named %(name)s is there, or was; a name is not used again: choose another"),
    N_("days: a token is valid for 1 to %(most)s days"),
    N_("a password has %(shortest)s to %(longest)s characters"),
    N_("name: 1 to 63 lower-case letters, digits and . _ @ -, beginning with a letter"),
    N_("%(name)s is the last %(role)s; give somebody else that role first"),
    N_("no person has this name"),
    N_("no person has this name; list them to see who there is"),
    N_("no token has this name"),
    N_("no token has this name; list them to see which there are"),
    N_("the secret was shown already; revoke the token and make another if it was not copied"),
    N_("sign in"),
    N_("sign out"),
    N_("change the own password"),
    N_("add %(name)s as %(role)s"),
    N_("%(name)s becomes %(role)s"),
    N_("new password for %(name)s"),
    N_("remove %(name)s"),
    N_("create token %(name)s as %(role)s"),
    N_("revoke token %(name)s"),
)
