"""How a quality report looks: a table for the terminal, a page for a browser or a printer."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table

from party_client.quality import QualityReport, QualityResult, Verdict

ORDER: tuple[Verdict, ...] = ("look", "set aside", "pass", "not looked at")
WORDS_ZH = {
    "look": "需查看",
    "set aside": "已剔除",
    "pass": "通过",
    "not looked at": "未检查",
    "reject": "剔除",
    "warn": "提示",
    "completeness": "完整性",
    "validity": "有效性",
    "uniqueness": "唯一性",
    "timeliness": "及时性",
    "consistency": "一致性",
    "plausibility": "合理性",
    "rows": "行",
    "customers": "客户",
    "days": "天",
    "weeks": "周",
    "categories": "类别",
    "columns": "列",
    "values": "值",
    "log": "日志",
    "events": "事件日志",
    "table": "特征表",
}
_STYLES = {"look": "bold yellow", "set aside": "cyan", "pass": "green"}
_COLUMNS: dict[str, Literal["left", "right"]] = {
    "rule": "left",
    "verdict": "left",
    "looked at": "right",
    "failing": "right",
    "share": "right",
    "of": "left",
}


def quality_table(report: QualityReport) -> Table:
    """The rules that could judge, those to look at first: how much they looked at, and what fails.

    Narrow, so that it stands whole on 80 columns; `quality_lines` say the rest.
    """
    table = Table(box=None, title="data quality")
    for name, justify in _COLUMNS.items():
        table.add_column(name, justify=justify, no_wrap=True)
    for result in by_verdict(report):
        if result.looked_at is not None:
            table.add_row(
                result.rule,
                f"[{_STYLES[result.verdict]}]{result.verdict}[/]",
                f"{result.looked_at:,}",
                f"{result.failing:,}",
                percent(result.share),
                result.unit,
            )
    return table


def quality_lines(report: QualityReport) -> list[str]:
    """What to do about each rule to look at; then the rules that could not judge, and why."""
    lines = []
    for result in report.results:
        if result.verdict == "look":
            note = f" ({result.note})" if result.note else ""
            lines.append(f"{result.rule}{note}: {result.title}. {result.advice}")
    reasons: dict[str, list[str]] = {}
    for result in report.results:
        if result.looked_at is None:
            reasons.setdefault(result.note, []).append(result.rule)
    lines += [f"not looked at ({why}): {', '.join(rules)}" for why, rules in reasons.items()]
    return lines


def by_verdict(report: QualityReport) -> list[QualityResult]:
    """The results, those to look at first."""
    return sorted(report.results, key=lambda result: ORDER.index(result.verdict))


def percent(share: float | None) -> str:
    """A share in words: never 0 % where something fails, never 100 % where something passes."""
    if share is None:
        return ""
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    if share < 0.001:
        return "< 0.1 %"
    if share > 0.999:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def page(report: QualityReport) -> str:
    """The report as one HTML page in English and Chinese that needs nothing from outside.

    Its own policy forbids everything but its one style sheet, by hash: no script can run in it.
    """
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    verdicts = {
        verdict: [one for one in report.results if one.verdict == verdict] for verdict in ORDER
    }
    return (
        _environment()
        .get_template("quality.html")
        .render(
            report=report,
            verdicts=verdicts,
            zh=WORDS_ZH,
            percent=percent,
            style=Markup(style),  # noqa: S704 (the package's own file)
            digest=digest,
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("party_client"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _style() -> str:
    source, _, _ = _environment().loader.get_source(_environment(), "quality.css")  # type: ignore[union-attr]
    return source
