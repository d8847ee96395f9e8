"""Every fact of one customer in plain Python, to compare party_client/local_facts.py with.

Written from models/facts.py alone. An event is (day and time, cents, type, category, channel).
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Any

Event = tuple[datetime, int, str | None, str | None, str | None]
NEW_YEAR = {2024: date(2024, 2, 10), 2025: date(2025, 1, 29)}
QIXI = {2024: date(2024, 8, 10), 2025: date(2025, 8, 29)}


def customer_facts(
    events: Sequence[Event], market: Sequence[Event], gaps: Sequence[int], today: date
) -> dict[str, Any]:
    """`market`: everybody's events. `gaps`: everybody's gaps of the last 730 days."""
    bought = sorted(
        (e for e in events if not returned(e) and e[0].date() < today), key=lambda e: e[0]
    )
    year = [e for e in bought if age(e, today) <= 365]
    ages = sorted({age(e, today) for e in bought})
    cents: dict[int, int] = defaultdict(int)
    for one in bought:
        cents[age(one, today)] += one[1]

    def days(low: int, high: int) -> int:
        return sum(low <= one <= high for one in ages)

    def spend(low: int, high: int) -> float:
        return sum(value for one, value in cents.items() if low <= one <= high) / 100

    own = [later - one for one, later in itertools.pairwise(ages) if later <= 730]
    everyone = sorted(gaps)
    known = len(own) >= 3
    back = [e for e in events if returned(e) and age(e, today) <= 365 and e[0].date() < today]
    clock = [e for e in year if e[0].time() != datetime.min.time()]
    recent, earlier = days(1, 90), days(91, 180)
    year_days = days(1, 365)
    baskets = [value / 100 for one, value in cents.items() if one <= 365]
    found: dict[str, Any] = {
        "recency_days": ages[0],
        "tenure_days": ages[-1],
        "purchase_days_total": len(ages),
        "purchase_days_30": days(1, 30),
        "purchase_days_90": recent,
        "purchase_days_before_90": earlier,
        "purchase_days_365": year_days,
        "active_months_365": len({(one - 1) // 30 for one in ages if one <= 365}),
        "purchases_365": len(year),
        "lines_per_day_365": ratio(len(year), year_days),
        "spend_90": spend(1, 90),
        "spend_before_90": spend(91, 180),
        "spend_365": spend(1, 365),
        "spend_total": spend(1, 10**6),
        "basket_365": ratio(spend(1, 365), year_days),
        "biggest_basket_365": max(baskets, default=None),
        "biggest_share_365": ratio(max(baskets), spend(1, 365)) if baskets else None,
        "frequency_change": ratio(recent, earlier),
        "spend_change": ratio(spend(1, 90), spend(91, 180)),
        "basket_change": ratio(ratio(spend(1, 90), recent), ratio(spend(91, 365), days(91, 365))),
        "year_change": ratio(spend(1, 365), spend(366, 730)),
        "gap_deviation": statistics.pstdev(own) / statistics.mean(own) if known else None,
        "gap_median": statistics.median(own) if known else None,
        "gap_usual": between(own, 0.75) if known else reached(everyone, 0.75, 365),
        "gap_long": between(own, 0.9) if known else reached(everyone, 0.9, 365),
        "gap_before_last": ages[1] - ages[0] if len(ages) > 1 else None,
        "second_after_days": ages[-1] - ages[-2] if len(ages) > 1 else None,
        "due_in_days": statistics.median(own) - ages[0] if known else None,
        "timed_purchases_365": len(clock),
        "returns_365": len(back),
        "return_share_365": ratio(len(back), len(back) + len(year)),
        "first_year": str(bought[0][0].year),
        "first_in_sale": int(in_sale(bought[0][0].date())),
        "channel_switches": switches(bought, today),
    }
    hour_in: dict[str, Callable[[int], bool]] = {
        "night_share": lambda hour: hour >= 22 or hour < 6,
        "early_share": lambda hour: 6 <= hour < 9,
        "lunch_share": lambda hour: 11 <= hour < 14,
        "evening_share": lambda hour: 18 <= hour < 22,
    }
    for name, inside in hour_in.items():
        found[name] = ratio(sum(inside(e[0].hour) for e in clock), len(clock))
    parts = ["night"] * 6 + ["morning"] * 6 + ["afternoon"] * 6 + ["evening"] * 4 + ["night"] * 2
    names = ["night", "morning", "afternoon", "evening"]
    found["top_daypart"] = most([parts[e[0].hour] for e in clock], names)
    week = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    found["top_weekday"] = most([week[e[0].weekday()] for e in year], week)
    quarters = [f"q{(e[0].month + 2) // 3}" for e in year]
    found["top_quarter"] = most(quarters, ["q1", "q2", "q3", "q4"])
    found["top_quarter_share"] = ratio(max(Counter(quarters).values(), default=0), len(year))
    day_in: dict[str, Callable[[date], bool]] = {
        "weekend_share": lambda day: day.weekday() >= 5,
        "payday_share": lambda day: day.day >= 25 or day.day <= 5,
        "double_11_share": lambda day: day.month == 11 and day.day <= 12,
        "mid_year_share": lambda day: day.month == 6 and day.day <= 20,
        "new_year_share": lambda day: any(
            timedelta(1) <= first - day <= timedelta(21) for first in NEW_YEAR.values()
        ),
        "golden_week_share": lambda day: day.month == 10 and day.day <= 7,
        "gift_share": lambda day: (
            (day.month == 2 and 8 <= day.day <= 14)
            or (day.month == 5 and 5 <= day.day <= 20)
            or any(timedelta(0) <= last - day <= timedelta(6) for last in QIXI.values())
        ),
        "december_share": lambda day: day.month == 12,
        "sale_share": in_sale,
    }
    for name, holds in day_in.items():
        found[name] = ratio(sum(holds(e[0].date()) for e in year), len(year))
    for place, word in ((3, "category"), (4, "channel")):
        found |= words(bought, place, word, today)
    prices: dict[str | None, list[int]] = defaultdict(list)
    for one in market:
        if not returned(one) and one[0].date() < today and age(one, today) <= 365:
            prices[one[3]].append(one[1])
    limits = {
        key: (reached(sorted(one), 0.5, 0), reached(sorted(one), 0.8, 0))
        for key, one in prices.items()
    }
    found["low_price_share"] = ratio(sum(e[1] < limits[e[3]][0] for e in year), len(year))
    found["high_price_share"] = ratio(sum(e[1] > limits[e[3]][1] for e in year), len(year))
    return found


def words(bought: Sequence[Event], place: int, word: str, today: date) -> dict[str, Any]:
    def ranked(low: int, high: int, by_amount: bool = False) -> list[str]:
        lines: dict[str, list[int]] = defaultdict(list)
        for one in bought:
            if one[place] is not None and low <= age(one, today) <= high:
                lines[str(one[place])].append(one[1])
        keys = {key: (len(one), sum(one)) for key, one in lines.items()}
        if by_amount:
            keys = {key: (cents, n) for key, (n, cents) in keys.items()}
        return sorted(keys, key=lambda key: (-keys[key][0], -keys[key][1], key))

    year = ranked(1, 365)
    recent, earlier = ranked(1, 90), ranked(91, 365)
    known = [e for e in bought if e[place] is not None and age(e, today) <= 365]
    moved = int(recent[0] != earlier[0]) if recent and earlier else None
    first = min((e[0], e[place] is None, e[place] or "") for e in bought)[2] or None
    plural = {"category": "categories", "channel": "channels"}[word]
    share = ratio(sum(e[place] == year[0] for e in known), len(known)) if year else None
    found: dict[str, Any] = {
        f"{plural}_365": len(year) or None,
        f"top_{word}": year[0] if year else None,
        f"top_{word}_share": share,
        f"{word}_moved": moved,
        f"first_{word}": first,
    }
    if word == "category":
        old = {e[place] for e in bought if age(e, today) > 90}
        new = {e[place] for e in bought if e[place] is not None} - old
        spent = ranked(1, 365, by_amount=True)
        found |= {
            "second_category": year[1] if len(year) > 1 else None,
            "top_spend_category": spent[0] if spent else None,
            "recent_category": recent[0] if recent else None,
            "new_categories_90": len(new) if age(bought[0], today) > 90 else None,
        }
    return found


def switches(bought: Sequence[Event], today: date) -> float | None:
    """Of a day with several channels the first by name counts."""
    by_day: dict[int, str] = {}
    for one in bought:
        if one[4] is not None and age(one, today) <= 365:
            by_day[age(one, today)] = min(by_day.get(age(one, today), one[4]), one[4])
    row = [by_day[one] for one in sorted(by_day)]
    if len(row) < 3:
        return None
    return sum(a != b for a, b in itertools.pairwise(row)) / (len(row) - 1)


def own_gaps(events: Sequence[Event], today: date) -> list[int]:
    ages = sorted({age(e, today) for e in events if not returned(e) and e[0].date() < today})
    return [later - one for one, later in itertools.pairwise(ages) if later <= 730]


def returned(event: Event) -> bool:
    return event[1] < 0 or event[2] in ("return", "refund")


def age(event: Event, today: date) -> int:
    return (today - event[0].date()).days


def in_sale(day: date) -> bool:
    return (day.month == 6 and day.day <= 20) or (day.month == 11 and day.day <= 12)


def ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def most(found: Sequence[str], order: Sequence[str]) -> str | None:
    counts = Counter(found)
    return max(order, key=lambda one: counts[one]) if counts else None  # of equals the first


def between(values: Sequence[float], share: float) -> float:
    """The quantile with linear interpolation between the two nearest."""
    row = sorted(values)
    at = share * (len(row) - 1)
    low = int(at)
    high = min(low + 1, len(row) - 1)
    return row[low] + (at - low) * (row[high] - row[low])


def reached(row: Sequence[int], share: float, otherwise: int) -> int:
    """The smallest value that this share of all does not pass."""
    for place, value in enumerate(row, start=1):
        if place >= share * len(row) - 1e-9:
            return value
    return otherwise
