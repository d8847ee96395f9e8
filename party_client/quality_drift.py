"""Quality rules about change: against an earlier check, or against the log's own past.

What a check leaves for the next one is a `Snapshot`: rows by week, and shares of categories. Names
of categories that few customers have are in neither a snapshot nor a note: such a name may be a
customer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import log

from models.catalogue import IS_RETURN
from party_client.quality import Snapshot
from party_client.quality_days import week_of
from party_client.quality_looking import Finding, Looking, shares

RECENT_DAYS = 28
UNSTABLE = 0.25  # the customary limit of the population stability index
_PAST_DAYS = 365
_NAMED_FROM = 30  # customers (approximately) from which a category is named
_MOST = 1_000  # categories: beyond, a column holds products rather than categories
_SETTLED_DAYS = 7  # late bookings may still change so many days before an earlier check
_LOOSE = 0.01  # share of a past week's rows that may come or go
_LEAST = 200  # rows in the newest days, below which shares are chance
_EXPECTED = 20  # rows
_FLOOR = 0.01  # smaller expected shares are put together: they make the index jump
_KEPT_WEEKS = 260
_TEXTS = ("category", "channel", "type")
_OTHERS = ""


@dataclass(frozen=True)
class Values:
    """A column's values with their rows: in the newest days, in the year before, and in all."""

    recent: Mapping[str, int]
    past: Mapping[str, int]
    known: tuple[str, ...]
    too_many: bool = False

    @property
    def recent_shares(self) -> dict[str, float]:
        """Of the newest days' rows, for a snapshot."""
        return {name: round(share, 6) for name, share in shares(self.recent).items()}


def same_data(first: Snapshot, second: Snapshot) -> bool:
    """Whether two snapshots are of one export, so that comparing them says nothing."""
    return (first.rows, first.last_day, dict(first.weeks), first.shares) == (
        second.rows,
        second.last_day,
        dict(second.weeks),
        second.shares,
    )


def event_values(look: Looking) -> dict[str, Values]:
    """The values of each mapped category column, and of `amount`: half-octaves, as text."""
    assert look.last_day is not None
    recent = look.last_day - timedelta(days=RECENT_DAYS - 1)
    past = recent - timedelta(days=_PAST_DAYS)
    columns = {name: name for name in _TEXTS if name in look.settings.columns}
    columns["amount"] = (
        f"CASE WHEN NOT {IS_RETURN} AND amount_cents > 0 THEN "
        "CAST(floor(2 * log2(amount_cents)) AS VARCHAR) END"
    )
    found = {}
    for name, value in columns.items():
        rows = look.all(
            f"SELECT {value} AS value, approx_count_distinct(customer), count(*) AS n, "
            f"count(*) FILTER (time >= DATE '{recent}'), "
            f"count(*) FILTER (time >= DATE '{past}' AND time < DATE '{recent}') "
            f"FROM {look.view.events} GROUP BY value HAVING value IS NOT NULL "
            f"ORDER BY n DESC, value LIMIT {_MOST + 1}"
        )
        found[name] = values_of(rows)
    return found


def values_of(rows: list[tuple[str, int, int, int, int]]) -> Values:
    """From (value, customers, rows, rows of the newest days, rows of the year before)."""
    if len(rows) > _MOST:
        return Values({}, {}, (), too_many=True)
    recent: dict[str, int] = {}
    past: dict[str, int] = {}
    known = []
    for value, customers, _, newest, before in rows:
        name = value if customers >= _NAMED_FROM else _OTHERS
        if name:
            known.append(name)
        recent[name] = recent.get(name, 0) + newest
        past[name] = past.get(name, 0) + before
    return Values(recent, past, tuple(sorted(known)))


def event_snapshot(look: Looking, values: Mapping[str, Values]) -> Snapshot:
    """Of an event log."""
    weeks = look.all(
        f"SELECT CAST(date_trunc('week', time) AS DATE) AS week, count(*) FROM {look.view.events} "
        f"GROUP BY week ORDER BY week DESC LIMIT {_KEPT_WEEKS}"
    )
    return Snapshot(
        taken_at=datetime.now(UTC),
        columns=dict(look.settings.columns),
        rows=sum(count for _, count in weeks),
        last_day=look.last_day,
        weeks=dict(sorted(weeks)),
        shares={name: one.recent_shares for name, one in values.items()},
        known={name: one.known for name, one in values.items()},
    )


def drift_findings(look: Looking, now: Snapshot, values: Mapping[str, Values]) -> Iterator[Finding]:
    """Of an event log: past weeks, new and vanished categories, their shares."""
    yield _history(look, now)
    texts = {name: one for name, one in values.items() if name != "amount"}
    yield named_change(look, texts)
    yield _mix(look, values)


