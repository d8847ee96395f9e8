"""Who takes part in a run: in, away for now, or out for good.

A party that does not answer, or refuses a message of the run (a service that was restarted knows
nothing of it), is away: it may come back by answering a `Regroup`. One that refuses that, or
refuses a second time without having been part of a sum in between, is out for good; unless fewer
were left then than had been proposed to it: its own policy may demand more, so it is asked to
join a larger set only. A refusal says no more: it is one constant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coordinator.channel import Recorder
from models.plan import Cohort, Plan
from privacy.errors import CohortError, PartyTimeout, RunError
from privacy.messages import Decision

APPROVAL = "approval"  # the reason code of a party where a person decides first


@dataclass(frozen=True)
class Absence:
    """Where in the run a party was lost, and whether it refused there or did not answer."""

    where: str
    refused: bool


class Membership:
    """Invariant: a party that was asked is in exactly one of `present`, `absent` and `out`, or
    refused at preflight and is in none."""

    def __init__(self, plan: Plan, proposed: Iterable[str], recorder: Recorder) -> None:
        self.present: tuple[str, ...] = tuple(sorted(proposed))
        self.absent: dict[str, Absence] = {}
        self.out: dict[str, str] = {}
        # Public size and rounds in the model, as each party's last decision said.
        self.decisions: dict[str, Decision] = {}
        self.left: dict[str, str] = {}
        self.returned: dict[str, str] = {}
        # Parties that the last cohort was proposed with.
        self.proposed = len(self.present)
        self._cohort, self._recorder = plan.cohort, recorder
        self._refusals: set[str] = set()
        self._least: dict[str, int] = {}

    @property
    def enough(self) -> bool:
        """True if those present are as many as the plan demands."""
        return len(self.present) >= self._cohort.minimum

    def drop(self, parties: Iterable[str]) -> None:
        """Parties that refused at preflight: they were never in the run."""
        self.present = _without(self.present, parties)

    def lose(self, vanished: Iterable[str], refused: Iterable[str], where: str) -> None:
        """These did not answer, or refused, in phase `where`."""
        asked = len(self.present)
        for party in vanished:
            self.absent[party] = Absence(where, refused=False)
            self._note(party, "left", where)
        for party in refused:
            if party in self._refusals and asked < self.proposed:
                self._least[party] = asked + 1
            elif party in self._refusals:
                self.expel(party, where)
                continue
            self._refusals.add(party)
            self.absent[party] = Absence(where, refused=True)
            self._note(party, "left", where)
        self.present = _without(self.present, self.absent)

    def expel(self, party: str, where: str) -> None:
        """This one refused, and will not be asked again."""
        self.present = _without(self.present, [party])
        earlier = self.absent.pop(party, None)
        self.out[party] = where if earlier is None else earlier.where
        self._note(party, "refused", where)

    def willing(self, parties: Iterable[str]) -> tuple[str, ...]:
        """Those of `parties` that may make an epoch: without any for which they are too few. Empty
        if too few are left for the plan."""
        found = tuple(sorted(parties))
        while any(self._least.get(party, 0) > len(found) for party in found):
            found = tuple(party for party in found if self._least.get(party, 0) <= len(found))
        return found if len(found) >= self._cohort.minimum else ()

    def form(self, parties: Iterable[str], where: str) -> None:
        """These, and only these, make the new epoch."""
        before, self.present = self.present, tuple(sorted(parties))
        for party in _without(before, self.present):
            self.absent[party] = Absence(where, refused=True)
            self._note(party, "left", where)
        for party in self.present:
            if self.absent.pop(party, None) is not None:
                self.returned[party] = where
                self._recorder.membership(party, "returned")

    def stand(self) -> None:
        """A sum of those present stands: earlier refusals no longer count."""
        self._refusals.difference_update(self.present)

    def rounds_held(self, parties: Iterable[str]) -> int:
        """The most rounds that a model among `parties` holds, by their decisions."""
        return max((self.decisions[party].applied for party in parties), default=0)

    def check_hope(self) -> None:
        """Raise CohortError if even with everyone who is away there are too few."""
        if len(self.present) + len(self.absent) < self._cohort.minimum:
            raise self.shortage()

    def shortage(self) -> RunError:
        """Why too few are left: CohortError if someone refused, else PartyTimeout."""
        gone = self.absent.items()
        refused = self.out | {party: one.where for party, one in gone if one.refused}
        missing = {party: one.where for party, one in gone if not one.refused}
        return refusal_error(refused, missing) if refused else timeout_error(missing, self._cohort)

    def _note(self, party: str, event: str, where: str) -> None:
        self.left[party] = where
        self._recorder.membership(party, event)


def preflight_refusals(refused: Mapping[str, str]) -> list[str]:
    """What a requester reads of the parties that refused at preflight: party to reason code."""
    if not refused:
        return []
    told = ", ".join(f"{party} ({reason})" for party, reason in sorted(refused.items()))
    texts = [f"refused: {told}"]
    waiting = sorted(party for party, reason in refused.items() if reason == APPROVAL)
    if waiting:
        texts.append(
            f"{APPROVAL}: the plan waits for a person at {', '.join(waiting)}; submit it again "
            "once it is approved there"
        )
    return texts


def refusal_error(refused: Mapping[str, str], missing: Mapping[str, str]) -> CohortError:
    """`refused`, `missing`: party to the phase in which it was lost."""
    also = f"; {_places(missing, 'did not answer in phase')}" if missing else ""
    return CohortError(
        f"{_places(refused, 'refused a message in phase')}; the reason is in that party's own "
        f"log{also}. The run has ended; rounds that had begun stay spent there, and the rest of "
        "what was reserved is free again"
    )


def timeout_error(missing: Mapping[str, str], cohort: Cohort) -> PartyTimeout:
    """`missing`: party to the phase in which it was lost; `cohort`: the plan's."""
    return PartyTimeout(
        f"{_places(missing, 'did not answer in phase')} (the plan's cohort.timeout_seconds is "
        f"{cohort.timeout_seconds}, cohort.pause_minutes {cohort.pause_minutes}). Check there that "
        "the node is running (fedtags-party status) and of this version (logs/relay.log), then "
        "submit again"
    )


def _places(parties: Mapping[str, str], what: str) -> str:
    """Such as 'bank, shop did not answer in phase round 2; retailer did not answer in ...'."""
    phases: dict[str, list[str]] = {}
    for party, where in sorted(parties.items()):
        phases.setdefault(where, []).append(party)
    return "; ".join(f"{', '.join(names)} {what} {where}" for where, names in phases.items())


def _without(parties: Iterable[str], gone: Iterable[str]) -> tuple[str, ...]:
    return tuple(party for party in parties if party not in set(gone))
