"""Reading a form: what is missing or too long is said beside its field and in a summary above."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from privacy.hosting.pages.languages import N_

NEEDED = N_("This is needed.")
TOO_LONG = N_("This is too long.")
ONE_LINE = N_("Use one line of printable characters.")
NOT_ONE_OF = N_("Choose one of the list.")
MAX_FIELDS = 20


@dataclass
class Fields:
    """The values of one form; `wrong` collects what to correct, text by field name."""

    given: Mapping[str, str]
    wrong: dict[str, str] = field(default_factory=dict)

    def line(self, name: str, *, needed: str = NEEDED, most: int = 200) -> str:
        """One line of at most `most` characters; `needed`: what is said if it is empty."""
        value = self.given.get(name, "").strip()
        if not value:
            self.wrong[name] = needed
        elif len(value) > most:
            self.wrong[name] = TOO_LONG
        elif not value.isprintable():
            self.wrong[name] = ONE_LINE
        return value

    def secret(self, name: str, *, needed: str = NEEDED, most: int = 1024) -> str:
        """A password, as it was typed."""
        value = self.given.get(name, "")
        if not value:
            self.wrong[name] = needed
        elif len(value) > most:
            self.wrong[name] = TOO_LONG
        return value

    def one_of(self, name: str, allowed: object) -> str:
        """One of a collection's members."""
        value = self.given.get(name, "")
        if value not in allowed:  # type: ignore[operator]
            self.wrong[name] = NOT_ONE_OF
        return value


def local_path(given: str) -> str:
    """A path of this site, or "/": nothing may send a reader anywhere else."""
    parts = urlsplit(given)
    local = given.startswith("/") and not given.startswith(("//", "/\\")) and given.isprintable()
    if not local or parts.scheme or parts.netloc or "\\" in given:
        return "/"
    return given
