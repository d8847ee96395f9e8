"""The quality report as a table and as a page: both languages, no script, nothing left out."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from party_client.quality import (
    FORMAT,
    PAGE_FILE,
    REPORT_FILE,
    REVIEW_FILE,
    QualityReport,
    QualityResult,
    Snapshot,
    load_report,
)
from party_client.quality_check import save
from party_client.quality_looking import Review
from party_client.quality_report import WORDS_ZH, page, percent, quality_lines, quality_table
from party_client.quality_rules import RULES
from privacy.errors import ConfigError

AT = datetime(2025, 1, 1, 12, 30, tzinfo=UTC)
NOW = Snapshot(AT, {"customer": "who"}, 100, date(2024, 12, 31), {date(2024, 12, 30): 100}, {}, {})


def result(rule: str, looked_at: int | None, failing: int, note: str = "") -> QualityResult:
    told = RULES[rule]
    return QualityResult(
        rule=rule,
        severity=told.severity,
        dimension=told.dimension,
        unit=told.unit,
        title=told.title,
        title_zh=told.title_zh,
        looked_at=looked_at,
        failing=failing,
        tolerated=told.tolerated,
        note=note,
        note_zh=note,
        advice=told.advice,
        advice_zh=told.advice_zh,
    )


REPORT = QualityReport(
    format=FORMAT,
    checked_at=AT,
    kind="events",
    plan=None,
    rows_read=12_345,
    rejected={"missing_customer": 45},
    customers=900,
    first_day=date(2024, 1, 1),
    last_day=date(2024, 12, 31),
    results=(
        result("customer_present", 12_345, 45),
        result("zero_amounts", 12_300, 6_150),
        result("refund_share", 12_300, 1),
        result("category_known", 3, 1, "new: <script>alert(1)</script>[red]"),
        result("history_kept", None, 0, "no earlier check"),
    ),
    now=NOW,
)


class _Page(HTMLParser):
    """What a screen reader and a browser would meet."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


def test_the_page_has_no_script_and_asks_for_nothing_outside() -> None:
    text = page(REPORT)
    parsed = _Page(text)
    assert parsed.open == []
    named = {tag for tag, _ in parsed.tags}
    assert named.isdisjoint({"script", "link", "img", "iframe", "object", "form", "a"})
    attributes = {name for _, attrs in parsed.tags for name in attrs}
    assert "style" not in attributes
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "href")}
    assert "url(" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_pages_own_policy_allows_its_one_style_sheet_and_nothing_else() -> None:
    text = page(REPORT)
    (policy,) = (
        attrs["content"]
        for tag, attrs in _Page(text).tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src ")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_every_table_of_the_page_has_a_caption_and_headers_for_rows_and_columns() -> None:
    parsed = _Page(page(REPORT))
    tables = parsed.count("table")
    assert tables == 4  # to look at, set aside, passed, not looked at
    assert parsed.count("caption") == parsed.count("thead") == tables
    scopes = [attrs.get("scope") for tag, attrs in parsed.tags if tag == "th"]
    assert scopes.count("row") == len(REPORT.results)
    assert None not in scopes
    html = next(attrs for tag, attrs in parsed.tags if tag == "html")
    assert html["lang"] == "en"


def test_the_page_says_everything_in_english_and_in_chinese() -> None:
    text = page(REPORT)
    for one in REPORT.results:
        assert one.title.split("(")[0].replace("'", "&#39;") in text
        assert one.title_zh in text
    for one in REPORT.results[:2]:
        assert one.advice in text.replace("&#34;", '"')
        assert one.advice_zh in text
    assert 'lang="zh-CN"' in text
    assert "99.6 %" in text


def test_every_word_of_a_rule_has_a_chinese_one() -> None:
    for rule in RULES.values():
        assert {rule.severity, rule.dimension, rule.unit} <= set(WORDS_ZH)


def test_the_table_stands_whole_on_a_narrow_terminal_and_shows_what_to_look_at_first() -> None:
    console = Console(width=80, file=io.StringIO())
    longest = result("refund_without_purchase", 12_345_678, 345_678)
    console.print(quality_table(replace(REPORT, results=(*REPORT.results, longest))))
    assert isinstance(console.file, io.StringIO)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines == [
        "data quality",
        "rule verdict looked at failing share of",
        "zero_amounts look 12,300 6,150 50.0 % rows",
        "category_known look 3 1 33.3 % categories",
        "customer_present set aside 12,345 45 0.4 % rows",
        "refund_share pass 12,300 1 < 0.1 % rows",
        "refund_without_purchase pass 12,345,678 345,678 2.8 % rows",
    ]


def test_lines_say_what_to_do_and_why_a_rule_was_not_looked_at() -> None:
    lines = quality_lines(REPORT)
    assert lines[0] == f"zero_amounts: Amounts are not zero. {RULES['zero_amounts'].advice}"
    assert lines[1].startswith("category_known (new: <script>alert(1)</script>[red]): Categories")
    assert lines[2:] == ["not looked at (no earlier check): history_kept"]


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (None, ""),
        (0, "0 %"),
        (1e-6, "< 0.1 %"),
        (0.125, "12.5 %"),
        (0.99999, "> 99.9 %"),
        (1, "100 %"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(share: float | None, words: str) -> None:
    assert percent(share) == words


def test_a_report_is_saved_for_its_owner_only_and_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "quality"
    review = Review()
    review.add("amount_outliers", 'C1, "x"', None, 5)
    save(REPORT, review, folder)
    assert load_report(folder / REPORT_FILE) == REPORT
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in (REPORT_FILE, PAGE_FILE, REVIEW_FILE):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert (folder / REVIEW_FILE).read_text().splitlines()[1] == 'amount_outliers,"C1, ""x""",,5'
    assert (folder / PAGE_FILE).read_text() == page(REPORT)


def test_no_customer_id_is_in_report_or_page(tmp_path: Path) -> None:
    review = Review()
    review.add("amount_outliers", "C-4711", None, 5)
    save(REPORT, review, tmp_path)
    assert "C-4711" in (tmp_path / REVIEW_FILE).read_text()
    for name in (REPORT_FILE, PAGE_FILE):
        assert "C-4711" not in (tmp_path / name).read_text()


def test_before_the_first_check_there_is_no_report(tmp_path: Path) -> None:
    assert load_report(tmp_path / REPORT_FILE) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "\xff"])
def test_a_broken_report_is_an_error_that_says_what_to_do(content: str, tmp_path: Path) -> None:
    path = tmp_path / REPORT_FILE
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match="remove it and run fedtags-party check"):
        load_report(path)


def test_a_report_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / REPORT_FILE
    path.write_text(json.dumps(replace(REPORT, format=2).as_json()))
    with pytest.raises(ConfigError, match="another version"):
        load_report(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "quality"
    blocked.write_text("a file stands where the folder belongs")
    with pytest.raises(ConfigError, match="quality report cannot be written"):
        save(REPORT, Review(), blocked)