def _history(look: Looking, now: Snapshot) -> Finding:
    if look.earlier is None or look.earlier.last_day is None:
        return _first("history_kept")
    before = look.earlier.weeks
    settled = week_of(look.earlier.last_day - timedelta(days=_SETTLED_DAYS + 6))
    # An export of a moving window loses its oldest weeks, and the first one is cut: no change.
    start = max(min(now.weeks), min(before))
    weeks = [week for week in before if start < week <= settled]
    changed = [
        week
        for week in weeks
        if abs(now.weeks.get(week, 0) - before[week]) > max(_LOOSE * before[week], 2)
    ]
    note = note_zh = ", ".join(week.isoformat() for week in sorted(changed)[-3:])
    if min(now.weeks) > min(before):
        later = (min(now.weeks) - min(before)).days // 7
        note = "; ".join(filter(None, (note, f"the log begins {later} weeks later than then")))
        note_zh = ";".join(filter(None, (note_zh, f"日志起点比当时晚 {later} 周")))
    return Finding("history_kept", len(weeks), len(changed), note, note_zh)


def named_change(look: Looking, texts: Mapping[str, Values]) -> Finding:
    """Categories that are new or gone, against the earlier check or the log's own past."""
    rule = "category_known"
    texts = {name: one for name, one in texts.items() if not one.too_many}
    if not texts:
        return Finding(
            rule,
            None,
            note="no column of categories is mapped, or each has too many values",
            note_zh="未对应类别列,或取值过多",
        )
    new: list[str] = []
    gone: list[str] = []
    looked = 0
    for name, one in texts.items():
        appeared, vanished = _within_log(one)
        seen = set(look.earlier.known.get(name, ())) if look.earlier else set()
        if look.earlier is not None:
            share = shares(one.recent)
            # One that has just passed the limit of those that are named is not new.
            appeared |= {value for value in one.known if share.get(value, 0) >= _FLOOR}
            vanished |= seen - set(one.known)
        new += sorted(appeared - seen)
        gone += sorted(vanished)
        looked += len(seen | set(one.known))
    against, against_zh = _against(look)
    note = "; ".join(
        [f"new: {_short(new)}"] * bool(new) + [f"gone: {_short(gone)}"] * bool(gone) + [against]
    )
    note_zh = ";".join(
        [f"新增:{_short(new)}"] * bool(new) + [f"消失:{_short(gone)}"] * bool(gone) + [against_zh]
    )
    return Finding(rule, looked, len(new) + len(gone), note, note_zh)


def _within_log(one: Values) -> tuple[set[str], set[str]]:
    """What stands in the newest days only, and what stands in the year before only.

    Only where chance does not explain it: twenty rows stand there, or were to be expected.
    """
    newest, before = sum(one.recent.values()), sum(one.past.values())
    if not newest or not before:
        return set(), set()
    appeared = {name for name in one.known if not one.past[name] and one.recent[name] >= _EXPECTED}
    vanished = {
        name
        for name in one.known
        if not one.recent[name] and one.past[name] / before * newest >= _EXPECTED
    }
    return appeared, vanished


def _mix(look: Looking, values: Mapping[str, Values]) -> Finding:
    indices = {}
    for name, one in values.items():
        if one.too_many or sum(one.recent.values()) < _LEAST:
            continue
        before: Mapping[str, float] = shares(one.past)
        if look.earlier is not None:
            before = look.earlier.shares.get(name, {})
        elif sum(one.past.values()) < _LEAST:
            continue
        if before:
            indices[name] = stability_index(before, shares(one.recent))
    return mix_finding(indices, *_against(look))


def mix_finding(indices: Mapping[str, float], against: str, against_zh: str) -> Finding:
    """From each column's stability index; none: nothing could be compared."""
    if not indices:
        return Finding(
            "category_mix",
            None,
            note="too few rows, or nothing to compare with",
            note_zh="记录太少,或没有可比较的数据",
        )
    unstable = [name for name, index in indices.items() if index > UNSTABLE]
    listed = sorted(indices.items(), key=lambda item: -item[1])[:4]
    figures = ", ".join(f"{name} {index:.2f}" for name, index in listed)
    return Finding(
        "category_mix",
        len(indices),
        len(unstable),
        f"{figures}; {against}",
        f"{figures};{against_zh}",
    )


def stability_index(expected: Mapping[str, float], actual: Mapping[str, float]) -> float:
    """The population stability index: the sum over values of (a - e) ln(a / e). 0 is no change.

    Values expected for less than one in a hundred rows count together.
    """
    merged: dict[str, list[float]] = {}
    for name in {*expected, *actual}:
        was, is_ = expected.get(name, 0.0), actual.get(name, 0.0)
        pair = merged.setdefault(name if was >= _FLOOR else _OTHERS, [0.0, 0.0])
        pair[0] += was
        pair[1] += is_
    floored = ((max(was, 1e-4), max(is_, 1e-4)) for was, is_ in merged.values())
    return sum((is_ - was) * log(is_ / was) for was, is_ in floored)


def _against(look: Looking) -> tuple[str, str]:
    if look.earlier is None:
        return (
            f"no earlier check: the newest {RECENT_DAYS} days against the year before",
            f"没有更早的检查:最近 {RECENT_DAYS} 天与此前一年相比",
        )
    day = look.earlier.taken_at.date().isoformat()
    return f"against the check of {day}", f"与 {day} 的检查相比"


def _first(rule: str) -> Finding:
    return Finding(rule, None, note="no earlier check", note_zh="没有更早的检查")


def _short(names: list[str]) -> str:
    printable = ("".join(c if c.isprintable() else "?" for c in name[:40]) for name in names[:5])
    shown = ", ".join(printable)
    return f"{shown}, …" if len(names) > 5 else shown
