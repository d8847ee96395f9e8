"""How values are said on a page: codes in words, numbers grouped, times in UTC, ε rounded up."""

from __future__ import annotations

import gettext
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
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
from party_client.console.phrases import translate_phrase


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


@dataclass(frozen=True)
class Words:
    """One language's way to say values. `texts`: its translations; `lang`: the form's word."""

    lang: str
    texts: gettext.NullTranslations

    def say(self, text: str) -> str:
        """A text of ours, marked for translation elsewhere or made from a phrase that was; what
        neither is (a name, a reason that somebody typed) is shown as it stands."""
        return translate_phrase(self.texts, text)

    def either(self, english: str, chinese: str) -> str:
        """A text that comes in both languages."""
        return chinese if self.lang == "zh" and chinese else english

    def time(self, moment: datetime | date) -> str:
        """To the second, in UTC and saying so; a date alone is an ISO date."""
        if not isinstance(moment, datetime):
            return moment.isoformat()
        return f"{_utc(moment):%Y-%m-%d %H:%M:%S} UTC"

    def machine_time(self, moment: datetime | date) -> str:
        """For the `datetime` attribute."""
        if not isinstance(moment, datetime):
            return moment.isoformat()
        return f"{_utc(moment):%Y-%m-%dT%H:%M:%SZ}"

    def number(self, value: int | float) -> str:
        """Digits grouped by thousands, the same in both languages."""
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"

    def epsilon(self, value: float) -> str:
        """Rounded up to the third digit, as everywhere in fedtags."""
        return f"{math.ceil(value * 1000 - 1e-9) / 1000:,.3f}"

    def delta(self, value: float) -> str:
        """A probability, in scientific form."""
        return f"{value:.1e}"

    def share(self, value: float) -> str:
        """A share that should be small, in per cent, rounded up: any is never 0.0."""
        return f"{math.ceil(value * 1000 - 1e-9) / 10:,.1f} %"

    def share_down(self, value: float) -> str:
        """A share that should be large, in per cent, rounded down: not all is never 100.0."""
        return f"{math.floor(value * 1000 + 1e-9) / 10:,.1f} %"

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
        return self._code(ROLES, role)

    def role_meanings(self) -> list[tuple[str, str]]:
        """Every role, and what it may."""
        return [(self.role(role), self.say(text)) for role, text in ROLE_MEANINGS.items()]

    def stand(self, stand: str) -> str:
        """How a plan stands."""
        return self._code(STANDS, stand)

    def cause(self, cause: str | None) -> str:
        """Why no approval stands for a plan."""
        return "" if cause is None else self._code(CAUSES, cause)

    def kind(self, kind: str) -> str:
        """A kind of message."""
        return self._code(KINDS, kind)

    def treatment(self, treatment: str) -> str:
        """Why a field may leave, in a word."""
        return self._code(TREATMENTS, treatment)

    def treatments(self) -> list[tuple[str, str]]:
        """Those words, and what each means."""
        return [(self.treatment(name), self.say(text)) for name, text in TREATMENT_MEANINGS.items()]

    def _code(self, known: Mapping[str, str], code: str) -> str:
        return self.say(known.get(str(code), str(code)))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
