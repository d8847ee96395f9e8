"""What other parts of the coordinator say in English, as phrases for translation."""

from __future__ import annotations

from coordinator.failures import EXPLANATIONS
from coordinator.roles import Permission
from privacy.hosting.pages import known_phrases as shared
from privacy.hosting.pages.languages import N_

_COSTS = (
    N_("%(able)s of at least %(least)s parties can take part now"),
    N_(
        "with two parties each can take its own part off the sum and knows the other's noised "
        "update; there only differential privacy protects it"
    ),
    N_(
        "every epsilon is for one customer at one party; a customer who is at several parties has "
        "the sum of theirs at most"
    ),
    N_("it is not enrolled in this federation"),
    N_("it does not tell its public size, so its cost is not known"),
    N_("its cost is not computed yet: there are many public sizes; check again for the rest"),
    N_("no noise multiplier reaches this epsilon; ask for another epsilon"),
    N_("its lifetime budget, as it tells it, has no room for such a run"),
    N_("its node is not connected"),
    N_("the SuperLink does not answer, so whether its node is connected is not known"),
)
_ALERTS = (
    N_(
        "%(name)s has %(left)s of its lifetime budget left, as it told on %(day)s; runs with it "
        "may soon be refused"
    ),
    N_(
        "%(name)s was last heard of on %(time)s UTC; ask its operator whether its node runs and "
        "reaches this coordinator"
    ),
    N_("run %(name)s has made no progress since %(time)s UTC; see logs/serverapp.log, or stop it"),
    N_("run %(name)s ended by a failed check: %(reason)s"),
    N_(
        "%(name)s told two things that cannot both be true: %(what)s; both are kept with its "
        "signature. Ask its operator"
    ),
    N_("the audit log is not what was written: %(reason)s"),
    N_(
        "%(name)s told that its ledger ends at entry %(position)s, and before at entry %(before)s: "
        "the ledger was cut or put back from a copy, or one of the two is untrue"
    ),
    N_(
        "%(name)s told two different entries %(position)s of its ledger: it was rewritten, or one "
        "of the two is untrue"
    ),
)
_WINDOWS = (N_("lifetime"), N_("year"), N_("quarter"), N_("month"))

PHRASES: tuple[str, ...] = (
    *shared.PHRASES,
    *dict.fromkeys(text for one in EXPLANATIONS for text in (one.cause, one.next_step)),
    *_COSTS,
    *_ALERTS,
    *_WINDOWS,
    *(one.value for one in Permission),
)
