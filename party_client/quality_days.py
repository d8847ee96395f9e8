"""Quality rules about an event log's days and weeks: gaps, sudden changes, what a plan needs.

All figures come from one row a day, counted by DuckDB; nothing here sees a customer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from math import exp
from statistics import median

from models.catalogue import IS_RETURN
from models.tasks import label_window
from party_client.quality_looking import FEW, Finding, Looking
from party_client.quality_rows import STAND_IN_DATES

FRESH_DAYS = 45
_STRAYS = 0.001  # share of rows before the first day from which gaps and changes are looked for
_OPEN = 0.8  # share of its days with rows from which a weekday is an open one
_BEFORE = 8  # weeks that a day or a week is compared with
_ENOUGH = 20  # rows: below, chance alone doubles and halves a figure
_DAY_CHANGE = 3.0
_WEEK_CHANGE = 2.0
_AMOUNT_CHANGE = 5.0
_LOOK_BACK_DAYS = 365
_NAMED = 3  # days or weeks that a note names
RULES_OF_DAYS = (
    "swapped_dates",
    "day_gaps",
    "volume_days",
    "volume_weeks",
    "amount_level",
)


@dataclass(frozen=True)
class _Day:
    rows: int
    purchases: int
    magnitude: float  # sum of the logarithms of what was bought, in cents


def day_findings(look: Looking) -> Iterator[Finding]:
    """Rules about days and weeks, and whether the log covers what the plan needs."""
    if look.asked("freshness"):
        yield _fresh(look)
    if look.asked("covers_label_window", "covers_look_back"):
        yield from _covered(look)
    if not look.asked(*RULES_OF_DAYS):
        return
    bought = f"NOT {IS_RETURN} AND amount_cents > 0"
    rows = look.all(
        f"SELECT CAST(time AS DATE) AS day, count(*), count(*) FILTER ({bought}), "
        f"coalesce(sum(ln(amount_cents)) FILTER ({bought}), 0) FROM {look.view.events} "
        "GROUP BY day ORDER BY day"
    )
    days = {day: _Day(*counted) for day, *counted in rows if day not in STAND_IN_DATES}
    days = _without_strays(days)
    if not days:
        for rule in RULES_OF_DAYS:
            yield Finding(rule, None, note="no day to look at", note_zh="没有可查看的日期")
        return
    yield _swapped(days)
    yield _gaps(days)
    yield _daily(days)
    yield from _weekly(days)


def week_of(day: date) -> date:
    """The Monday of its week."""
    return day - timedelta(days=day.weekday())


def _without_strays(days: Mapping[date, _Day]) -> dict[date, _Day]:
    """Without the first few rows: a handful of rows years before the others is no gap."""
    total = sum(day.rows for day in days.values())
    seen, kept = 0, {}
    for day, counted in days.items():
        seen += counted.rows
        if seen > _STRAYS * total:
            kept[day] = counted
    return kept


def _fresh(look: Looking) -> Finding:
    assert look.last_day is not None
    age = (look.view.today - look.last_day).days
    return Finding(
        "freshness",
        1,
        int(age > FRESH_DAYS),
        f"the newest row is {age:,} days old" if age > FRESH_DAYS else "",
        f"最新记录距今 {age:,} 天" if age > FRESH_DAYS else "",
    )


def _covered(look: Looking) -> Iterator[Finding]:
    rules = ("covers_label_window", "covers_look_back")
    if look.plan is None:
        for rule in rules:
            yield Finding(rule, None, note="give --plan", note_zh="请用 --plan 指定计划")
        return
    assert look.first_day is not None
    assert look.last_day is not None
    cutoff = look.plan.task.cutoff_of(look.party)
    start, end = label_window(look.plan.task, cutoff)
    wanted = ((start, end), (cutoff - timedelta(days=_LOOK_BACK_DAYS), cutoff))
    for rule, (since, before) in zip(rules, wanted, strict=True):
        length = (before - since).days
        last = look.last_day + timedelta(days=1)
        held = (min(before, last) - max(since, look.first_day)).days
        note = note_zh = ""
        if held < length:
            held_days = f"{look.first_day} – {look.last_day}"
            needed = f"{since} – {before - timedelta(days=1)}"
            note = f"needs {needed}; the log holds {held_days}"
            note_zh = f"需要 {needed};日志为 {held_days}"
        yield Finding(rule, length, length - max(held, 0), note, note_zh)


def _swapped(days: Mapping[date, _Day]) -> Finding:
    if len(days) < FEW:
        return _short("swapped_dates")
    late = any(day.day > 12 for day in days)
    return Finding("swapped_dates", len(days), 0 if late else len(days))


def _gaps(days: Mapping[date, _Day]) -> Finding:
    first, last = min(days), max(days)
    span = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    opened = []
    for weekday in range(7):
        of_weekday = [day for day in span if day.weekday() == weekday]
        with_rows = sum(day in days for day in of_weekday)
        if of_weekday and with_rows >= _OPEN * len(of_weekday):
            opened.append(weekday)
    expected = [day for day in span if day.weekday() in opened]
    if len(span) < FEW or not expected:
        return _short("day_gaps")
    missing = [day for day in expected if day not in days]
    return Finding("day_gaps", len(expected), len(missing), *_named(missing))


def _daily(days: Mapping[date, _Day]) -> Finding:
    looked, sudden = 0, []
    for day, counted in days.items():
        before = [day - timedelta(weeks=number) for number in range(1, _BEFORE + 1)]
        if any(one not in days for one in before):
            continue
        usual = median(days[one].rows for one in before)
        if usual < _ENOUGH:
            continue
        looked += 1
        if not 1 / _DAY_CHANGE <= counted.rows / usual <= _DAY_CHANGE:
            sudden.append(day)
    if not looked:
        return _short("volume_days")
    return Finding("volume_days", looked, len(sudden), *_named(sudden))


def _weekly(days: Mapping[date, _Day]) -> Iterator[Finding]:
    weeks: dict[date, list[_Day]] = {}
    for day, counted in days.items():
        weeks.setdefault(week_of(day), []).append(counted)
    first, last = min(days), max(days)
    whole = {  # without the cut weeks at both ends
        monday: sum(day.rows for day in counted)
        for monday, counted in weeks.items()
        if monday >= first and monday + timedelta(days=6) <= last
    }
    looked, sudden = 0, []
    for monday, count in whole.items():
        before = [monday - timedelta(weeks=number) for number in range(1, _BEFORE + 1)]
        usual = median(whole.get(one, 0) for one in before) if before[-1] in whole else 0
        if usual < _ENOUGH:
            continue
        looked += 1
        if not 1 / _WEEK_CHANGE <= count / usual <= _WEEK_CHANGE:
            sudden.append(monday)
    if looked:
        yield Finding("volume_weeks", looked, len(sudden), *_named(sudden))
    else:
        yield _short("volume_weeks")
    levels = {}
    for monday, of_week in weeks.items():
        purchases = sum(day.purchases for day in of_week)
        if purchases >= _ENOUGH:
            levels[monday] = sum(day.magnitude for day in of_week) / purchases
    if len(levels) < 3:
        yield _short("amount_level")
        return
    usual_level = median(levels.values())
    moved = [
        monday
        for monday, level in levels.items()
        if not 1 / _AMOUNT_CHANGE <= exp(level - usual_level) <= _AMOUNT_CHANGE
    ]
    yield Finding("amount_level", len(levels), len(moved), *_named(moved))


def _short(rule: str) -> Finding:
    return Finding(
        rule,
        None,
        note="too short, or too few rows a day, to tell",
        note_zh="时间太短或每日记录太少,无法判断",
    )


def _named(days: list[date]) -> tuple[str, str]:
    """The newest of `days`, in both languages."""
    if not days:
        return "", ""
    newest = ", ".join(day.isoformat() for day in sorted(days)[-_NAMED:])
    return (
        (f"{newest}", f"{newest}")
        if len(days) <= _NAMED
        else (f"newest: {newest}", f"最近:{newest}")
    )
