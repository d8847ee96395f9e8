"""How values of a party are said on a page, in the reader's language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from models.tag_catalogue import DIMENSIONS, CatalogueTag, Dimension
from party_client.console.codes import (
    CAUSES,
    KINDS,
    ROLE_MEANINGS,
    ROLES,
    STANDS,
    TREATMENT_MEANINGS,
    TREATMENTS,
)
from party_client.console.known_phrases import PHRASES
from privacy.hosting.pages import words
from privacy.hosting.pages.languages import translations

# This console's templates and translations.
FOLDER = Path(__file__).parent


class _Named(Protocol):
    @property
    def display_name(self) -> str: ...
    @property
    def display_name_zh(self) -> str: ...


class _Valued(Protocol):
    @property
    def value(self) -> str: ...
    @property
    def value_zh(self) -> str: ...


class _Worded(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def text_zh(self) -> str: ...


class Words(words.Words):
    """One language's way to say a party's values."""

    def name(self, tag: _Named) -> str:
        """A tag's display name."""
        return self.either(tag.display_name, tag.display_name_zh)

    def value(self, tag: _Valued) -> str:
        """A tag's value."""
        return self.either(tag.value.replace("_", " "), tag.value_zh)

    def reason(self, reason: _Worded) -> str:
        """A reason for a tag's value."""
        return self.either(reason.text, reason.text_zh)

    def dimension(self, dimension: Dimension) -> str:
        """A dimension of the catalogue."""
        return self.either(*DIMENSIONS[dimension])

    def description(self, tag: CatalogueTag) -> str:
        """What a catalogue tag says."""
        return self.either(tag.description, tag.description_zh)

    def values(self, tag: CatalogueTag) -> Sequence[str]:
        """What a catalogue tag may hold."""
        return [self.either(value.replace("_", " "), tag.value_zh(value)) for value in tag.values]

    def role(self, role: str) -> str:
        """A role."""
        return self.code(ROLES, role)

    def role_meanings(self) -> list[tuple[str, str]]:
        """Every role, and what it may."""
        return [(self.role(role), self.say(text)) for role, text in ROLE_MEANINGS.items()]

    def stand(self, stand: str) -> str:
        """How a plan stands."""
        return self.code(STANDS, stand)

    def cause(self, cause: str | None) -> str:
        """Why no approval stands for a plan."""
        return "" if cause is None else self.code(CAUSES, cause)

    def kind(self, kind: str) -> str:
        """A kind of message."""
        return self.code(KINDS, kind)

    def treatment(self, treatment: str) -> str:
        """Why a field may leave, in a word."""
        return self.code(TREATMENTS, treatment)

    def treatments(self) -> list[tuple[str, str]]:
        """Those words, and what each means."""
        return [(self.treatment(name), self.say(text)) for name, text in TREATMENT_MEANINGS.items()]


def speak(lang: str) -> Words:
    """The words of one language."""
    return Words(lang, translations(lang, FOLDER / "translations"), PHRASES)
