"""Every text of the party's console in both languages; nothing translated that a person typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

import coordinator.dashboard
import party_client.console
from coordinator.dashboard.known_phrases import PHRASES as DASHBOARD_PHRASES
from party_client.console.codes import CAUSES, KINDS, ROLES, STANDS, TREATMENT_MEANINGS, TREATMENTS
from party_client.console.known_phrases import PHRASES
from party_client.console.notices import NOTICES
from party_client.console.words import speak
from privacy.hosting import pages
from privacy.hosting.pages.forms import local_path
from privacy.hosting.pages.kept import KEPT_S, MOST, Kept
from privacy.hosting.pages.languages import choose_language

CONSOLE = Path(party_client.console.__file__).parent
SHARED = Path(pages.__file__).parent
DASHBOARD = Path(coordinator.dashboard.__file__).parent
ROOT = CONSOLE.parents[1]
PLACE = re.compile(r"%\(\w+\)s")
# Their parts are put together from several texts at their source.
ASSEMBLED = (
    "release of noised counts",
    "releases of noised counts",
    "refused plan",
)
HAN = r"[\u4e00-\u9fff]"


def marked(folder: Path) -> set[str]:
    """Every text that a template or a module of the folder marks."""
    found = extract_from_dir(
        folder,
        method_map=[("**.py", "python"), ("**.html", "jinja2")],
        keywords={"N_": None, "_": None, "ngettext": (1, 2)},
    )
    return {one if isinstance(one, str) else one[0] for _, _, one, _, _ in found}


def entries(folder: Path) -> dict[str, str]:
    """The Chinese of a folder's texts."""
    with (folder / "translations" / "zh.po").open("rb") as source:
        catalog = read_po(source, locale="zh", abort_invalid=True)
    plain = {}
    for message in catalog:
        if message.id:
            id_ = message.id if isinstance(message.id, str) else message.id[0]
            plain[id_] = told if isinstance(told := message.string, str) else (told or [""])[0]
    return plain


SITES = {SHARED: (), CONSOLE: PHRASES, DASHBOARD: DASHBOARD_PHRASES}
every = pytest.mark.parametrize("folder", SITES, ids=["shared", "console", "dashboard"])


@every
def test_every_text_is_translated_and_no_translation_is_left_over(folder: Path) -> None:
    texts = marked(folder)
    if folder != SHARED:
        texts = (texts | set(SITES[folder])) - marked(SHARED)
    assert len(texts) > 100
    translated = {text for text, told in entries(folder).items() if told}
    assert texts - translated == set()
    assert set(entries(folder)) - texts == set()


@every
def test_a_translation_has_the_same_places_as_its_source(folder: Path) -> None:
    for text, told in entries(folder).items():
        assert sorted(PLACE.findall(text)) == sorted(PLACE.findall(told)), text


@every
def test_a_translation_is_chinese_with_chinese_punctuation(folder: Path) -> None:
    for text, told in entries(folder).items():
        assert re.search(HAN, told) or told in ("ε", "AUC", "SHA-256"), text
        assert not re.search(rf"{HAN}[,;:?!()]|[,;:?!()]{HAN}|{HAN}\.( |$)", told), told
        if " " in text:
            assert text.endswith(".") == told.endswith("。"), (text, told)


def test_what_the_node_says_is_still_said_in_these_words() -> None:
    """A sentence that was reworded at its source would be shown in English on a Chinese page."""
    sources = [
        path.read_text(encoding="utf-8")
        for folder in ("party_client", "privacy", "models")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "known_phrases.py"
    ] + [(ROOT / "party_client/quality_rules.toml").read_text(encoding="utf-8")]
    spoken = re.sub(r'"\s*f?"', "", " ".join(sources))
    for phrase in PHRASES:
        for part in re.split(r"%\(\w+\)s|[:,;]", phrase):
            said = part.strip(" ()")
            assert said in ASSEMBLED or said in spoken, phrase


def test_a_phrase_with_values_is_translated_and_its_values_too() -> None:
    told = speak("zh").say("reserved: 8 training steps, 2 releases of noised counts")
    assert told == "预留：8 个训练步，2 次加噪计数的发布"
    assert speak("en").say("reserved: 8 training steps") == ("reserved: 8 training steps")


def test_what_a_person_typed_is_shown_as_typed() -> None:
    line = "ann refused plan churn-1 (0123456789ab) of requester 12ab: refused"
    told = speak("zh").say(line)
    assert told == "ann 拒绝了请求方 12ab 的计划 churn-1（0123456789ab），理由：refused"
    assert speak("zh").say("Let me think") == "Let me think"


def test_a_very_long_text_is_not_searched_for_phrases() -> None:
    text = "reserved: " + "x " * 5000
    assert speak("zh").say(text) == text


def test_every_code_has_words() -> None:
    from party_client.approvals import Cause, Outcome, Stand
    from party_client.egress import DISCLOSURE, ENROLMENT, REFUSED
    from party_client.roles import Role
    from privacy.messages import PARTY_MESSAGES, Treatment

    assert set(ROLES) == set(Role)
    assert set(STANDS) == set(Stand)
    assert set(CAUSES) == set(Cause)
    assert set(TREATMENTS) == set(TREATMENT_MEANINGS) == set(Treatment)
    outside = {"header", REFUSED, ENROLMENT, DISCLOSURE}
    assert set(KINDS) == {*outside, *(one.kind for one in PARTY_MESSAGES)}
    assert set(Outcome) <= set(NOTICES)


@pytest.mark.parametrize(
    ("cookie", "accept", "chosen"),
    [
        (None, None, "en"),
        ("zh", "en", "zh"),
        ("fr", "zh-CN,zh;q=0.9", "zh"),
        (None, "de-DE, zh-TW;q=0.5", "zh"),
        (None, "de", "en"),
    ],
)
def test_the_readers_choice_comes_before_the_browsers(
    cookie: str | None, accept: str | None, chosen: str
) -> None:
    assert choose_language(cookie, accept) == chosen


@pytest.mark.parametrize(
    "given", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "", "/a\nb"]
)
def test_a_reader_is_never_sent_elsewhere(given: str) -> None:
    assert local_path(given) == "/"
    assert local_path("/ledger?page=2") == "/ledger?page=2"


def test_shares_are_rounded_to_the_side_that_flatters_nobody() -> None:
    words = speak("en")
    assert words.share(0.00001) == "0.1 %"
    assert words.share(0) == "0.0 %"
    assert words.share(1) == "100.0 %"
    assert words.share_down(0.99999) == "99.9 %"
    assert words.share_down(1) == "100.0 %"
    assert words.epsilon(0.0001) == "0.001"
    assert words.number(1234567) == "1,234,567"


def test_what_is_kept_is_for_one_session_and_for_a_while() -> None:
    now = 0.0
    kept = Kept(lambda: now)
    handle = kept.keep("ann's", "value")
    assert kept.find("ann's", handle) == "value"
    assert kept.find("bob's", handle) is None
    now = KEPT_S + 1.0
    assert kept.find("ann's", handle) is None


def test_what_is_taken_is_gone_and_what_is_kept_is_bounded() -> None:
    kept = Kept(lambda: 0.0)
    handle = kept.keep("ann's", "secret")
    assert kept.take("ann's", handle) == "secret"
    assert kept.take("ann's", handle) is None
    first = kept.keep("ann's", 0)
    for number in range(MOST):
        kept.keep("ann's", number)
    assert kept.find("ann's", first) is None
