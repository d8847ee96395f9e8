"""Names of attributes that no feature, label, tag or tag value may have, in English and Chinese.

The special categories of GDPR Art. 9 (health, religion, political opinion, ethnicity, sexual life,
union membership, genetics, biometrics), and precise location and the data of minors.

This is a check of names and cannot see meaning: a column `x7` that holds diagnoses passes, and an
innocent column with an unlucky name is refused (rename it). It goes by words, so that `unionpay`,
`race_day` and `third_party` pass; forbidden_words.toml lists the words and what is excepted. Where
a word has both meanings, it is refused.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

WORDS_FILE = Path(__file__).with_name("forbidden_words.toml")
_ANYWHERE = 6  # letters from which on a stem, or a phrase written as one, counts inside a word
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[a-z]+|[0-9]+")
_TRADITIONAL = str.maketrans(
    "種醫藥療殘懷黨員會緯經兒齡處診斷遺傳識別聲紋臉戀歲滿蹤軌跡實時過癌憂鬱術體檢壓腫戒煙輪經選舉"
    "團種漢維爾蒙滿鮮膚統徒禮聖蘭猶黨為動伴侶愛異變產組織門標確準當戶號輪學務務齋謙敎",
    "种医药疗残怀党员会纬经儿龄处诊断遗传识别声纹脸恋岁满踪轨迹实时过癌忧郁术体检压肿戒烟轮经选举"
    "团种汉维尔蒙满鲜肤统徒礼圣兰犹党为动伴侣爱异变产组织门标确准当户号轮学务务斋谦教",
)


@dataclass(frozen=True)
class _Category:
    """Phrases are tuples of words."""

    name: str
    words: frozenset[str]
    stems: tuple[str, ...]
    phrases: tuple[tuple[str, ...], ...]
    chinese: tuple[str, ...]


@dataclass(frozen=True)
class _Lists:
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    allowed: tuple[tuple[str, ...], ...]
    allowed_chinese: tuple[str, ...]
    categories: tuple[_Category, ...]


@lru_cache(maxsize=4096)
def forbidden(name: str) -> str | None:
    """The category that `name` says (see `categories`), or None.

    `name` may be in snake, camel or kebab case, with spaces, with full-width or traditional
    characters, or pinyin where that is unambiguous.
    """
    lists = _lists()
    plain = unicodedata.normalize("NFKC", name)
    chinese = re.sub(r"[\s_\-.·/]+", "", plain).translate(_TRADITIONAL)
    for allowed in lists.allowed_chinese:
        chinese = chinese.replace(allowed, " ")
    words = _without(_words(plain), lists.allowed)
    for category in lists.categories:
        if any(_in_chinese(one, chinese) for one in category.chinese):
            return category.name
        if _says(words, category):
            return category.name
    return None


def categories() -> tuple[str, ...]:
    """Every category that `forbidden` can give."""
    return tuple(category.name for category in _lists().categories)


def forbidden_among(names: Iterable[str]) -> Mapping[str, str]:
    """Those of `names` that are forbidden, with their category."""
    found = {name: forbidden(name) for name in names}
    return MappingProxyType({name: one for name, one in found.items() if one is not None})


def _in_chinese(entry: str, text: str) -> bool:
    if not entry.startswith("性"):
        return entry in text
    # Behind another character 性 is a suffix (-ity), unless a word for a person or a question ends
    # there.
    return re.search(f"(?<![一-鿿]){entry}|(?<=[的有无前否户员客者人危]){entry}", text) is not None


def _words(name: str) -> list[str]:
    """The words of a name in lower case, without accents; digits stand alone."""
    bare = "".join(
        one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one)
    )
    return _WORD.findall(_CAMEL.sub(" ", bare).lower())


def _without(words: Sequence[str], allowed: Sequence[tuple[str, ...]]) -> list[str]:
    """`words` with an empty word for each allowed phrase, so that nothing joins over it."""
    left = list(words)
    for phrase in allowed:
        place = 0
        while place + len(phrase) <= len(left):
            if _matches(left[place : place + len(phrase)], phrase):
                left[place : place + len(phrase)] = [""]
            place += 1
    return left


def _says(words: Sequence[str], category: _Category) -> bool:
    forms = frozenset[str]().union(*map(_forms, words))
    if not category.words.isdisjoint(forms):
        return True
    for word in words:
        if any(word.startswith(stem) for stem in category.stems):
            return True
        if any(stem in word for stem in category.stems if len(stem) >= _ANYWHERE):
            return True
    return any(_has_phrase(words, forms, phrase) for phrase in category.phrases)


def _has_phrase(words: Sequence[str], forms: frozenset[str], phrase: tuple[str, ...]) -> bool:
    size = len(phrase)
    if any(_matches(words[at : at + size], phrase) for at in range(len(words) - size + 1)):
        return True
    joined = "".join(phrase)
    return joined in forms or (
        len(joined) > _ANYWHERE + 2 and any(joined in word for word in words)
    )


def _matches(words: Sequence[str], phrase: tuple[str, ...]) -> bool:
    return len(words) == len(phrase) and all(
        one in _singulars(word) for word, one in zip(words, phrase, strict=True)
    )


def _singulars(word: str) -> tuple[str, ...]:
    if len(word) <= 3 or not word.endswith("s"):
        return (word,)
    return (word, word[:-1], word[:-2]) if word.endswith("es") else (word, word[:-1])


@lru_cache(maxsize=4096)
def _forms(word: str) -> frozenset[str]:
    """The word, its singular, and either without a prefix, a suffix or both."""
    lists = _lists()
    starts = {word} | {word[len(one) :] for one in lists.prefixes if word.startswith(one)}
    ends = {start[: -len(one)] for start in starts for one in lists.suffixes if start.endswith(one)}
    return frozenset(form for one in starts | ends for form in _singulars(one)) - {""}


@lru_cache(maxsize=1)
def _lists() -> _Lists:
    raw: dict[str, Any] = tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))
    return _Lists(
        prefixes=tuple(raw["prefixes"]),
        suffixes=tuple(raw["suffixes"]),
        allowed=_phrases(raw["except"]["phrases"]),
        allowed_chinese=tuple(raw["except"]["chinese"]),
        categories=tuple(
            _Category(
                name=name,
                words=frozenset(table.get("words", ())),
                stems=tuple(table.get("stems", ())),
                phrases=_phrases(table.get("phrases", ())),
                chinese=tuple(table.get("chinese", ())),
            )
            for name, table in raw["category"].items()
        ),
    )


def _phrases(texts: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(text.split()) for text in texts)
