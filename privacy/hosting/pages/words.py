"""How values are said on a page: codes in words, numbers grouped, times in UTC, ε rounded up."""

from __future__ import annotations

import gettext
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from privacy.hosting.pages.phrases import translate_phrase


@dataclass(frozen=True)
class Words:
    """One language's way to say values. `texts`: its translations; `lang`: the form's word;
    `phrases`: sentences with values that the service writes (`privacy.hosting.pages.phrases`)."""

    lang: str
    texts: gettext.NullTranslations
    phrases: tuple[str, ...] = ()

    def say(self, text: str) -> str:
        """A text of ours, marked for translation elsewhere or made from a phrase that was; what
        neither is (a name, a reason that somebody typed) is shown as it stands."""
        return translate_phrase(self.texts, text, self.phrases)

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

    def role(self, role: str) -> str:
        """A role. A service with roles of its own says them in its own words."""
        return self.say(role)

    def role_meanings(self) -> list[tuple[str, str]]:
        """Every role of the service, and what it may."""
        return []

    def code(self, known: Mapping[str, str], code: str) -> str:
        """The words for a code, or the code itself."""
        return self.say(known.get(str(code), str(code)))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
