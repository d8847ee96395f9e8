"""How values of the coordinator are said on a page, in the reader's language."""

from __future__ import annotations

from pathlib import Path

from coordinator.dashboard.codes import (
    ASKED,
    EVENTS,
    FIGURES,
    PARTY_MARKS,
    PARTY_STATES,
    PHASES,
    ROLE_MEANINGS,
    ROLES,
    RUN_MARKS,
    RUN_STATES,
    STANDS,
    TAG_STATES,
)
from coordinator.dashboard.known_phrases import PHRASES
from privacy.hosting.pages import words
from privacy.hosting.pages.languages import translations

# This package's templates and translations.
FOLDER = Path(__file__).parent


class Words(words.Words):
    """One language's way to say the coordinator's values."""

    def role(self, role: str) -> str:
        """A role; a party operator's with its party."""
        kind, _, party = role.partition(":")
        named = self.code(ROLES, kind)
        return f"{named} {party}" if party else named

    def role_meanings(self) -> list[tuple[str, str]]:
        """Every role, and what it may."""
        return [(self.role(role), self.say(text)) for role, text in ROLE_MEANINGS.items()]

    def run_state(self, state: str) -> str:
        """A run's state."""
        return self.code(RUN_STATES, state)

    def run_mark(self, state: str) -> str:
        """The class of a run state's mark."""
        return RUN_MARKS.get(state, "")

    def party_state(self, state: str) -> str:
        """A party's state."""
        return self.code(PARTY_STATES, state)

    def party_mark(self, state: str) -> str:
        """The class of a party state's mark."""
        return PARTY_MARKS.get(state, "")

    def phase(self, phase: str | None, round_number: int | None) -> str:
        """A phase, with its round if it has one."""
        if phase is None:
            return ""
        named = self.code(PHASES, phase)
        return f"{named} {round_number}" if round_number else named

    def figure(self, name: str) -> str:
        """A released figure's name."""
        return self.code(FIGURES, name)

    def stand(self, status: str) -> str:
        """Where a party stands in a run."""
        return self.code(STANDS, status)

    def event(self, event: str) -> str:
        """What a party did in a run."""
        return self.code(EVENTS, event)

    def tag_state(self, state: str) -> str:
        """A tag's state in a party's catalogue."""
        return self.code(TAG_STATES, state)

    def asked(self, part: str) -> str:
        """A part of a plan's epsilon."""
        return self.code(ASKED, part)

    def size(self, count: int) -> str:
        """Bytes, in the unit that fits."""
        if count < 10_000:
            return f"{count:,} B"
        return f"{count / 1000:,.0f} kB" if count < 10_000_000 else f"{count / 1e6:,.1f} MB"

    def band(self, value: float, error: float | None) -> str:
        """A noised figure with its noise's standard error."""
        return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def speak(lang: str) -> Words:
    """The words of one language."""
    return Words(lang, translations(lang, FOLDER / "translations"), PHRASES)
