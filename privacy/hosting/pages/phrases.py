"""Sentences that other parts of a service write, translated where a page shows them.

A ledger, a policy and a desk write one English, for logs and scripts too. A sentence with values in
it is known to a site as a phrase with named places. A text that is no phrase is shown as it stands:
it may be a name, or what a person typed.
"""

from __future__ import annotations

import gettext
import re
from functools import cache

_PLACE = re.compile(r"%\((\w+)\)s")
LONGEST = 2000
# What somebody typed, or a name: shown as it stands even if it happens to be a phrase.
_AS_TYPED = frozenset({"person", "name", "plan", "reason", "requester", "digest", "value"})


def translate_phrase(texts: gettext.NullTranslations, text: str, phrases: tuple[str, ...]) -> str:
    """`text` in the language of `texts`; the values in its places too, where they are known.

    `phrases`: sentences with places for values, such as %(name)s.
    """
    if not text or not isinstance(texts, gettext.GNUTranslations) or len(text) > LONGEST:
        return text
    whole = texts.gettext(text)
    if whole != text:
        return whole
    for phrase, parts, pattern in _patterns(phrases):
        found = pattern.fullmatch(text) if _in_order(parts, text) else None
        if found is not None:
            told = {
                name: one if name in _AS_TYPED else translate_phrase(texts, one, phrases)
                for name, one in found.groupdict().items()
            }
            return texts.gettext(phrase) % told
    return text


def _in_order(parts: tuple[str, ...], text: str) -> bool:
    """Whether the phrase's own words are in `text`, one after the other; a pattern that cannot
    match would try every way to miss."""
    place = 0
    for part in parts:
        found = text.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return text.startswith(parts[0]) and text.endswith(parts[-1])


@cache
def _patterns(
    phrases: tuple[str, ...],
) -> tuple[tuple[str, tuple[str, ...], re.Pattern[str]], ...]:
    return tuple(
        (phrase, _literals(phrase), _pattern(phrase)) for phrase in phrases if _PLACE.search(phrase)
    )


def _literals(phrase: str) -> tuple[str, ...]:
    return tuple(part.replace("%%", "%") for part in _PLACE.split(phrase)[::2])


def _pattern(phrase: str) -> re.Pattern[str]:
    parts = _PLACE.split(phrase)
    literal = [re.escape(part) for part in _literals(phrase)]
    places = [f"(?P<{name}>.+?)" for name in parts[1::2]]
    return re.compile("".join(a + b for a, b in zip(literal, [*places, ""], strict=True)))
