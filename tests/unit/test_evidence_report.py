"""The human part of a pack: two languages that say the same, HTML and PDF that print everything."""

import re
import string
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest
from fontTools.ttLib import TTFont

from coordinator.evidence_render import as_html, as_pdf
from coordinator.evidence_report import LANGUAGES, Block, report, texts
from privacy.messages import PARTY_MESSAGES, Treatment

AT = datetime(2026, 3, 1, tzinfo=UTC)
FACTS: Mapping[str, Any] = {
    "federation": "market",
    "run": "run-1",
    "plan": {
        "digest": "ab" * 32,
        "name": "churn",
        "purpose": "marketing",
        "description": "",
        "task": {"kind": "churn", "horizon_days": 180, "eligible_days": 180},
        "features": {"catalogue": "events-1", "groups": [], "columns": []},
        "model": {"family": "mlp", "hidden": [8]},
        "training": {"rounds": 2, "local_steps": 4},
        "privacy": {"epsilon": 1.0, "evaluation_epsilon": 1.0},
        "cohort": {"minimum": 3},
        "publication": {"tags": ["churn_risk"]},
    },
    "requester": "0000-0000-0000-0000-0000",
    "cohorts": [],
    "parties": [],
    "earlier_runs": [],
    "two_party": False,
    "evaluation": None,
    "mechanisms": {},
    "recomputed": {},
    "everywhere": None,
}
SAID: Mapping[str, Any] = {
    "state": "failed",
    "message": "too few parties",
    "requester": "science",
    "created_at": "2026-03-01T00:00:00+00:00",
    "started_at": None,
    "ended_at": None,
    "membership": [],
    "software": {"version": "1", "python": "3.11", "count": 2, "bundle": "cd" * 32},
    "audit": {"result": "audit_none"},
}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    else:
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{number}]")


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_texts_with_the_same_fields() -> None:
    english, chinese = dict(leaves(dict(texts("en")))), dict(leaves(dict(texts("zh"))))
    assert set(english) == set(chinese)
    for path, text in english.items():
        assert text.strip()
        assert fields(text) == fields(chinese[path]), path
        letters = re.sub(r"[{][^}]*[}]|[^A-Za-z]", "", text)
        known = path.startswith(".privacy") or len(letters) < 3
        assert known or chinese[path] != text, path


def test_every_treatment_has_a_name_in_both_languages() -> None:
    for language in LANGUAGES:
        assert set(texts(language)["treatment"]) == {one.value for one in Treatment}


def test_the_font_has_every_character_of_the_texts() -> None:
    with (files("coordinator") / "evidence_fonts" / "report.ttf").open("rb") as file:
        known = TTFont(file).getBestCmap()
    for language in LANGUAGES:
        used = {one for _, text in leaves(dict(texts(language))) for one in text}
        # The circumflex of N-hat is printed beside its letter.
        assert {one for one in used if ord(one) not in known} <= {"\u0302"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_run_that_nobody_answered_has_a_report(language: str) -> None:
    blocks = report(FACTS, SAID, AT, language)
    said = " ".join(block.text for block in blocks)
    assert texts(language)["short"]["nobody"] in said
    assert texts(language)["privacy"]["nobody"] in said
    assert texts(language)["result"]["none"] in said
    assert "too few parties" in said


@pytest.mark.parametrize("audit", ["audit", "audit_broken"])
def test_what_the_audit_log_gave_is_told(audit: str) -> None:
    result = {"result": audit, "entries": 7, "head": "ef" * 32, "problem": "line 3: altered"}
    blocks = report(FACTS, {**SAID, "audit": result}, AT, "en")
    assert ("line 3: altered" in blocks[-1].text) == (audit == "audit_broken")
    assert ("7 entries" in blocks[-1].text) == (audit == "audit")


@pytest.mark.parametrize("name", ["<b>x</b>", "{run}", "'\"&", "</table><script>", "\x00\x1b[31m"])
def test_hostile_texts_stay_texts(name: str) -> None:
    facts = {**FACTS, "plan": {**FACTS["plan"], "description": name}}
    blocks = report(facts, SAID, AT, "en")
    page = as_html(blocks, "en").decode()
    assert "<b>x" not in page
    assert "<script" not in page
    assert as_pdf(blocks, "en", AT).startswith(b"%PDF-")


def test_a_character_that_the_font_lacks_is_named_by_its_number() -> None:
    # Of two texts that differ in such a character alone, the files differ.
    one, other = ([Block("title", "t"), Block("text", f"a{x}")] for x in ("\u9f98", "\u9f99"))
    assert as_pdf(one, "zh", AT) != as_pdf(other, "zh", AT)


def test_the_same_facts_at_the_same_time_are_the_same_bytes() -> None:
    for language in LANGUAGES:
        blocks = report(FACTS, SAID, AT, language)
        assert as_pdf(blocks, language, AT) == as_pdf(blocks, language, AT)
        assert as_html(blocks, language) == as_html(blocks, language)


def test_what_each_message_carries_is_told_for_every_type() -> None:
    sent = [{"type": kind.kind, "messages": 1, "bytes": 10} for kind in PARTY_MESSAGES]
    party = {
        "name": "bank",
        "fingerprint": "0",
        "decision": None,
        "rounds": 0,
        "evaluated": False,
        "receipt": False,
        "ledger": None,
        "sent": sent,
    }
    blocks = report({**FACTS, "parties": [party]}, SAID, AT, "en")
    table = next(one for one in blocks if "What it carries" in one.header)
    assert len(table.rows) == len(PARTY_MESSAGES)
    for kind, row in zip(PARTY_MESSAGES, table.rows, strict=True):
        assert all(name in row[-1] for name in kind.model_fields)
