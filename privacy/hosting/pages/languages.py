"""The languages of pages: English is the source of every text; Chinese is in translations/zh.po,
of this folder for what services share and of the service's own folder for the rest."""

from __future__ import annotations

import gettext
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

TRANSLATIONS = Path(__file__).parent / "translations"
COOKIE = "fedtags_language"
# The form's and the cookie's word, and the `lang` attribute that a page then has.
LANGUAGES: Mapping[str, str] = MappingProxyType({"en": "en", "zh": "zh-Hans"})


def N_(text: str) -> str:  # noqa: N802 - gettext's own name for it
    """Marks a text for translation where it stands; translated where it is shown."""
    return text


@cache
def translations(language: str, own: Path | None = None) -> gettext.NullTranslations:
    """The texts of one of LANGUAGES: those in the folder `own`, and the shared ones. Read once from
    the .po files that people edit."""
    if language == "en":
        return gettext.NullTranslations()
    shared = _texts(TRANSLATIONS, language)
    if own is None:
        return shared
    found = _texts(own, language)
    found.add_fallback(shared)
    return found


def _texts(folder: Path, language: str) -> gettext.GNUTranslations:
    compiled = BytesIO()
    with (folder / f"{language}.po").open("rb") as source:
        write_mo(compiled, read_po(source, locale=language, abort_invalid=True))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def choose_language(cookie: str | None, accept: str | None) -> str:
    """What the reader chose, or else the first of the browser's languages that we have."""
    if cookie is not None and cookie in LANGUAGES:
        return cookie
    for wish in (accept or "").split(","):
        primary = wish.split(";")[0].strip().lower().split("-")[0]
        if primary in LANGUAGES:
            return primary
    return "en"
